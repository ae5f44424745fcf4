"""The rules of benchmarks: against their own code on random scores, against slow loops, and worked by hand."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from micropref.pipeline.benchmarks.facts import ModelFacts
from micropref.pipeline.benchmarks.items import Item, ScoredItem
from micropref.pipeline.benchmarks.registry import benchmarks
from micropref.pipeline.benchmarks.scores import BenchmarkScores
from micropref.pipeline.options import BenchmarkName
from tests.support.benchmark_rows import Rows, Scores, made_rows, random_scores

OFFICIAL = json.loads((Path(__file__).parents[2] / "data" / "official_benchmarks.json").read_text())
"""What the benchmarks' own code makes of the same scores: `tests/support/official_benchmarks.py` wrote it."""
SEEDS = tuple(OFFICIAL["seeds"])


def scored(rows: Rows, scores: Scores) -> list[ScoredItem]:
    """Return rows with scores, by the names that their benchmark has for parts."""
    found = []
    for at, (row, (chosen, rejected)) in enumerate(zip(rows, scores, strict=True)):
        part = row.get("subset") or row.get("domain", "").partition("-")[0] or row["category"].replace(" ", "_")
        prompt = row.get("prompt") or row["question"]
        found.append(ScoredItem(str(row.get("id", at)), part, prompt, tuple(chosen), tuple(rejected)))
    return found


def drawn(name: BenchmarkName, seed: str) -> tuple[Rows, Scores, BenchmarkScores, Any]:
    rows = made_rows(name, int(seed), OFFICIAL["most"])
    scores = random_scores(rows, int(seed))
    return rows, scores, benchmarks()[name].measure(scored(rows, scores)), OFFICIAL["seeds"][seed][name]


def accuracies(found: BenchmarkScores) -> dict[str, float | None]:
    return {one.subset: one.accuracy for one in found.subsets if one.n}


