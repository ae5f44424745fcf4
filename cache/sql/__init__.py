"""One read-only query over the store's views, in a process of its own.

Imports cache and cache.vectors.
"""
