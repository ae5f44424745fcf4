"""Adaptation over stored runs: who is learned from, who is scored, and figures against slow loops."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from micropref import cli
from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.runs.records import open_run
from micropref.cache.sql.query import run_query
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.pair_features import load_pairs
from micropref.heads.adaptation.few_shot import ADAPT_METHODS, GRIDS
from micropref.heads.methods.base import MethodOptions
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.people.adapt import AdaptOptions, adapt
from micropref.pipeline.people.frozen_run import Frozen, open_frozen
from micropref.pipeline.people.shot_sampling import sample_shots
from micropref.pipeline.training.method_runs import train_method

Synthetic = Callable[..., str]
Planted = Callable[..., str]
WEIGHTS = (0.5, 0.3, 0.2)
"""Of the planted run: the taste of group a, that of b, and noise."""


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Return a list that fills with the split and pairs of every call that reads vectors."""
    seen: list[tuple[str, list[str]]] = []
    real = Frozen.score

    def score(self: Frozen, split: str, pair_ids: pl.Series, **options: Any) -> Any:
        seen.append((split, pair_ids.to_list()))
        return real(self, split, pair_ids, **options)

    monkeypatch.setattr(Frozen, "score", score)
    return seen


def test_a_few_choices_find_the_head_of_each_group(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted
) -> None:
    run = planted_run(store, synthetic(store))
    adapted = adapt(store, run, None, AdaptOptions("attribute"))
    curve = adapted.adaptation
    assert curve["shots"].to_list() == [0, 1, 2, 4, 8, 16]
    assert curve["accuracy"][0] < 0.6
    assert curve["accuracy"][-1] > 0.85
    assert curve["gain_low"][-1] > 0
    assert curve["nll"][-1] < curve["nll"][0]
    saved = open_run(store, adapted.run)
    assert (saved.record["parent"], saved.record["groups"]) == (run, ["a", "b"])
    assert saved.tensors()["weights"].argmax(1).tolist() == [0, 1]
    assert adapted.pairs == 2 * (100 - 16)


@pytest.mark.parametrize("shots_from", ["test", "train"])
@pytest.mark.parametrize("method", ADAPT_METHODS)
def test_no_prompt_of_a_persons_shots_is_scored_for_them(
    store: StoreFolder,
    synthetic: Synthetic,
    planted_run: Planted,
    monkeypatch: pytest.MonkeyPatch,
    method: Any,
    shots_from: Any,
) -> None:
    run = planted_run(store, synthetic(store, prompts=300, users=5))
    seen = spied(monkeypatch)
    adapted = adapt(store, run, None, AdaptOptions("user", (1, 3), method, shots_from=shots_from, seed=4))
    (learned_split, learned), (scored_split, scored), *chosen_on = seen
    assert (learned_split, scored_split) == (shots_from, "test")
    frozen = open_frozen(store, run, None)
    table = pl.concat([frozen.pairs_of(split, "user") for split in ("train", "test")]).rows_by_key(
        "pair_id", named=True
    )
    taken = {(row["user"], row["prompt_id"]) for pair in learned for row in table[pair]}
    assert len(learned) == 3 * adapted.groups == 30
    assert len(scored) == len(set(scored)) == adapted.pairs == adapted.adaptation["n"][0]
    assert not {(row["user"], row["prompt_id"]) for pair in scored for row in table[pair]} & taken
    assert not set(learned) & set(scored)
    # Scales, and before them a strength, are chosen on pairs that are neither learned from nor scored here.
    parts = [{row["part"] for pair in pairs for row in table[pair]} for _, pairs in chosen_on]
    assert parts == [{"fit"}, {"validation"}] * (2 if method in GRIDS else 1)


