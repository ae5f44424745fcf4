"""Personalized RewardBench: what one person's rubric wants, and what it does not, in three areas.

Source: Ma et al. 2026 (arXiv 2604.07343) and its repository. A pair is won where r(chosen) > r(rejected). Its script
for reward models shows them the question alone; its card allows the person's profile, texts of earlier questions, which
its other scripts write as here, the first ten. The rubric and the narrative say the label and are never read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from micropref.pipeline.benchmarks.facts import Benchmark, ModelFacts, Scored, answer, sentence
from micropref.pipeline.benchmarks.items import Item, ScoredItem, above
from micropref.pipeline.benchmarks.scores import BenchmarkScores, mean_of_all, of_subset, subset_score
from micropref.pipeline.named.adapters.personalized import AREAS
from micropref.pipeline.named.adapters.personalized import PERSONALIZED as DATASET
from micropref.pipeline.sources.rows import Row, RowError, describe

COLUMNS = ("question", "chosen", "rejected")
MOST_POSTS = 10
"""Posts of a profile that are read."""


def read(row: Row, area: str | None) -> Item:
    """Return a pair with its person's posts. Raises RowError."""
    prompt = sentence("question", row.values["question"])
    chosen, rejected = (answer(row, side, row.values[side], prompt) for side in ("chosen", "rejected"))
    subset = area or _area(row)
    name = str(row.values.get("id", ""))
    return Item(name, subset, prompt, (chosen,), (rejected,), _posts(row), values=row.values)


def measure(items: Sequence[ScoredItem]) -> BenchmarkScores:
    """Score pairs: the win rate of chosen responses in each area, and their mean."""
    subsets = []
    for area in AREAS:
        some = of_subset(items, area)
        subsets.append(subset_score(area, some, [float(above(one.chosen[0], one.rejected[0])) for one in some]))
    return BenchmarkScores(subsets, {}, overall=mean_of_all([one.accuracy for one in subsets]))


def files(scored: Scored, model: ModelFacts) -> dict[str, str]:
    """Return what the script writes: a summary of each area, as text."""
    found = {}
    for area in AREAS:
        items = [one for item, one in scored if item.subset == area]
        if items:
            short = area.partition("_")[0]
            found[f"{short}_{model.short}_pointwise.txt"] = _summary(short, model.short, items)
    return found


def _summary(area: str, model: str, items: Sequence[ScoredItem]) -> str:
    pairs = [(one.chosen[0], one.rejected[0]) for one in items]
    both = [(chosen, rejected) for chosen, rejected in pairs if chosen is not None and rejected is not None]
    wins, losses = (sum(above(*pair[::step]) for pair in both) for step in (1, -1))
    means = [sum(pair[side] for pair in both) / len(both) if both else 0.0 for side in (0, 1)]
    missing = len(pairs) - len(both)
    line = "=" * 70
    lines = [
        line,
        "POINTWISE SCORE COMPARISON",
        line,
        f"Model:       {model}",
        f"Subset:      {area}",
        f"Comparisons: {len(pairs)}",
        "",
        f"Chosen win rate:   {wins / len(pairs) * 100:.2f}% ({wins}/{len(pairs)})",
        f"Rejected wins:     {losses}  Ties: {len(both) - wins - losses}",
        *([f"Without a score:   {missing}, not won; left out of the averages"] if missing else []),
        "",
        f"Avg chosen score:   {means[0]:.4f}",
        f"Avg rejected score: {means[1]:.4f}",
        f"Avg diff (chosen - rejected): {means[0] - means[1]:.4f}",
        line,
    ]
    return "\n".join(lines)


def _area(row: Row) -> str:
    """Return the area of a row whose file names none. Raises RowError."""
    value = row.values.get("category")
    words = re.sub(r"[\W_]+", " ", value.replace("&", " and ")).casefold().split() if isinstance(value, str) else []
    for area in AREAS:
        if words == area.casefold().split("_"):
            return area
    raise RowError(
        "category",
        describe(value),
        f"one of {', '.join(AREAS)}: give the folder, or name the file so, such as {AREAS[0]}_test.jsonl",
    )


def _posts(row: Row) -> tuple[str, ...]:
    """Return the posts of a profile as the benchmark's scripts write them. Raises RowError."""
    found = row.values.get("profile")
    if found is None:
        return ()
    if not isinstance(found, list):
        raise RowError("profile", describe(found), "a list of objects with category and text")
    posts = []
    for at, post in enumerate(found[:MOST_POSTS], 1):
        if not isinstance(post, Mapping):
            raise RowError(f"profile[{at - 1}]", describe(post), "an object with category and text")
        posts.append(
            f"Post {at} (Category: {post.get('category')}):\n{sentence(f'profile[{at - 1}].text', post.get('text'))}"
        )
    return tuple(posts)


PERSONALIZED_REWARDBENCH = Benchmark(
    "personalized-rewardbench",
    "Personalized RewardBench",
    DATASET,
    split="test",
    columns=COLUMNS,
    read=read,
    measure=measure,
    files=files,
    differs=(
        "the script cuts texts at 8192 tokens; here the prompt is cut from the left to what the backbone reads, alike "
        "for both responses",
        "the script reports each area by itself; the score here is their mean",
    ),
)
