"""s² of shrunk for the people of a run: how far choices may move its weights. Chosen once, then kept with the run."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from micropref.cache.atomic import write_bytes
from micropref.cache.choices import TRAIN
from micropref.cache.datasets import Dataset, open_dataset
from micropref.cache.errors import BadInput, Failure
from micropref.cache.keys import signed, unsigned
from micropref.cache.runs.data import data_is_elsewhere
from micropref.cache.store import StoreFolder
from micropref.pipeline.people.frozen_run import Frozen
from micropref.pipeline.people.strength import choose_strength
from micropref.pipeline.rewards.scoring.taste import RewardHeads

FILE = "variance.json"
"""Its name in a run's folder: choosing takes half a minute on some thousand people."""
COUNTS = (1, 2, 4, 8, 16)
"""Numbers of choices that s² is chosen for."""
DEFAULT_STRENGTH = 0.3
"""s² where the run's data names nobody to choose it on: the middle of what is tried."""


HARDLY = 0.03
"""s² up to which a dozen choices hardly move weights."""


def check_strength(strength: float | None) -> None:
    """Raise BadInput unless s² is a number above 0, or not given."""
    if strength is not None and not (math.isfinite(strength) and strength > 0):
        raise BadInput(f"strength is {strength}: expected a number above 0")


def variance_told(strength: float, chosen_on: str) -> list[str]:
    """Return what to say of s², with a warning where choices will change next to nothing."""
    lines = [f"a person's weights: shrunk, s² = {strength:g}, {chosen_on}"]
    if strength <= HARDLY:
        lines.append(
            "warning: with so small an s² a person's choices hardly move the weights: there, choices added next to "
            "nothing to what the router knew, as where contexts say whose taste it is; a run of `train --latent user` "
            "learns more from choices, and `strength` sets s²"
        )
    return lines


def choose_variance(store: StoreFolder, heads: RewardHeads, strength: float | None = None) -> tuple[float, str]:
    """Return s² as given, else by validation people of the run's own data; and what it was chosen on.

    A run that `adapt` made for users by shrunk keeps its own. Raises BadInput for one that is not above 0.
    """
    check_strength(strength)
    if strength is not None:
        return strength, "as asked for"
    adapted = heads.kept.groups
    if (
        adapted is not None
        and adapted.record["method"] == "adapt-shrunk"
        and adapted.record["settings"]["by"] == "user"
    ):
        return float(adapted.record["settings"]["strength"]), f"run {adapted.id}"
    if data_is_elsewhere(store, heads.run):
        return DEFAULT_STRENGTH, f"default: run {heads.run.id} came without its data"
    dataset = open_dataset(store, heads.run.record["data"])
    if TRAIN not in dataset.splits():
        return _default(dataset)
    path = heads.run.folder / FILE
    of: dict[str, object] = {"counts": list(COUNTS), "data_digest": dataset.digest(TRAIN)}
    known = _read(path, of)
    if known is not None:
        return known
    frozen = Frozen(replace(heads.fitted, reading=replace(heads.fitted.reading, units=None)), dataset)
    try:
        chosen = choose_strength(frozen, "user", "shrunk", COUNTS, 0), f"validation users of {dataset.name}"
    except BadInput:
        chosen = _default(dataset)
    value = {**of, "strength": chosen[0], "chosen_on": chosen[1]}
    with suppress(Failure):  # a store that is read-only: then it is chosen every time
        write_bytes(path, json.dumps(signed(value), indent=1).encode())
    return chosen


def _default(dataset: Dataset) -> tuple[float, str]:
    return DEFAULT_STRENGTH, f"default: no validation users in {dataset.name}"


def _read(path: Path, of: dict[str, object]) -> tuple[float, str] | None:
    """Return what was chosen earlier; None: nothing, on other data, or not whole."""
    try:
        value = unsigned(json.loads(path.read_bytes()))
        current = {name: value[name] for name in of} == of
        return (float(value["strength"]), str(value["chosen_on"])) if current else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
