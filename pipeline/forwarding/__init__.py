"""Shards of texts become stored vectors: passes over a backbone, and the worker that runs them.

Imports pipeline.backbone and what is below it.
"""
