"""The store from Python: everything that the commands do, by the same names, with values instead of text."""

from __future__ import annotations

from micropref.pipeline.api.asking import Asking
from micropref.pipeline.api.embedding import Embedding
from micropref.pipeline.api.fitting import Fitting
from micropref.pipeline.api.importing import Importing
from micropref.pipeline.api.reporting import Reporting
from micropref.pipeline.api.scoring import Scoring
from micropref.pipeline.api.sharing import Sharing
from micropref.pipeline.api.using import Using


class Store(Embedding, Importing, Fitting, Using, Scoring, Sharing, Asking, Reporting):
    """A folder of features, data sets and runs, and what can be done with it.

    Reports are dataclasses; in a terminal and in a notebook they read as the command of the same name prints them.

    Example:
        store = Store("data")
        store.embed("pairs.jsonl", "mine", split_by_prompt=0.2)
        trained = store.train("mine", k=5)
        store.evaluate(trained.run)
        store.sql("SELECT attribute, head, accuracy FROM head_accuracy")

    """
