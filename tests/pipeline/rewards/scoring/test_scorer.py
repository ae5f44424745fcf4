"""Rewards of texts equal what the store says of the same texts, for every kind of router and every taste."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import micropref
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.taste import Taste

READS = ("prompt", "context", "context+prompt", "difference", "context,prompt")


@pytest.fixture
def filled(tmp_path: Path, rows: list[dict[str, Any]], tiny_backbone: Callable[..., Path]) -> micropref.Store:
    """Return a store with a data set of which every tenth pair has no context."""
    rows = [{**row, "context": None} if at % 10 == 9 else row for at, row in enumerate(rows)]
    opened = micropref.Store(tmp_path / "store")
    opened.embed(
        rows,
        "mine",
        backbone=tiny_backbone("llama"),
        split_by_prompt=0.3,
        device="cpu",
        dtype="float32",
        responses="both",
    )
    return opened


def engine(opened: micropref.Store, run: str) -> ScoringEngine:
    return ScoringEngine.open(opened._store, run, device="cpu")


def stored_scores(opened: micropref.Store, run: str) -> pl.DataFrame:
    """Return pairs with the margins and weights [K] that `eval` stored of each, the heads in order."""
    opened.evaluate(run)
    lists = opened.sql(
        "SELECT pair_id, list(margin ORDER BY head) AS margins, list(weight ORDER BY head) AS weights FROM scores "
        f"WHERE run = '{run}' AND split = 'test' GROUP BY pair_id"
    )
    return opened.sql("SELECT pair_id, prompt, context, chosen, rejected, user, attribute FROM pairs").join(
        lists, on="pair_id"
    )


def pair_of(row: dict[str, Any]) -> Candidates:
    return Candidates(row["prompt"], (row["chosen"], row["rejected"]), Taste(context=row["context"]), together=True)


def agree(opened: micropref.Store, run: str) -> None:
    """Check rewards of a run's test pairs against its stored scores."""
    known = stored_scores(opened, run)
    assert known.height > 20
    found = engine(opened, run).score([pair_of(row) for row in known.to_dicts()])
    for row, one in zip(known.to_dicts(), found, strict=True):
        first, second = one.heads
        assert first is not None
        assert second is not None
        assert one.weights is not None
        margins = [a - b for a, b in zip(first, second, strict=True)]
        assert margins == pytest.approx(row["margins"], abs=2e-5)
        assert one.weights == pytest.approx(row["weights"], abs=2e-5)
        assert one.rewards[0] == pytest.approx(sum(w * r for w, r in zip(one.weights, first, strict=True)), abs=1e-9)


@pytest.mark.parametrize("reads", READS)
def test_rewards_are_those_of_stored_pairs(filled: micropref.Store, reads: Any) -> None:
    run = filled.train("mine", k=2, restarts=1, epochs=3, router_input=reads).run
    if reads == "prompt":
        known = stored_scores(filled, run).with_columns(context=None)
        found = engine(filled, run).score([pair_of(row) for row in known.to_dicts()])
        assert found[0].weights == pytest.approx(known["weights"][0].to_list(), abs=2e-5)
    else:
        agree(filled, run)


def test_heads_behind_contexts(tmp_path: Path, rows: list[dict[str, Any]], tiny_backbone: Callable[..., Path]) -> None:
    opened = micropref.Store(tmp_path / "store")
    options: dict[str, Any] = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32", "responses": "both"}
    opened.embed(rows, "mine", backbone=tiny_backbone("llama"), **options)
    run = opened.train("mine", k=2, restarts=1, epochs=3, reward_input="context").run
    agree(opened, run)
    (one,) = engine(opened, run).score([Candidates("p", ("a",))])
    assert (one.rewards, one.reasons) == (
        (None,),
        (f"the heads of run {run} read responses behind contexts: give a `context`",),
    )
