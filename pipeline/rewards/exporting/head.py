"""One reward head from the heads of a run: what they weigh for one taste, the same for every prompt.

N pairs, K heads, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl
import torch

from micropref.cache.choices import TRAIN
from micropref.cache.datasets import Dataset, open_dataset, read_table
from micropref.cache.runs.data import data_is_elsewhere
from micropref.cache.store import StoreFolder
from micropref.heads.methods.base import Scores
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.taste import Taste

AVERAGED_PROMPTS = 256
"""Stored prompts at most over which weights are averaged where they depend on the prompt."""
MOST_PAIRS = 5000
"""Validation pairs at most on which the head is compared with the run."""


@dataclass(frozen=True)
class FixedHead:
    """One reward head, and what fixing the weights of several costs."""

    mix: torch.Tensor
    """[K] float64: what each head is multiplied by; their sum is the one head."""
    weights: tuple[float, ...]
    """[K] π; mix is π, divided by a head's spread where the taste does that."""
    averaged_over: int
    """Prompts over which π is a mean; 0: π does not depend on the prompt."""
    pairs: int
    """Validation pairs of this taste; 0: none, so that accuracies are not known."""
    routed_accuracy: float | None
    """Of the run as it is on these."""
    averaged_accuracy: float | None
    """Of the run with π in place of its own weights."""
    exported_accuracy: float | None
    """Of this one head."""


def fixed_head(store: StoreFolder, engine: ScoringEngine, taste: Taste) -> FixedHead:
    """Return the head that stands for a run and one taste. Raises BadInput for a taste that the run does not know."""
    heads = engine.heads
    heads.check(taste)
    elsewhere = data_is_elsewhere(store, heads.run)
    dataset = None if elsewhere else open_dataset(store, heads.run.record["data"])
    known = _validation(dataset, taste)
    weights, divisor, averaged_over = _weights(engine, known, taste)
    mix = weights if divisor is None else weights / divisor
    accuracies = _accuracies(engine, dataset, known.head(MOST_PAIRS), taste, weights, mix)
    return FixedHead(mix, tuple(weights.tolist()), averaged_over, min(known.height, MOST_PAIRS), *accuracies)


def _validation(dataset: Dataset | None, taste: Taste) -> pl.DataFrame:
    """Return the pairs that a taste is about which no head was fitted on."""
    if dataset is None or TRAIN not in dataset.splits():
        return pl.DataFrame(schema={"pair_id": pl.String, "prompt": pl.String})
    columns = ["pair_id", "prompt_id", "prompt", "part", "attribute", "context", "user"]
    table = pl.concat([read_table(part, "pairs", columns) for part in dataset.of_split(TRAIN)])
    table = table.filter(pl.col("part") == "validation")
    for name in ("attribute", "context", "user"):
        wanted = getattr(taste, name)
        if wanted is not None:
            table = table.filter(pl.col(name) == wanted)
    return table


def _weights(engine: ScoringEngine, known: pl.DataFrame, taste: Taste) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """Return π [K], what rewards are divided by first [K], and over how many prompts π is a mean."""
    prompts = known["prompt"].unique(maintain_order=True).to_list() or [""]
    depends = engine.heads.routed and engine.heads.fitted.reading.router_input != "context" and taste.weights is None
    asked = [Candidates(prompt, ("",), taste) for prompt in prompts[: AVERAGED_PROMPTS if depends else 1]]
    found = [one.weights for one in engine.score(asked) if one.weights is not None]
    weighed = engine.heads.divisor(taste)
    return torch.tensor(found, dtype=torch.float64).mean(0), weighed, len(found) if depends else 0


def _accuracies(
    engine: ScoringEngine,
    dataset: Dataset | None,
    known: pl.DataFrame,
    taste: Taste,
    weights: torch.Tensor,
    mix: torch.Tensor,
) -> tuple[float | None, float | None, float | None]:
    """Return the accuracy of the run, of the run with fixed weights, and of one head, on validation pairs."""
    if dataset is None or known.is_empty():
        return None, None, None
    fitted = engine.heads.fitted
    wanted = pl.col("pair_id").is_in(known["pair_id"].implode())
    _, pairs = replace(fitted.reading, units=None).pairs(dataset, fitted.features, TRAIN, wanted)
    own = fitted.model.scores(pairs)
    routed = engine.heads.personal(taste, own)
    margins = own.margins.double()
    divided = margins * torch.where(weights > 0, mix / weights, 1.0)
    fixed = Scores(divided, weights.log().expand(len(pairs), -1), routed.combine)
    return _accuracy(routed.log_odds()), _accuracy(fixed.log_odds()), _accuracy(margins @ mix)


def _accuracy(log_odds: torch.Tensor) -> float:
    """Return the share of pairs on the right side, a tie counting half."""
    return float(((log_odds > 0).double() + (log_odds == 0).double() / 2).mean())
