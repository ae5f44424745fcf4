"""Published benchmarks of reward models: their rows, their scores by their own rules, and their files of results.

Imports pipeline.rewards.scoring, pipeline.named, pipeline.sources, heads and cache.
"""
