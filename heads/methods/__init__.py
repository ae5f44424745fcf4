"""Every method that `train --method` and `compare` know, one file each.

Imports heads.fitting and what is below it.
"""
