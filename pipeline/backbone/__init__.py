"""Pretrained transformers: found, loaded, and run on prefix trees, packs or padded batches.

Imports pipeline.text.
"""
