"""A run as a model folder that other tools load.

Imports pipeline.rewards.scoring and what that stands on.
"""
