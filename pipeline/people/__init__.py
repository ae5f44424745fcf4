"""One person or context at a time: adapt, online prediction, ask, diagnose.

Imports pipeline.evaluation and pipeline.training.
"""
