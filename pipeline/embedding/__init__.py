"""The `embed` stage: plan, forward what the store lacks, link pairs to vectors, price it.

Imports pipeline.forwarding and pipeline.sources.
"""
