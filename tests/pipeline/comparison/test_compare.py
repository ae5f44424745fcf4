"""`compare`: what is scored, that nothing learned from is, and that each row says what it is."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.cli import app
from micropref.heads.adaptation.router_refit import RouteSetting, refit_router
from micropref.heads.evaluation.metrics import correct
from micropref.heads.mixture import Mixture
from micropref.pipeline.comparison.compare import run_comparison
from micropref.pipeline.comparison.entries import entries
from micropref.pipeline.comparison.experiment import NO_ATTRIBUTE, Experiment, ExperimentOptions
from micropref.pipeline.embedding.embed import EmbedOptions, embed
from micropref.pipeline.sources.ingest import SourceOptions

Fill = Callable[..., str]
QUICK = ["single", "ensemble", "ensemble-best", "ensemble-oracle", "hyre", "drm-shots", "ceiling"]


def silent(line: str) -> None:
    pass


@pytest.fixture
def embedded(
    store: StoreFolder, tmp_path: Path, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path]
) -> StoreFolder:
    """Return a store with data set `made`: 90 prompts, two attributes with a context each, users, half of them test."""
    contexts = {"warm": "Prefer the friendly answer.", "cold": "Prefer the dry answer."}
    rows = []
    for number in range(90):
        friendly, dry = f"Thing {number} is lovely, my friend", f"Thing {number} is in the manual"
        for attribute in contexts:
            chosen, rejected = (friendly, dry) if attribute == "warm" else (dry, friendly)
            row = {"prompt": f"What is thing {number}?", "chosen": chosen, "rejected": rejected}
            rows.append(row | {"attribute": attribute, "context": contexts[attribute], "user": f"u{number % 5}"})
    options = EmbedOptions(backbone=str(tiny_backbone("llama")))
    embed(store, [write_rows(rows)], "made", SourceOptions(split_by_prompt=0.5), options)
    return store


def test_every_row_runs_or_says_why_not(embedded: StoreFolder) -> None:
    options = ExperimentOptions(shots=3, budget=4, seeds=1, k=2)
    compared = run_comparison(embedded, "made", None, options, silent)
    assert {row.system for row in compared.rows} | set(compared.skipped) == set(entries())
    assert set(compared.skipped) == {"own-head", "armo", "armo-contexts"}
    assert "ratings" in compared.skipped["armo"]
    for row in compared.rows:
        assert set(row.accuracy) == {"warm", "cold", "average"}
        assert row.accuracy["average"] == pytest.approx((row.accuracy["warm"] + row.accuracy["cold"]) / 2)
        assert row.low["average"] <= row.accuracy["average"] + 1e-9 <= row.high["average"] + 2e-9
    figures = {row.system: row.accuracy["average"] for row in compared.rows}
    assert figures["ceiling"] > 0.9  # every attribute has one taste
    assert figures["micro-contexts"] > 0.9  # and a context that names it
    assert 0.3 < figures["single"] < 0.7  # opposite tastes on the same responses
    learns = {row.system: row.supervision for row in compared.rows}
    assert learns["lore"] == "pairs with users"
    titles = {row.system: row.title for row in compared.rows}
    assert (titles["micro"], titles["micro-example"]) == ("MiCRo, targets per context", "MiCRo, targets per example")
    assert compared.warnings == []


def test_micro_has_a_row_for_each_kind_of_target(embedded: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def refit(router: Any, budget: Any, setting: RouteSetting, tau: float) -> Any:
        seen.append(setting.target)
        return refit_router(router, budget, setting, tau)

    monkeypatch.setattr("micropref.pipeline.comparison.entries.refit_router", refit)
    experiment = Experiment(embedded, "made", ExperimentOptions(shots=3, budget=6, seeds=1, k=2), silent)
    found = [entries()[name].predict(experiment)[0].scored for name in ("micro", "micro-example")]
    assert seen == ["context", "example"]
    assert not torch.equal(*found)


def test_lam_reaches_the_mixtures_and_the_papers_is_the_default_of_its_tables(
    store: StoreFolder, synthetic: Fill
) -> None:
    synthetic(store, prompts=160)

    def spread(lam: float) -> float:
        """Return how far weights are from uniform: the mean KL that λ is the price of."""
        experiment = Experiment(store, "toy", ExperimentOptions(shots=5, seeds=1, k=2, lam=lam), silent)
        (model,) = experiment.models("mixture", "prompt")
        weights = model.scores(experiment.scored(frozenset({"router"}), "prompt")).log_weights
        return float((weights.exp() * weights).sum(1).mean()) + math.log(2)

    assert spread(5.0) < 0.2 * spread(0.0)
    assert ExperimentOptions().method_options.lam is None
    preset = ExperimentOptions(paper="rpr").method_options
    assert (preset.k, preset.lam) == (10, 0.5)
    given = ExperimentOptions(paper="rpr", k=3, lam=0.0).method_options
    assert (given.k, given.lam) == (3, 0.0)


def test_the_single_row_is_that_of_its_model(store: StoreFolder, synthetic: Fill) -> None:
    synthetic(store, prompts=160)
    experiment = Experiment(store, "toy", ExperimentOptions(shots=5, seeds=2), silent)
    predicted = entries()["single"].predict(experiment)
    right = torch.stack([one.right() for one in predicted])
    test = experiment.test(frozenset(), "prompt")
    for seed, model in enumerate(experiment.models("single", "prompt")):
        log_p = Mixture.from_state(model.state()).log_probability(test.delta, None)
        assert torch.equal(right[seed], correct(log_p[experiment.rows]))
    compared = run_comparison(store, "toy", ["single"], ExperimentOptions(shots=5, seeds=2), silent)
    mine = (experiment.scored_group == experiment.groups.index("a")).numpy()
    assert compared.rows[0].accuracy["a"] == pytest.approx(right.numpy()[:, mine].mean())
    assert compared.rows[0].difference["average"] == 0
    by_seed = right.numpy()[:, mine].mean(1)
    assert compared.rows[0].deviation["a"] == pytest.approx(by_seed.std(ddof=1))


def test_no_shot_is_scored(store: StoreFolder, synthetic: Fill) -> None:
    for seed in range(6):
        synthetic(store, f"toy{seed}", prompts=80 + 40 * seed, seed=seed)
        experiment = Experiment(store, f"toy{seed}", ExperimentOptions(shots=2 + seed, budget=3), silent)
        prompts = experiment.table["prompt_id"]
        for number, group in enumerate(experiment.groups):
            own = prompts[experiment.rows[experiment.scored_group == number].numpy()]
            shots = experiment.table[experiment.shots[number].numpy()]
            assert shots["attribute"].unique().to_list() == [group]
            assert len(shots) == 2 + seed
            assert not set(shots["prompt_id"]) & set(own)
            assert len(own)


def test_a_target_without_train_split_gives_its_budget_and_never_scores_it(store: StoreFolder, synthetic: Fill) -> None:
    synthetic(store, "toy", prompts=120)
    synthetic(store, "other", prompts=200, seed=4)
    for path in (store.dataset("other") / "pairs").glob("train-*"):
        path.unlink()
    experiment = Experiment(store, "toy", ExperimentOptions(shots=4, budget=9, route_on="other"), silent)
    assert (experiment.budget_from, experiment.target.name) == ("test", "other")
    taken = experiment.table.filter(
        pl.Series(range(experiment.table.height)).is_in(experiment.budget_rows.flatten().tolist())
    )
    assert taken.height == 9 * len(experiment.groups)
    assert set(experiment.shots.flatten().tolist()) <= set(experiment.budget_rows.flatten().tolist())
    assert not set(taken["prompt_id"]) & set(experiment.table[experiment.rows.numpy()]["prompt_id"])


def test_an_oracle_is_never_below_the_honest_choice_and_is_labelled(store: StoreFolder, synthetic: Fill) -> None:
    synthetic(store, prompts=240)
    compared = run_comparison(store, "toy", QUICK, ExperimentOptions(shots=5, seeds=1, k=3), silent)
    rows = {row.system: row for row in compared.rows}
    assert set(compared.scored) == {"a", "b", NO_ATTRIBUTE}
    for group in (*compared.scored, "average"):
        assert rows["ensemble-oracle"].accuracy[group] >= rows["ensemble-best"].accuracy[group]
    assert "oracle" in rows["ensemble-oracle"].title
    assert rows["ceiling"].accuracy["average"] > rows["single"].accuracy["average"] + 0.1
    assert rows["ceiling"].difference_low["average"] > 0
    assert rows["single"].deviation["average"] is None


def test_attributes_with_few_pairs_are_left_out_and_named(store: StoreFolder, synthetic: Fill) -> None:
    synthetic(store, prompts=100)
    with pytest.raises(BadInput, match="no attribute has more than 25 pairs"):
        Experiment(store, "toy", ExperimentOptions(shots=25), silent)


def test_the_command_prints_the_table_and_one_json_object(store: StoreFolder, synthetic: Fill) -> None:
    synthetic(store, prompts=120)
    arguments = ["compare", "toy", "--store", str(store.root), "--methods", "single,hyre", "--seeds", "2"]
    arguments += ["--shots", "4", "--k", "2", "--paper", "helpsteer2"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    for text in ("Single reward", "HyRe", "0.7632", "the paper disagrees with itself", "Δ vs. single", "λ = 0.5"):
        assert text in shown.stdout
    assert "with context from" not in shown.stdout  # neither row learns from a budget
    found: dict[str, Any] = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [row["system"] for row in found["rows"]] == ["single", "hyre"]
    assert found["rows"][0]["published"] == {"average": 0.7632}
    assert found["published_heads"] == []  # none of its attributes is here
    assert "published, other backbone" in shown.stdout
    assert math.isclose(
        sum(found["scored"].values()), len(Experiment(store, "toy", ExperimentOptions(shots=4), silent).rows)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "single,magic"], "methods has 'magic'"),
        (["--shots", "0"], "shots is 0"),
        (["--seeds", "0"], "seeds is 0"),
        (["--paper", "transfer"], "paper is 'transfer'"),
        (["--split", "nope"], "has no split 'nope'"),
        (["--split", "train"], "split is 'train': methods are fitted on it; score another one"),
        (["--lam", "-1"], "lam is -1.0: expected a finite number of at least 0"),
        (["--methods", "armo"], "ratings"),
        (["--route-on", "elsewhere"], "elsewhere"),
        (["--methods", "micro", "--budget", "400"], "budget is 400"),
    ],
)
def test_bad_input_is_one_line(store: StoreFolder, synthetic: Fill, arguments: list[str], message: str) -> None:
    synthetic(store, prompts=120)
    result = CliRunner().invoke(app, ["compare", "toy", "--store", str(store.root), "--shots", "4", *arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
