"""Keeping a store healthy and known: verify, garbage collection, leases, removal, the listing, `show`, `doctor`.

Imports cache and cache.vectors.
"""
