"""The `eval` stage: scores of a run on a split, and accuracies with intervals.

Imports pipeline.training.
"""
