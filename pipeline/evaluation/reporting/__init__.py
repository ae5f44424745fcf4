"""What a report tells of runs, gathered from what commands keep: tables, curves, pairs to read, provenance.

Imports only from pipeline.evaluation, and from heads and cache.
"""
