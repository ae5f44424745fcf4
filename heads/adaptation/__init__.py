"""Weights and routers learned from few choices, heads frozen.

Imports heads.methods and what is below it.
"""
