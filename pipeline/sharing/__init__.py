"""Runs and vectors for other people: packs, what is pushed and pulled, and what may leave a store at all.

Imports from cache, pipeline.named, the methods' registry and pipeline.rewards.people. Making a pack needs no torch.
"""
