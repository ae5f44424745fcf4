"""What a report gathers equals what the views and slow loops say."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import micropref
from micropref.pipeline.evaluation.reporting.pairs import EXAMPLES, LONGEST
from micropref.pipeline.evaluation.reporting.run_report import RunReport, gather_run


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]) -> micropref.Store:
    """Return a store with a mixture and a single reward on pairs of two tastes, some without context or attribute."""
    rows = []
    for number in range(60):
        friendly, dry = f"Gladly! Thing {number}, my friend.", f"Thing {number}: see page {number}."
        for turn in range(3):
            warm = (number + turn) % 2 == 0
            rows.append(
                {
                    "prompt": f"What is thing {number}?",
                    "chosen": friendly if warm else dry,
                    "rejected": dry if warm else friendly,
                    "attribute": None if turn == 2 else "warm" if warm else "cold",
                    "context": None if number % 10 == 9 else "Be kind." if warm else "Be brief.",
                    "user": f"u{(number + turn) % 7}",
                }
            )
    store = micropref.Store(tmp_path_factory.mktemp("report") / "store")
    backbone = tiny_backbone("llama")
    store.embed(rows, "mine", backbone=backbone, split_by_prompt=0.3, device="cpu", dtype="float32")
    store.train("mine", k=3, restarts=1, epochs=3, hidden=8, router_input="context", run_name="mixed", device="cpu")
    store.train("mine", method="single", run_name="alone")
    return store


@pytest.fixture(scope="module")
def mixed(opened: micropref.Store) -> RunReport:
    return gather_run(opened._store, "mixed")


def scores(opened: micropref.Store, run: str) -> pl.DataFrame:
    """Return test pairs with the margins and weights of all heads, as the view scores has them."""
    return opened.sql(
        "SELECT pair_id, prompt_id, attribute, context, prompt, chosen, rejected, user, "
        "list(s.margin ORDER BY head) AS margins, list(s.weight ORDER BY head) AS weights "
        "FROM scores s JOIN pairs USING (data, split, pair_id, attribute, part) "
        f"WHERE run = '{run}' AND split = 'test' GROUP BY ALL"
    )


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_accuracy_and_disagreement_are_those_of_the_scores(opened: micropref.Store, mixed: RunReport) -> None:
    rows = opened.sql(
        "SELECT pair_id, attribute, list(margin ORDER BY head) AS margins, list(weight ORDER BY head) AS weights "
        f"FROM scores WHERE run = '{mixed.id}' AND split = 'test' GROUP BY ALL"
    ).to_dicts()
    assert len(rows) == mixed.tables.pairs
    right = [sum(w * sigmoid(m) for m, w in zip(r["margins"], r["weights"], strict=True)) > 0.5 for r in rows]
    assert mixed.accuracy.value == pytest.approx(sum(right) / len(rows))
    assert mixed.accuracy.low <= mixed.accuracy.value <= mixed.accuracy.high
    shown = opened.sql(f"FROM disagreement WHERE run = '{mixed.id}' AND split = 'test'")
    for one in mixed.disagreement.iter_rows(named=True):
        same = [row for row in rows if row["attribute"] == one["attribute"]]
        assert one["n"] == len(same)
        entropy = [-sum(w * math.log(w) for w in row["weights"] if w > 0) for row in same]
        assert one["entropy"] == pytest.approx(sum(entropy) / len(same), abs=1e-5)
        own = shown.filter(pl.col("attribute").eq_missing(pl.lit(one["attribute"], pl.String)))
        assert one["spread"] == pytest.approx(own["spread"].to_numpy().mean(), abs=1e-5)
    assert set(mixed.disagreement["attribute"]) == {"cold", "warm", None}


def test_contexts_have_the_weights_of_the_view(opened: micropref.Store, mixed: RunReport) -> None:
    view = opened.sql(
        "SELECT context, head, sum(n) AS n, sum(n * mean_weight) / sum(n) AS weight FROM context_weights "
        f"WHERE run = '{mixed.id}' AND split = 'test' AND context IS NOT NULL GROUP BY ALL ORDER BY ALL"
    )
    assert set(mixed.contexts["context"]) == {"Be kind.", "Be brief."}
    for row in view.iter_rows(named=True):
        own = mixed.contexts.filter(pl.col("context") == row["context"]).row(0, named=True)
        assert own["n"] == row["n"]
        assert own[f"weight_{row['head']}"] == pytest.approx(row["weight"], abs=1e-5)


def test_overall_calibration_counts_every_pair(mixed: RunReport) -> None:
    assert mixed.calibration["n"].sum() == mixed.tables.pairs
    by_attribute = mixed.tables.calibration.group_by("bin").agg(pl.col("n").sum()).sort("bin")
    assert mixed.calibration.select("bin", "n").equals(
        by_attribute.cast(dict(mixed.calibration.select("bin", "n").schema))
    )  # type: ignore[arg-type]


def test_examples_are_the_largest_margins_one_a_prompt(opened: micropref.Store, mixed: RunReport) -> None:
    rows = {row["pair_id"]: row for row in scores(opened, mixed.id).to_dicts()}
    for head in range(3):
        largest: dict[str, float] = {}
        for row in rows.values():
            size = abs(row["margins"][head])
            largest[row["prompt_id"]] = max(size, largest.get(row["prompt_id"], 0.0))
        found = mixed.pairs.examples[head]
        sizes = [abs(pair.margins[head]) for pair in found]
        assert sizes == pytest.approx(sorted(largest.values(), reverse=True)[:EXAMPLES], rel=1e-5)
        for pair in found:
            known = rows[pair.pair_id]
            for name in ("prompt", "chosen", "rejected", "attribute", "user", "context"):
                assert getattr(pair, name) == known[name]
            assert pair.margins == pytest.approx(known["margins"], rel=1e-5)
            assert pair.weights == pytest.approx(known["weights"], rel=1e-5)


def test_pairs_to_read_are_each_attributes_extremes_as_room_allows(opened: micropref.Store, mixed: RunReport) -> None:
    whole = mixed.pairs.browsed
    assert len(whole) == len({pair.pair_id for pair in whole}) == mixed.tables.pairs  # few enough to show all
    first = {pair.attribute: pair for pair in reversed(whole)}  # the first of each attribute
    for attribute, pair in first.items():
        same = [one for one in whole if one.attribute == attribute]
        assert pair.spread == max(one.spread or 0 for one in same) or pair.probability == min(
            one.probability for one in same
        )
    room = 2_000
    small = gather_run(opened._store, "mixed", room=room).pairs.browsed
    size = sum(min(len(text), LONGEST) for one in small for text in (one.prompt, one.chosen, one.rejected))
    assert room - 100 < size <= room
    assert list(small) == [one for one in whole if one in small]


def test_the_most_even_prompt_is_not_taken_for_the_surest(mixed: RunReport) -> None:
    shown = {pair.attribute: pair for pair in mixed.pairs.by_prompt}
    assert set(shown) == {"cold", "warm", None}
    for attribute, pair in shown.items():
        same = [one.weights for one in mixed.pairs.browsed if one.attribute == attribute]
        entropies = [-sum(w * math.log(max(w, 1e-300)) for w in weights) for weights in same]
        own = -sum(w * math.log(max(w, 1e-300)) for w in pair.weights)
        assert own == pytest.approx(min(entropies))


def test_a_single_head_has_no_disagreement_and_no_prompts_of_weights(opened: micropref.Store) -> None:
    found = gather_run(opened._store, "alone")
    assert found.heads == 1
    assert found.pairs.by_prompt == ()
    assert {pair.spread for pair in found.pairs.browsed} == {None}
    wrong = [pair.probability for pair in found.pairs.browsed if pair.attribute == "warm"]
    assert wrong == sorted(wrong)


def test_what_was_read_is_evaluated_first(opened: micropref.Store, tmp_path: Path) -> None:
    with pytest.raises(micropref.BadInput, match="no split 'nope'"):
        gather_run(opened._store, "mixed", split="nope")
    with pytest.raises(micropref.BadInput, match="unknown run"):
        gather_run(opened._store, "nobody")


def test_every_source_is_counted(opened: micropref.Store, mixed: RunReport) -> None:
    shown = opened.sql(
        "SELECT split, count(*) AS pairs, count(DISTINCT prompt_id) AS prompts, "
        "count(DISTINCT attribute) AS attributes, count(DISTINCT context) AS contexts, "
        "count(DISTINCT user) AS people FROM pairs GROUP BY split ORDER BY split"
    )
    assert mixed.data.drop("source").sort("split").rows() == shown.rows()
