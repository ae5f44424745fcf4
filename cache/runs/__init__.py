"""Runs on disk: their records and tensors, names and notes, and people's weights.

Imports the files of cache.
"""
