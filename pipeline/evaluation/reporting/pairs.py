"""Which pairs a report shows: those that say most of a head, those heads disagree on, those a run gets wrong.

N scored pairs, K heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl
import torch

from micropref.cache.datasets import Dataset
from micropref.heads.methods.base import Scores

EXAMPLES = 3
"""Pairs of each head that its card shows."""
EACH = 60
"""Pairs of each attribute and order that may be shown, where there is room for their texts."""
MOST = 400
"""Pairs to read, at most."""
ROOM = 500_000
"""Characters of all pairs to read."""
LONGEST = 12_000
"""Characters of a text that count as shown."""
TEXTS = ["pair_id", "prompt", "chosen", "rejected"]


@dataclass(frozen=True)
class ShownPair:
    """A pair with what the heads say of it."""

    pair_id: str
    prompt: str
    chosen: str
    rejected: str
    attribute: str | None
    user: str | None
    context: str | None
    margins: tuple[float, ...]
    """Of each head; positive: it prefers the chosen response."""
    weights: tuple[float, ...]
    """Of each head, for this pair."""
    probability: float
    """P(chosen) by the run, scaled as its probabilities are."""
    spread: float | None
    """P(chosen) by the head with the highest margin less that by the lowest; None for one head."""


@dataclass(frozen=True)
class ShownPairs:
    """The pairs of a run that a report has texts of."""

    examples: dict[int, tuple[ShownPair, ...]]
    """Of each head the pairs with its largest margins, one a prompt."""
    browsed: tuple[ShownPair, ...]
    """To read, by how much they say."""
    by_prompt: tuple[ShownPair, ...]
    """Of each attribute the prompt for which the router is most sure; empty where all pairs have the same weights."""


def pair_figures(frame: pl.DataFrame, scores: Scores, probability: torch.Tensor) -> pl.DataFrame:
    """Return scored pairs with P(chosen) by the run, and the entropy of their weights and spread of their heads."""
    entropy = torch.special.entr(scores.log_weights.exp()).sum(1)
    spread = spread_of(scores.margins)
    return frame.with_columns(probability=probability.numpy(), entropy=entropy.numpy(), spread=spread.numpy())


def choose_pairs(dataset: Dataset, split: str, known: pl.DataFrame, scores: Scores, room: int = ROOM) -> ShownPairs:
    """Choose the pairs of a split that a report shows, from its scores and the figures of `pair_figures`.

    `room` is how many characters the pairs to read may have.
    """
    heads = {head: _examples(known, scores.margins[:, head]) for head in range(scores.margins.shape[1])}
    candidates = _candidates(known)
    routed = _most_sure(known, scores.log_weights)
    rows = {*candidates, *routed, *(row for found in heads.values() for row in found)}
    texts = _texts(dataset, split, known, rows)
    shown = {row: _shown(row, known, scores, texts[row]) for row in rows}
    return ShownPairs(
        {head: tuple(shown[row] for row in found) for head, found in heads.items()},
        tuple(_within(room, (shown[row] for row in candidates))),
        tuple(shown[row] for row in routed),
    )


def spread_of(margins: torch.Tensor) -> torch.Tensor:
    """Return how far heads disagree [N]: the highest P(chosen) of any less the lowest; margins are [N, K].

    Example: one head says .73, the other .27.
        >>> round(float(spread_of(torch.tensor([[1.0, -1.0]]))[0]), 2)
        0.46

    """
    ordered = margins.double().sigmoid()
    return ordered.amax(1) - ordered.amin(1)


def _examples(known: pl.DataFrame, margins: torch.Tensor) -> list[int]:
    """Return the rows of a head's largest margins, one a prompt, largest first."""
    sizes = margins.abs()
    least = sizes.topk(min(50 * EXAMPLES, len(sizes))).values[-1]
    large = (sizes >= least).nonzero()[:, 0]
    prompts: dict[str, int] = {}
    for row in large[sizes[large].argsort(descending=True, stable=True)].tolist():
        prompts.setdefault(known["prompt_id"][row], row)
    return list(prompts.values())[:EXAMPLES]


def _candidates(known: pl.DataFrame) -> list[int]:
    """Return rows to read, those that say most first: attributes take turns, and so do the two orders."""
    ranks = [pl.col("probability").rank("ordinal").over("attribute").alias("wrong")]
    if known["spread"].max() != 0:
        ranks.append(pl.col("spread").rank("ordinal", descending=True).over("attribute").alias("apart"))
    names = [expression.meta.output_name() for expression in ranks]
    ranked = known.select("attribute", "prompt_id", *ranks).with_row_index("row")
    ranked = ranked.with_columns(place=pl.min_horizontal(names)).filter(pl.col("place") <= EACH)
    # Of a prompt that an attribute has several times the first comes with the others' first: many are alike.
    turn = pl.col("place").rank("ordinal").over("attribute", "prompt_id")
    ranked = ranked.with_columns(turn=turn).sort("turn", "place", "attribute", "row", nulls_last=True)
    return ranked["row"].to_list()[: 4 * MOST]


def _most_sure(known: pl.DataFrame, log_weights: torch.Tensor) -> list[int]:
    """Return for each attribute the row whose weights have the least entropy; none where weights are all the same."""
    if log_weights.shape[1] < 2 or bool((log_weights == log_weights[0]).all()):
        return []
    rows = known.select("attribute", "entropy").with_row_index("row")
    first = rows.sort("entropy", "row").unique("attribute", keep="first", maintain_order=True)
    return first.sort("attribute", nulls_last=True)["row"].to_list()


def _texts(dataset: Dataset, split: str, known: pl.DataFrame, rows: Iterable[int]) -> dict[int, dict[str, str]]:
    """Return the texts of rows; of the others none are held."""
    row_of = {known["pair_id"][row]: row for row in rows}
    wanted = pl.col("pair_id").is_in(list(row_of))
    found: dict[int, dict[str, str]] = {}
    for part in dataset.of_split(split):
        kept = pl.scan_parquet(part.checked_path("pairs")).filter(wanted).select(TEXTS).collect()
        for one in kept.iter_rows(named=True):
            found.setdefault(row_of[one["pair_id"]], one)
    return found


def _shown(row: int, known: pl.DataFrame, scores: Scores, texts: dict[str, str]) -> ShownPair:
    one = known.row(row, named=True)
    margins, weights = scores.margins[row].tolist(), scores.log_weights[row].exp().tolist()
    return ShownPair(
        **texts, attribute=one["attribute"], user=one["user"], context=one["context"], margins=tuple(margins),
        weights=tuple(weights), probability=one["probability"], spread=one["spread"] if len(margins) > 1 else None,
    )  # fmt: skip


def _within(room: int, pairs: Iterable[ShownPair]) -> Iterator[ShownPair]:
    """Yield pairs until their texts fill a room; a pair that does not fit any more is left out, a shorter one not."""
    count = left = 0
    for one in pairs:
        size = sum(min(len(text), LONGEST) for text in (one.prompt, one.chosen, one.rejected))
        if count < MOST and left + size <= room:
            count, left = count + 1, left + size
            yield one
