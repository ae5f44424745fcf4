"""People of a run who choose while it is used: their choices, the weights learned from these, and forgetting them.

Imports pipeline.rewards.scoring, pipeline.people and what these stand on.
"""