def test_every_method_and_count_is_scored_on_the_same_pairs(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planted_run(store, synthetic(store, users=5, prompts=200))
    seen = spied(monkeypatch)
    read, tables = [], []
    for method in ADAPT_METHODS:
        seen.clear()
        tables.append(adapt(store, run, None, AdaptOptions("user", (4,), method)).adaptation)
        read.append(seen[:2])
    assert all(one == read[0] for one in read)
    cold = [table.filter(pl.col("shots") == 0).drop("run", "method") for table in tables]
    assert all(one.equals(cold[0]) for one in cold)
    fewer = adapt(store, run, None, AdaptOptions("user", (1, 4))).adaptation
    both = tables[0].filter(pl.col("shots").is_in([0, 1, 4])).drop("run")
    assert fewer.drop("run").equals(both)


def test_figures_are_those_of_a_slow_loop(store: StoreFolder, synthetic: Synthetic, planted_run: Planted) -> None:
    features = synthetic(store, prompts=80, users=3)
    run = planted_run(store, features, scale=0.5)
    adapted = adapt(store, run, None, AdaptOptions("user", (2,), tau=2.0))
    assert adapted.scales[0] == 0.5  # the run's, of its own weights
    assert open_run(store, adapted.run).scale == adapted.scales[-1]
    pairs = load_pairs(open_dataset(store, "toy"), open_features(store, features), "test", router_input="prompt")
    sample = sample_shots(pairs.table, "user", 2, 0, shared=False)
    heads = open_run(store, run).tensors()["heads"].double().numpy()
    right = 1 / (1 + np.exp(-pairs.delta.double().numpy() @ heads.T))
    weights = {}
    for name in dict.fromkeys(sample.group):
        rows = [row for group, row in zip(sample.group, sample.row, strict=True) if group == name]
        weights[name] = np.prod([right[row] for row in rows], 0) ** 0.5 * WEIGHTS
        weights[name] /= weights[name].sum()
    found = [right[row] @ weights[pairs.table["user"][int(row)]] for row in np.flatnonzero(sample.scored)]
    last = adapted.adaptation.row(-1, named=True)
    assert (last["shots"], last["n"], last["groups"]) == (2, len(found), len(weights))
    assert last["accuracy"] == pytest.approx(np.mean([p > 0.5 for p in found]))
    learned = [1 / (1 + (1 / p - 1) ** adapted.scales[-1]) for p in found]  # σ(s logit p)
    assert last["nll"] == pytest.approx(-np.mean(np.log(learned)), rel=1e-5)
    cold = [right[row] @ WEIGHTS for row in np.flatnonzero(sample.scored)]
    first = adapted.adaptation.row(0, named=True)
    scaled = [1 / (1 + (1 / p - 1) ** 0.5) for p in cold]  # σ(½ logit p)
    assert first["nll"] == pytest.approx(-np.mean(np.log(scaled)), rel=1e-5)
    assert last["gain"] == pytest.approx(last["accuracy"] - first["accuracy"])


def test_no_shots_are_the_runs_own_prediction(store: StoreFolder, synthetic: Synthetic, planted_run: Planted) -> None:
    run = planted_run(store, synthetic(store))
    scored = adapt(store, run, None, AdaptOptions("attribute", (3,)))
    evaluate(store, run)
    query = (
        "SELECT avg((probability > 0.5)::INT) AS accuracy, count(*) AS n FROM (SELECT pair_id, "
        "sum(weight / (1 + exp(-margin))) AS probability FROM scores WHERE run = 'planted' AND pair_id IN "
        f"(SELECT pair_id FROM scores WHERE run = '{scored.run}') GROUP BY pair_id)"
    )
    (row,) = run_query(store.root, query).to_pylist()
    first = scored.adaptation.row(0, named=True)
    assert row == {"accuracy": pytest.approx(first["accuracy"]), "n": first["n"]}


def test_the_views_have_what_was_reported_and_the_scores_give_it_again(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted
) -> None:
    run = planted_run(store, synthetic(store))
    adapted = adapt(store, run, None, AdaptOptions("attribute", (4,), "drm"))
    rows = run_query(store.root, "SELECT * FROM adaptation ORDER BY shots").to_pylist()
    assert rows == [{name: row[name] for name in rows[0]} for row in adapted.adaptation.to_dicts()]
    query = (
        "SELECT avg((reward > 0)::INT) AS accuracy FROM (SELECT sum(weight * margin) AS reward FROM scores "
        f"WHERE run = '{adapted.run}' GROUP BY pair_id)"
    )
    assert run_query(store.root, query).to_pylist() == [{"accuracy": pytest.approx(rows[-1]["accuracy"])}]


def test_the_same_adaptation_is_the_same_run_and_another_seed_is_not(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted
) -> None:
    run = planted_run(store, synthetic(store))
    first, again = (adapt(store, run, None, AdaptOptions("attribute", (4,))) for _ in range(2))
    other = adapt(store, run, None, AdaptOptions("attribute", (4,), seed=1))
    assert first.run == again.run != other.run
    assert first.adaptation.equals(again.adaptation)
    assert first.adaptation["nll"][-1] != other.adaptation["nll"][-1]


@pytest.mark.parametrize(("sharpness", "expected"), [(1.0, max), (-1.0, min)])
def test_the_strength_is_the_best_on_validation_pairs(
    store: StoreFolder,
    synthetic: Synthetic,
    planted_run: Planted,
    monkeypatch: pytest.MonkeyPatch,
    sharpness: float,
    expected: Any,
) -> None:
    """People who are one head each want all of Bayes' rule; where choices mislead about the next, none of it."""
    run = planted_run(store, synthetic(store, users=5))
    real, calls = Frozen.score, []

    def score(self: Frozen, split: str, pair_ids: pl.Series, **options: Any) -> Any:
        scored = real(self, split, pair_ids, **options)
        calls.append(split)
        scores = replace(scored.scores, margins=scored.scores.margins * (sharpness if len(calls) % 2 else 1))
        return replace(scored, scores=scores)

    monkeypatch.setattr(Frozen, "score", score)
    adapted = adapt(store, run, None, AdaptOptions("user", (4,), "tempered"))
    assert adapted.strength == expected(GRIDS["tempered"])
    assert open_run(store, adapted.run).record["settings"]["strength"] == adapted.strength


def test_people_with_too_few_pairs_are_left_out_and_counted(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted
) -> None:
    run = planted_run(store, synthetic(store, prompts=84, users=5))
    counts = open_frozen(store, run, None).pairs_of("test", "user").drop_nulls("user")["user"].value_counts()["count"]
    most = int(counts.max()) - 1  # type: ignore[arg-type]
    adapted = adapt(store, run, None, AdaptOptions("user", (most,)))
    assert adapted.groups == (counts > most).sum() > 0
    assert adapted.left_out == (counts <= most).sum() > 0


def test_intervals_are_over_users_and_prompts(store: StoreFolder, synthetic: Synthetic, planted_run: Planted) -> None:
    run = planted_run(store, synthetic(store, users=5))
    by_user, by_attribute = (adapt(store, run, None, AdaptOptions(by, (4,))) for by in ("user", "attribute"))  # type: ignore[arg-type]
    assert by_user.resampled == by_attribute.resampled == "users × prompts"
    assert by_user.clusters["users"] == by_user.groups
    table = by_user.adaptation
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    assert ((table["nll_low"] <= table["nll"]) & (table["nll"] <= table["nll_high"])).all()
    assert ((table["gain_low"] <= table["gain"]) & (table["gain"] <= table["gain_high"])).all()
    assert table.row(0, named=True)["gain_high"] == 0
    again = adapt(store, run, None, AdaptOptions("user", (4,)))
    folder = open_run(store, again.run).eval_folder("toy")
    assert json.loads((folder / "adapt-test.json").read_text())["record"]["intervals"] == "two-way t"


@pytest.mark.parametrize(
    ("shots", "counts"),
    [
        ((16,), (0, 1, 2, 4, 8, 16)),
        ((20,), (0, 1, 2, 4, 8, 16, 20)),
        ((1,), (0, 1)),
        ((8, 0, 3), (0, 3, 8)),
        ((5, 5), (0, 5)),
    ],
)
def test_numbers_of_shots(shots: tuple[int, ...], counts: tuple[int, ...]) -> None:
    assert AdaptOptions("user", shots).counts == counts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "user"}, "split 'test': no pair has a user; embed rows that do"),
        ({"by": "context"}, "no pair has a context; embed rows that do"),
        ({"shots": (1000,)}, r"none of the 2 groups by attribute .* has 1000 pairs .* \(the most pairs: 100\)"),
        ({"shots": (100,)}, "one of another prompt in 'test'"),
        ({"shots": ()}, "shots is '': expected a number such as 16"),
        ({"shots": (0,)}, "shots is '0'"),
        ({"shots": (-4, 2)}, "shots is '-4,2'"),
        ({"seed": -1}, "seed is -1: expected at least 0"),
        ({"tau": 0.0}, "tau is 0.0: expected a number above 0"),
        ({"tau": math.nan}, "tau is nan"),
        ({"tau": 2.0, "method": "fit"}, "method fit has no temperature"),
    ],
)
def test_bad_requests(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted, options: dict[str, Any], message: str
) -> None:
    run = planted_run(store, synthetic(store, context=False))
    with pytest.raises(BadInput, match=message) as caught:
        adapt(store, run, None, AdaptOptions(**{"by": "attribute", **options}))
    assert "\n" not in str(caught.value)


