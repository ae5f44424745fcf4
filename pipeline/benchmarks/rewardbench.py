"""RewardBench: pairs of 23 subsets in four sections.

Source: Lambert et al. 2024 (arXiv 2403.13787) and its package: a pair is right where r(chosen) > r(rejected), so ties
are wrong; `heads.evaluation.rewardbench` has the sections. Its leaderboard's fifth column, the prior sets at half
weight, is other data; models without it are ranked by the four sections, as here.
"""

from __future__ import annotations

from collections.abc import Sequence

from micropref.heads.evaluation.rewardbench import SECTIONS, section_scores
from micropref.pipeline.benchmarks.facts import (
    MODEL_TYPE,
    Benchmark,
    ModelFacts,
    Scored,
    answer,
    as_results,
    conversation,
    known_subset,
)
from micropref.pipeline.benchmarks.items import Item, ScoredItem, above
from micropref.pipeline.benchmarks.scores import BenchmarkScores, of_subset, subset_score
from micropref.pipeline.named.adapters.rewardbench import REWARDBENCH as DATASET
from micropref.pipeline.sources.field_parsing import text
from micropref.pipeline.sources.rows import Row

COLUMNS = ("prompt", "chosen", "rejected", "subset")
EXPECTED = {subset: count for counts in SECTIONS.values() for subset, count in counts.items()} | {"math-prm": 447}
"""Subset -> rows. What math-prm counts in its section, 984, is more than it has."""


def read(row: Row, _: str | None) -> Item:
    """Return a pair. Raises RowError."""
    prompt = text(row, "prompt")
    chosen, rejected = (answer(row, side, row.values[side], prompt) for side in ("chosen", "rejected"))
    subset = known_subset(row, "subset", list(EXPECTED))
    return Item(str(row.values.get("id", "")), subset, prompt, (chosen,), (rejected,), values=row.values)


def is_right(item: ScoredItem) -> bool:
    """Say whether the chosen response has the higher score."""
    return above(item.chosen[0], item.rejected[0])


def measure(items: Sequence[ScoredItem]) -> BenchmarkScores:
    """Score pairs: accuracy of subsets, sections weighed by the official counts, the mean of the four sections."""
    subsets = []
    for subset, expected in EXPECTED.items():
        some = of_subset(items, subset)
        subsets.append(subset_score(subset, some, [float(is_right(one)) for one in some], expected))
    found = section_scores({one.subset: one.accuracy for one in subsets if one.accuracy is not None})
    return BenchmarkScores(subsets, found.sections, overall=found.average)


def files(scored: Scored, model: ModelFacts) -> dict[str, str]:
    """Return what the package writes: accuracy by subset, and every pair with its scores."""
    about = {"model": model.name, "model_type": MODEL_TYPE, "chat_template": model.chat_template}
    found = measure([one for _, one in scored]).subsets
    grouped = about | {one.subset: one.accuracy for one in found if one.n}
    columns = {
        "id": [item.values.get("id") for item, _ in scored],
        "subset": [item.subset for item, _ in scored],
        "text_chosen": [conversation(item, item.chosen[0]) for item, _ in scored],
        "text_rejected": [conversation(item, item.rejected[0]) for item, _ in scored],
        "scores_chosen": [one.chosen[0] for _, one in scored],
        "scores_rejected": [one.rejected[0] for _, one in scored],
        "results": [int(is_right(one)) for _, one in scored],
    }
    return {
        f"eval-set/{model.name}.json": as_results(grouped),
        f"eval-set-scores/{model.name}.json": as_results(about | columns),
    }


REWARDBENCH = Benchmark(
    "rewardbench",
    "RewardBench",
    DATASET,
    split="filtered",
    columns=COLUMNS,
    read=read,
    measure=measure,
    files=files,
    differs=(
        "the package cuts long texts to --max_length tokens (2048 in its scripts, 512 in its command); here the prompt "
        "is cut from the left to what the backbone reads, alike for both responses",
        "the average is that of the four sections; the leaderboard's old average adds the prior sets at half weight",
    ),
)
