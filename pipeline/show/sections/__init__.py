"""What a page tells of runs, comparisons, sweeps and diagnoses: sections and figures, made of their numbers.

Imports from pipeline.show.page, pipeline.show and floors below.
"""
