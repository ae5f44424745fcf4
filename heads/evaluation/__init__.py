"""How good predictions are and how sure that is: metrics, intervals, comparisons, model choice.

Imports none of ours.
"""
