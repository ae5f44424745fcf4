"""micropref: learn whose preference a reward is.

The folders `cache`, `heads` and `pipeline` and the module `cli` lie at the top of the repository and are linked here:
they are imported as `micropref.cache` and so on, and clash with no folder of a user's own.
"""
