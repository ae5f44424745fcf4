"""Data sets by name: what is known of public ones, their rows' adapters, and where the hub's cache keeps them.

Imports from cache, `pipeline.sources` and `pipeline.named.adapters`.
"""
