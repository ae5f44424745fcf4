"""Keeping a store healthy: verify, garbage collection, leases, the listing.

Imports cache and cache.vectors.
"""