def test_runs_that_cannot_be_adapted(store: StoreFolder, synthetic: Synthetic, planted_run: Planted) -> None:
    features = synthetic(store, context=False)
    settings = {"router_input": "context", "reward_input": "plain"}
    options = AdaptOptions("attribute", (4,))
    child = adapt(store, planted_run(store, features), None, options).run
    for call in (lambda: adapt(store, child, None, options), lambda: evaluate(store, child)):
        with pytest.raises(BadInput, match=r"holds the weights of 2 groups over the heads of run planted"):
            call()
    with pytest.raises(BadInput, match="router of run planted reads; embed with `contexts`"):
        adapt(store, planted_run(store, features, settings=settings), None, options)
    with pytest.raises(BadInput, match="one head, so there is nothing to weigh; take a run of several heads"):
        adapt(store, planted_run(store, features, k=1), None, options)
    synthetic(store, name="other", seed=1)
    with pytest.raises(BadInput, match="unknown data set 'gone'"):
        adapt(store, planted_run(store, features), "gone", options)


def test_a_data_set_of_another_backbone_is_refused(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted
) -> None:
    features = synthetic(store)
    links = store.dataset("toy") / "links"
    (links / features).rename(links / "otherbackbone")
    with pytest.raises(BadInput, match=f"is not embedded with features {features}; run `micropref embed"):
        adapt(store, planted_run(store, features), None, AdaptOptions("attribute"))


