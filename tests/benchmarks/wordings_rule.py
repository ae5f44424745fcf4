"""The rule by which `train --router-input auto` chooses, on draws: part of `make bench-wordings`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import polars as pl

from micropref.cache.choices import RouterInput
from micropref.cache.vectors.pair_features import PairFeatures
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.training.choose_width import project
from micropref.pipeline.training.data import FitData
from micropref.pipeline.training.restarts import fit_restarts
from micropref.pipeline.training.router_choice import RouterChoice, Rule
from tests.benchmarks.wordings_draws import Draw, Pairs
from tests.benchmarks.wordings_recipes import Input, read_input
from tests.benchmarks.wordings_vectors import Vectors

NAMES: dict[RouterInput, str] = {"context": "alone", "context,prompt": "both"}
"""What the two inputs are called here."""


@dataclass(frozen=True)
class Decision:
    """What the rule takes."""

    choice: str
    """Name of the input."""
    found: RouterChoice


def decide(draw: Draw, vectors: Vectors, setting: FitSetting, restarts: int) -> Decision:
    """Return the input that the rule takes, from fit and validation pairs alone."""
    settings: Sequence[FitSetting] = [replace(setting, seed=seed) for seed in range(restarts)]
    alone, both = (_fit_data(draw, vectors, reads, read_input(name, draw, vectors)) for reads, name in NAMES.items())
    plan = FitPlan()
    first = fit_restarts(alone, project(alone, "none", setting, plan), settings, plan, merge=True)
    _, choice = Rule(list(settings), plan, merge=True).apply(first, both)
    return Decision(NAMES[choice.reads], choice)


def _fit_data(draw: Draw, vectors: Vectors, reads: RouterInput, read: Input) -> FitData:
    """Return a draw as `train` has it, from no store."""
    width = vectors.prompts.shape[1]
    parts = (width,) * (read.rows.shape[1] // width)
    fitting, validation = (
        PairFeatures(_table(pairs), pairs.delta(vectors), read.rows, rows, 0, parts)
        for pairs, rows in ((draw.fit, read.fit), (draw.validation, read.validation))
    )
    nowhere = cast("Any", SimpleNamespace(width=width))
    return FitData(nowhere, nowhere, reads, "plain", fitting, validation)


def _table(pairs: Pairs) -> pl.DataFrame:
    """Return what the rule reads of pairs: a context in two parts is one of its own."""
    mixed = zip(pairs.context.tolist(), pairs.other.tolist(), pairs.share.tolist(), strict=True)
    return pl.DataFrame(
        {
            "prompt_id": [str(prompt) for prompt in pairs.prompt.tolist()],
            "context": [f"{one}, {share:.9f} of {other}" for one, other, share in mixed],
        }
    )
