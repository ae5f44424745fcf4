"""The floor: keys, atomic files, commits, data sets, runs and people on disk.

Imports none of ours.
"""
