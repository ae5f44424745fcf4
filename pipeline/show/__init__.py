"""Reports as text for a terminal, a file for each command.

Imports the stages' reports.
"""
