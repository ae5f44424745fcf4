"""Rewards of new texts by a run's heads.

Imports pipeline.training, pipeline.forwarding, pipeline.text, pipeline.sources, heads and cache.
"""
