"""Pure tensors: the mixture model, and in the folders its fits, methods and metrics.

Imports cache, and never transformers.
"""