@pytest.mark.parametrize("seed", SEEDS)
def test_rewardbench_is_the_packages(seed: str) -> None:
    _, _, found, official = drawn("rewardbench", seed)
    assert accuracies(found) == pytest.approx(official["subsets"], abs=1e-12)
    assert found.sections == pytest.approx(official["sections"], abs=1e-12)
    assert found.overall == pytest.approx(official["overall"], abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_rewardbench_2_is_the_packages(seed: str) -> None:
    _, _, found, official = drawn("rewardbench2", seed)
    assert accuracies(found) == pytest.approx(official["subsets"], abs=1e-12)
    assert found.overall == pytest.approx(official["overall"], abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_rm_bench_is_the_scripts(seed: str) -> None:
    _, _, found, official = drawn("rm-bench", seed)
    assert found.sections == pytest.approx({name: official[name] for name in found.sections}, abs=1e-12)
    assert len(found.sections) == 4
    levels = {level: official[f"{level}_acc"] for level in ("easy", "normal", "hard")}
    assert found.figures == pytest.approx(levels, abs=1e-12)
    assert found.overall == pytest.approx(official["total_avg_acc"], abs=1e-12)
    assert found.overall == pytest.approx(statistics.fmean(levels.values()), abs=1e-12)  # as its README says


@pytest.mark.parametrize("seed", SEEDS)
def test_personalized_rewardbench_is_the_scripts_to_the_letter(seed: str) -> None:
    rows, scores, found, official = drawn("personalized-rewardbench", seed)
    pairs = [(Item("", one.subset, one.prompt, (), ()), one) for one in scored(rows, scores)]
    files = benchmarks()["personalized-rewardbench"].files(pairs, ModelFacts("micropref/RUN", "chat"))
    assert files == {f"{area.partition('_')[0]}_RUN_pointwise.txt": text for area, text in official.items()}
    for one in found.subsets:
        assert f"{one.accuracy:.2%}" in official[one.subset]


@pytest.mark.parametrize("seed", range(5, 25))
def test_ties_are_what_a_loop_over_responses_finds(seed: int) -> None:
    """The formula of the paper, one prompt and one comparison at a time; scores of one decimal make spreads of 0."""
    rows = made_rows("rewardbench2", seed, 12)
    scores = random_scores(rows, seed)
    by_id = {row["id"]: side for row, side in zip(rows, scores, strict=True) if row["subset"] == "Ties"}
    right = {name: all(mine > other for mine, other in itertools.product(*sides)) for name, sides in by_id.items()}
    tied = [name for name in by_id if name.startswith("tied")]
    reference = [name for name in by_id if name.startswith("ref")]
    apart, both, size = [], [], []
    for name in tied:
        other = by_id.get(name.replace("tied", "ref"))
        if other is None:
            continue
        chosen, rejected = by_id[name]
        spread = max(abs(one - two) for one in chosen for two in chosen)
        gap = min(one - two for one in chosen for two in rejected)
        smaller = min(gap, min(one - two for one in other[0] for two in other[1]))
        apart.append(gap > spread)
        both.append(smaller > spread)
        limit = 1 if smaller > 0 else -1 if smaller < 0 else 0
        size.append(math.tanh(smaller / spread - 1) if spread else limit)
    expected = (
        0.3 * statistics.fmean(right[name] for name in tied)
        + 0.3 * statistics.fmean(right[name] for name in reference)
        + 0.2 * statistics.fmean(apart)
        + 0.2 * statistics.fmean(both)
        + 0.01 * statistics.fmean(size)
    )
    found = benchmarks()["rewardbench2"].measure(scored(rows, scores))
    assert accuracies(found)["Ties"] == pytest.approx(expected, abs=1e-9)


def item(subset: str, chosen: list[float | None], rejected: list[float | None], name: str = "0") -> ScoredItem:
    return ScoredItem(name, subset, f"{subset} {name}", tuple(chosen), tuple(rejected))


def test_the_best_of_four_by_hand() -> None:
    """Alone at the top: 1; one of two: 1/2; all four alike: 1/4; below one: 0; and a missing score: 0."""
    rows: list[tuple[list[float | None], list[float | None]]] = [
        ([2.0], [1.0, 0.0, 1.0]),
        ([2.0], [2.0, 0.0, 1.0]),
        ([2.0], [2.0, 2.0, 2.0]),
        ([2.0], [3.0, 0.0, 0.0]),
        ([2.0], [1.0, None, 0.0]),
    ]
    found = benchmarks()["rewardbench2"].measure([item("Math", *row, str(at)) for at, row in enumerate(rows)])
    (math_,) = [one for one in found.subsets if one.n]
    assert (math_.subset, math_.n, math_.expected, math_.without_reward) == ("Math", 5, 183, 1)
    assert math_.accuracy == (1 + 1 / 2 + 1 / 4) / 5
    assert math_.low is not None
    assert math_.low < math_.accuracy
    assert found.overall is None  # five subsets are not there


def test_ties_by_hand() -> None:
    """Prompt 0: spread 1, gap 2, reference's 4. Prompt 1: spread 2, gap 1, reference's −1. Prompt 2: no reference."""
    rows = [
        item("Ties", [4.0, 5.0], [2.0, 0.0], "tied:0"),
        item("Ties", [4.0], [0.0, -3.0], "ref:0"),
        item("Ties", [3.0, 5.0], [2.0], "tied:1"),
        item("Ties", [1.0], [2.0], "ref:1"),
        item("Ties", [1.0, 1.0], [2.0], "tied:2"),
    ]
    found = benchmarks()["rewardbench2"].measure(rows)
    assert found.figures == {
        "tied accuracy": 2 / 3,
        "reference accuracy": 1 / 2,
        "gap above spread, tied": 1 / 2,
        "gap above spread, both": 1 / 2,
        "size of the gap": pytest.approx((math.tanh(2 / 1 - 1) + math.tanh(-1 / 2 - 1)) / 2),
    }
    total = 0.3 * 2 / 3 + 0.3 / 2 + 0.2 / 2 + 0.2 / 2 + 0.01 * found.figures["size of the gap"]
    (ties,) = [one for one in found.subsets if one.n]
    assert ties.accuracy == pytest.approx(total)
    assert (ties.low, ties.high) == (None, None)


def test_a_prompt_of_ties_with_a_missing_score_is_wrong() -> None:
    whole = [item("Ties", [4.0, 5.0], [2.0], "tied:0"), item("Ties", [4.0], [0.0], "ref:0")]
    missing = [item("Ties", [9.0, None], [2.0], "tied:1"), item("Ties", [4.0], [0.0], "ref:1")]
    measure = benchmarks()["rewardbench2"].measure
    before, after = measure(whole).figures, measure(whole + missing).figures
    assert before["tied accuracy"] == before["gap above spread, tied"] == 1.0
    assert [after[name] for name in before] == pytest.approx([1 / 2, 1.0, 1 / 2, 1 / 2, before["size of the gap"] / 2])
    assert measure([whole[0]]).figures == {}  # no prompt in both kinds
    (alone,) = [one for one in measure([whole[0]]).subsets if one.n]
    assert alone.accuracy is None


def test_a_pair_with_a_missing_score_is_wrong_and_so_is_a_tie() -> None:
    rows = [item("hep-go", [1.0], [0.0], "0"), item("hep-go", [1.0], [1.0], "1"), item("hep-go", [1.0], [None], "2"),
            item("hep-go", [None], [0.0], "3")]  # fmt: skip
    found = benchmarks()["rewardbench"].measure(rows)
    (go,) = [one for one in found.subsets if one.n]
    assert (go.accuracy, go.n, go.without_reward, go.expected) == (1 / 4, 4, 2, 164)
    assert found.sections == {"Reasoning": 1 / 4}
    assert found.overall is None


def test_the_matrix_of_styles_by_hand() -> None:
    """Chosen 1, 2, 3 against rejected 0, 2, 2.5, plain to polished: easy 3 of 3, normal 2 of 3, hard 0 of 3."""
    rows = [item(domain, [1.0, 2.0, 3.0], [0.0, 2.0, 2.5]) for domain in ("chat", "math", "code", "safety")]
    found = benchmarks()["rm-bench"].measure(rows)
    assert found.figures == pytest.approx({"easy": 1.0, "normal": 2 / 3, "hard": 0.0})
    assert found.sections == pytest.approx(dict.fromkeys(("chat", "math", "code", "safety"), 5 / 9))
    assert found.overall == pytest.approx(5 / 9)
    # Without the plain right response its three comparisons are wrong, the normal one and two hard ones.
    rows[0] = item("chat", [None, 2.0, 3.0], [0.0, 2.0, 2.5])
    missing = benchmarks()["rm-bench"].measure(rows)
    assert missing.sections["chat"] == pytest.approx((1.0 + 1 / 3 + 0.0) / 3)
    assert benchmarks()["rm-bench"].measure(rows[:3]).overall is None


def test_sizes_are_the_published_ones() -> None:
    expected = {
        name: sum(one.expected or 0 for one in benchmark.measure([]).subsets)
        for name, benchmark in benchmarks().items()
    }
    assert expected == {
        "rewardbench": 2985, "rewardbench2": 1865, "rm-bench": 3 * 1327, "personalized-rewardbench": 0
    }  # fmt: skip


def test_intervals_take_rows_of_one_prompt_together() -> None:
    rows = [ScoredItem(str(at), "donotanswer", f"p{at // 10}", (float(at % 20 < 10),), (0.5,)) for at in range(400)]
    apart = [ScoredItem(one.id, one.subset, one.id, one.chosen, one.rejected) for one in rows]
    widths = []
    for some in (rows, apart):
        (found,) = [one for one in benchmarks()["rewardbench"].measure(some).subsets if one.n]
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    assert widths[0] > 2.5 * widths[1]
