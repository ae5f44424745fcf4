"""The `train` and `sweep` stages: data for a fit, its memory, its results as runs.

Imports heads and cache.
"""
