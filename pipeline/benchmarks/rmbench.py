"""RM-Bench: three right responses and three wrong ones, concise, detailed, and detailed with Markdown.

Source: Liu et al. 2024 (arXiv 2410.16184) and the script of its repository. Of a row's nine comparisons, right where
r(chosen) > r(rejected), three have the right response in the plainer style (hard), three in the same (normal), three in
the more polished one (easy). A domain's figure is the mean of its three levels, a level's the mean of the four domains;
the two kinds of safety are one domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from micropref.pipeline.benchmarks.facts import Benchmark, ModelFacts, Scored, answers, as_results
from micropref.pipeline.benchmarks.items import Item, ScoredItem, above
from micropref.pipeline.benchmarks.scores import BenchmarkScores, mean_of_all, of_subset, subset_score
from micropref.pipeline.named.adapters.rmbench import RMBENCH as DATASET
from micropref.pipeline.named.adapters.rmbench import STYLES
from micropref.pipeline.sources.field_parsing import text
from micropref.pipeline.sources.rows import Row, RowError, describe

COLUMNS = ("prompt", "chosen", "rejected", "domain")
EXPECTED = {"chat": 129, "math": 529, "code": 228, "safety": 441}
"""Domain -> rows."""
DOMAINS = ("chat", "math", "code", "safety", "safety-refuse", "safety-response")
LEVELS = {
    "easy": [(mine, theirs) for mine in range(STYLES) for theirs in range(mine)],
    "normal": [(style, style) for style in range(STYLES)],
    "hard": [(mine, theirs) for theirs in range(STYLES) for mine in range(theirs)],
}
"""Level -> (style of the right response, style of the wrong one); styles go from plain to polished."""


def read(row: Row, _: str | None) -> Item:
    """Return a prompt with its six responses. Raises RowError."""
    domain = row.values["domain"]
    if domain not in DOMAINS:
        raise RowError("domain", describe(domain), f"one of {', '.join(DOMAINS)}")
    prompt = text(row, "prompt")
    chosen, rejected = answers(row, "chosen", prompt, STYLES), answers(row, "rejected", prompt, STYLES)
    name = str(row.values.get("id", ""))
    return Item(name, domain.partition("-")[0], prompt, chosen, rejected, values=row.values)


def level_accuracy(item: ScoredItem, level: str) -> float:
    """Return the share of a row's comparisons of one level that are right."""
    pairs = LEVELS[level]
    return sum(above(item.chosen[mine], item.rejected[theirs]) for mine, theirs in pairs) / len(pairs)


def measure(items: Sequence[ScoredItem]) -> BenchmarkScores:
    """Score rows: each level of each domain, domains, levels, and the mean of the domains."""
    subsets, sections = [], {}
    by_level: dict[str, list[float | None]] = {level: [] for level in LEVELS}
    for domain, expected in EXPECTED.items():
        some = of_subset(items, domain)
        for level, found in by_level.items():
            credited = [level_accuracy(one, level) for one in some]
            subsets.append(subset_score(f"{domain}, {level}", some, credited, expected))
            found.append(subsets[-1].accuracy)
        if (mean := mean_of_all([found[-1] for found in by_level.values()])) is not None:
            sections[domain] = mean
    levels = {level: mean for level, found in by_level.items() if (mean := mean_of_all(found)) is not None}
    overall = mean_of_all([sections.get(domain) for domain in EXPECTED])
    return BenchmarkScores(subsets, sections, levels, overall)


def files(scored: Scored, model: ModelFacts) -> dict[str, str]:
    """Return what the script writes: the rows with the scores of their responses."""
    rows: list[dict[str, Any]] = [
        item.values | {"score_chosen": list(one.chosen), "score_rejected": list(one.rejected)} for item, one in scored
    ]
    return {f"total_dataset_{model.short}.json": as_results(rows, sort_keys=False)}


RM_BENCH = Benchmark(
    "rm-bench",
    "RM-Bench",
    DATASET,
    split="total_dataset",
    columns=COLUMNS,
    read=read,
    measure=measure,
    files=files,
    differs=(
        "the script cuts each text by itself at --max_length tokens; here the prompt is cut from the left to what the "
        "backbone reads, alike for all responses of a row",
    ),
)
