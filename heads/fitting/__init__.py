"""The batched fit: losses, minibatches, solvers, projection.

Imports heads, heads.evaluation and cache.
"""
