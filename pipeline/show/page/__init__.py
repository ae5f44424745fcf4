"""Pages to look at: figures as data, drawn into one HTML file that asks for nothing.

Imports from cache only.
"""
