"""What `eval` keeps: calibration, head profiles and differences to single rewards, and whether they are of today."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch

from micropref.cache.commits import commit, read_commits
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.runs.records import TABLES, open_run
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.intervals import mean_intervals
from micropref.heads.evaluation.metrics import correct
from micropref.pipeline.evaluation import stored
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.evaluation.scoring import as_scores, current_scores
from micropref.pipeline.evaluation.stored import stored_tables

Synthetic = Callable[..., str]
LATER = ("calibration", "head_profile", "head_correlation", "mixture_vs_single")


@pytest.fixture
def filled(store: StoreFolder, synthetic: Synthetic, planted_run: Callable[..., str]) -> StoreFolder:
    """Return a store with a run of three heads, and a single reward that likes what group a likes."""
    features = synthetic(store, prompts=120)
    planted_run(store, features)
    return store


def add_single(store: StoreFolder) -> str:
    from micropref.cache.runs.records import save_run

    planted = open_run(store, "planted")
    heads = {"heads": planted.tensors()["heads"][:1], "static": torch.zeros(1)}
    return save_run(store, "alone", planted.record | {"method": "single", "k": 1}, heads).id


def view(store: StoreFolder, name: str, rest: str = "") -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(run_query(store.root, f"FROM {name} {rest}")))


def test_tables_are_kept_as_the_views_show_them(filled: StoreFolder) -> None:
    found = evaluate(filled, "planted")
    for name in LATER:
        own = getattr(found, name)
        shown = view(filled, name).select(own.columns)
        assert shown.equals(own.cast(dict(shown.schema))), name  # type: ignore[arg-type]
    assert found.calibration["n"].sum() == found.pairs
    assert found.head_profile.filter(pl.col("correlation").is_not_null()).is_empty()  # all texts are alike
    assert found.head_correlation.height == 3 * 2
    scores = as_scores(
        open_run(filled, "planted"), current_scores(open_run(filled, "planted"), open_dataset(filled, "toy"), "test")
    )
    assert found.head_correlation.row(0)[-1] == pytest.approx(-1.0)  # the taste of a, and its opposite
    sure = scores.log_odds().abs().sigmoid()
    mean = (found.calibration["mean_probability"] * found.calibration["n"]).sum() / found.pairs
    assert mean == pytest.approx(float(sure.mean()), abs=1e-6)


def test_differences_are_paired_and_written_whichever_run_is_evaluated_last(filled: StoreFolder) -> None:
    assert evaluate(filled, "planted").mixture_vs_single.is_empty()
    add_single(filled)
    found = evaluate(filled, "alone").mixture_vs_single
    assert set(found["run"]) == {"planted"}
    assert set(found["reference"]) == {"alone"}
    assert view(filled, "mixture_vs_single").height == 3
    dataset = open_dataset(filled, "toy")
    frames = {}
    for name in ("planted", "alone"):
        run = open_run(filled, name)
        frame = current_scores(run, dataset, "test")
        right = correct(as_scores(run, frame).log_probability())
        frames[name] = frame.with_columns(right=pl.Series(right.numpy())).filter(pl.col("attribute") == "b")
    both = frames["planted"].join(frames["alone"], on="pair_id", suffix="_alone")
    difference = (both["right"] - both["right_alone"]).to_torch()
    expected = mean_intervals(difference[:, None], {"prompts": torch.arange(len(both))}, "difference")
    row = found.filter(pl.col("attribute") == "b").row(0, named=True)
    assert row["n"] == both.height
    assert row["difference"] == pytest.approx(difference.mean().item())
    assert (row["low"], row["high"]) == pytest.approx((expected.low.item(), expected.high.item()))
    again = evaluate(filled, "planted").mixture_vs_single
    assert again.equals(found)
    assert view(filled, "mixture_vs_single").height == 3  # both keep the rows now


def test_tables_of_today_are_read_and_others_made_again(filled: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(store: StoreFolder, run: str, *rest: Any) -> Any:
        calls.append(run)
        return evaluate(store, run, *rest)

    monkeypatch.setattr(stored, "evaluate", counted)
    first = stored_tables(filled, "planted")
    again = stored_tables(filled, "planted")
    assert calls == ["planted"]
    for name in (*TABLES, *LATER):
        assert getattr(again, name).equals(getattr(first, name))
    add_single(filled)
    evaluate(filled, "alone")
    assert stored_tables(filled, "planted").mixture_vs_single.height == 3  # kept by the reference
    assert calls == ["planted"]
    folder = open_run(filled, "planted").eval_folder("toy")
    tables = next(item for item in read_commits(folder) if item.stem == "tables-test")
    commit(folder, "tables-test", {role: tables.files[role] for role in TABLES}, tables.record)  # of the first release
    assert view(filled, "calibration", "WHERE run = 'planted'").is_empty()
    assert view(filled, "head_accuracy", "WHERE run = 'planted'").height
    assert stored_tables(filled, "planted").calibration.height
    assert calls == ["planted"] * 2
    part = open_dataset(filled, "toy").of_split("test")[0]
    fewer = read_table(part, "pairs")[:-3].to_arrow()
    _rewritten(part, fewer)
    assert stored_tables(filled, "planted").pairs == first.pairs - 3
    assert calls == ["planted"] * 3


def _rewritten(part: Any, pairs: Any) -> None:
    """Write a part's pairs anew, and its links for these."""
    from micropref.cache.commits import read_commit, write_table
    from micropref.cache.schemas import PAIR_SCHEMA

    file = write_table(part.folder, part.stem, "pairs", pairs.cast(PAIR_SCHEMA))
    commit(part.folder, part.stem, {"pairs": file}, part.record)
    for path in part.folder.parent.glob(f"links/*/{part.stem}.json"):
        links = read_commit(path)
        assert links is not None
        table = read_table(links, "links")[: len(pairs)].to_arrow()
        files = {"links": write_table(path.parent, part.stem, "links", table)}
        commit(path.parent, part.stem, files, links.record | {"pairs_digest": file.digest})


def test_damage_of_another_run_stops_no_evaluation(filled: StoreFolder) -> None:
    add_single(filled)
    evaluate(filled, "alone")
    for path in open_run(filled, "alone").eval_folder("toy").glob("scores-*.parquet"):
        path.write_bytes(b"x" * path.stat().st_size)
    assert evaluate(filled, "planted").mixture_vs_single.is_empty()
