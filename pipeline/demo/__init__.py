"""Generated data with known groups, and the story that `micropref demo` tells with it.

Imports the stages.
"""