def test_a_run_that_knows_people_takes_them_as_new(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted
) -> None:
    synthetic(store, users=5)
    run = train_method(store, "toy", "maxmin", MethodOptions(k=2)).run
    known = open_run(store, run).record["units"]
    assert known["kind"] == "user"
    assert len(known["names"]) == 10
    shares = open_run(store, run).tensors()["shares"].double()
    scored = open_frozen(store, run, None).score(
        "test", open_frozen(store, run, None).pairs_of("test", "user")["pair_id"]
    )
    assert torch.allclose(scored.scores.log_weights.exp(), shares.expand(len(scored.table), 2))


def test_drm_wants_heads_that_reward_a_response(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planted_run(store, synthetic(store))
    frozen = open_frozen(store, run, None)

    class Margins:
        scores = frozen.fitted.model.scores

        def state(self) -> dict[str, torch.Tensor]:
            return {"basis": torch.zeros(2, 2)}

    opened = replace(frozen, fitted=replace(frozen.fitted, model=Margins()))
    monkeypatch.setattr("micropref.pipeline.people.adapt.open_frozen", lambda *_: opened)
    with pytest.raises(BadInput, match=r"run planted \(static\): its heads give no reward to a response alone"):
        adapt(store, run, None, AdaptOptions("attribute", (4,), "drm"))


def test_the_command_prints_curves_and_refuses_what_have_no_effect_online(
    store: StoreFolder, synthetic: Synthetic, planted_run: Planted
) -> None:
    run = planted_run(store, synthetic(store, users=5))
    words = ["adapt", run, "--by", "user", "--store", str(store.root)]

    def invoke(*more: str) -> Any:
        return CliRunner().invoke(cli.app, [*words, *more])

    report = json.loads(invoke("--shots", "2", "--method", "hyre", "--json").stdout)
    assert [row["shots"] for row in report["adaptation"]] == [0, 1, 2]
    assert [line.split()[0] for line in invoke("--shots", "2").stdout.split("\n\n")[1].splitlines()[-3:]] == [
        "0",
        "1",
        "2",
    ]
    online = json.loads(invoke("--online", "--json").stdout)
    names = ["router", "log-loss", "fixed-share", "linear", "linear-anytime"]
    assert [row["forecaster"] for row in online["forecasters"]] == names
    assert len(online["regret"]) == 5 * online["groups"] == 50
    assert {row["switches"] for row in online["regret"] if row["forecaster"] == "fixed-share"} == {1}
    assert "40 of 40 regrets are within their bound" in invoke("--online").stdout
    refused = invoke("--online", "--shots", "4", "--tau", "2")
    assert refused.exit_code == 2
    assert "leave out --shots, --tau" in refused.stderr
    assert "leave out --out" in invoke("--online", "--out", "people").stderr
    assert "there is no folder" in invoke("--out", "no/people").stderr
    assert "--switches is 2: only --online" in invoke("--switches", "2").stderr
    listed = CliRunner().invoke(cli.app, ["ls", "--store", str(store.root), "--json"])
    changed = {row["run"]: row["data_changed"] for row in json.loads(listed.stdout)["runs"]}
    assert [value for name, value in changed.items() if name.startswith("adapt-")] == [False] * 3
