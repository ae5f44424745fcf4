"""The `compare` stage: all methods on the same pairs, next to the paper's figures.

Imports pipeline.routing and what is below it.
"""
