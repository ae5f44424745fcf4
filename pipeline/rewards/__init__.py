"""Runs as reward models: scores of new texts, and the run in other tools.

Imports what opens runs, reads sources and forwards texts.
"""
