"""Rows of files become pairs, ratings and rejects, and these become parts of a data set.

Imports cache.
"""
