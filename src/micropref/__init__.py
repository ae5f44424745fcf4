"""micropref: learn whose preference a reward is.

Example:
    import micropref
    store = micropref.Store("data")

The folders `cache`, `heads` and `pipeline` and the module `cli` lie at the top of the repository and are linked here:
they are imported as `micropref.cache` and so on, and clash with no folder of a user's own.

"""

from micropref.cache.errors import BadInput, Failure, Interrupted
from micropref.pipeline.api.run import Run
from micropref.pipeline.api.store import Store

__all__ = ["BadInput", "Failure", "Interrupted", "Run", "Store"]
