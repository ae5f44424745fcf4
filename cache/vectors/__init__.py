"""Vectors on disk and in memory: the Parquet layout, shards looked up by key, pairs as tensors.

Imports cache.
"""
