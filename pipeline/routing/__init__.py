"""The `route` stage: a router re-fitted on a few pairs with contexts.

Imports pipeline.people and what is below it.
"""
