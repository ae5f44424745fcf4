"""One small file for each public data set: what is known of it, and how its rows are read.

Imports from cache and `pipeline.sources`.
"""
