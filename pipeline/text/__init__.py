"""Pairs become token ids: templates, special tokens, truncation.

Imports pipeline.sources and cache.
"""
