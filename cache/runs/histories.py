"""How a fit went, epoch by epoch: rows of the view `history` from what a record keeps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from micropref.cache.keys import finite

SERIES = {
    "train_nll": "train_history",
    "validation_nll": "validation_history",
    "validation_accuracy": "validation_accuracy_history",
}
"""Columns, and the lists of a record that they are in; records of earlier versions lack the last."""


FITTED = ("run", "method", "k", "lam", "seed")
"""What a record says of a fit, next to each epoch."""


def run_history(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a run's own fit, from its run.json."""
    fitted = {name: record.get(name) for name in FITTED}
    return [fitted | row for row in history_rows(record)]


def history_rows(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield epoch (from 1), train_nll, validation_nll and validation_accuracy of each epoch that a record tells of.

    Example:
        >>> list(history_rows({"train_history": [0.7], "validation_history": [0.6]}))
        [{'epoch': 1, 'train_nll': 0.7, 'validation_nll': 0.6, 'validation_accuracy': None}]

    """
    series = [record.get(name) or [] for name in SERIES.values()]
    for epoch, values in enumerate(itertools.zip_longest(*series), 1):
        yield {"epoch": epoch, **finite(dict(zip(SERIES, values, strict=True)))}
