"""A run behind HTTP: rewards, choices of people, and the routes that existing clients call.

Imports pipeline.rewards.people, pipeline.rewards.scoring and what these stand on.
"""
