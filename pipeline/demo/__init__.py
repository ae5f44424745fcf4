"""Generated data with known groups, and the walk-through that `micropref demo` runs on it.

Imports the stages.
"""
