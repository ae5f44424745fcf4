"""The public Python API: what `import micropref` gives.

Imports the stages and pipeline.show, all of them inside functions, so that importing it stays quick.
"""
