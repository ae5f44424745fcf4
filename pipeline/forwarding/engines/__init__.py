"""Where workers run: in this process, in several, or on a Ray cluster.

Imports pipeline.forwarding.
"""
