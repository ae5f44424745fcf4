"""Every compared method through the command line, and what it is given to learn from, against slow look-ups."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner, Result

from micropref import cli
from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput
from micropref.cache.runs.records import open_run
from micropref.cache.schemas import KEY_COLUMNS, LINK_SCHEMA
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features
from micropref.heads.evaluation.metrics import accuracy
from micropref.heads.methods import armo, dpl, lore, pal
from micropref.heads.methods.base import NO_UNIT, MethodOptions
from micropref.heads.methods.registry import methods
from micropref.pipeline.evaluation import scoring
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.sources.ingest import SourceOptions, covered
from micropref.pipeline.sources.locations import locate
from micropref.pipeline.training import method_options as accepted
from micropref.pipeline.training.method_data import Reading, Units, open_method_data
from micropref.pipeline.training.method_runs import open_fitted, train_method

Synthetic = Callable[..., str]


def invoke(store: StoreFolder, *words: str) -> Result:
    return CliRunner().invoke(cli.app, [words[0], "--store", str(store.root), *words[1:]])


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the recipes short: what is fitted is tested elsewhere."""
    for module in (armo, dpl, lore, pal):
        monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, steps=12))


@pytest.mark.parametrize(
    ("unread", "said"),
    [
        (None, "own-head: the backbone of these features has no reward head; embed with one that has"),
        (
            "DebertaV2ForSequenceClassification with classifier.bias [1], classifier.weight [1, 16]",
            "has a head of a form that is not read (DebertaV2ForSequenceClassification with classifier.bias [1],",
        ),
    ],
)
def test_own_head_says_whether_there_is_a_head_of_another_form(
    store: StoreFolder, synthetic: Synthetic, unread: str | None, said: str
) -> None:
    features = synthetic(store, prompts=20)
    (store.features(features) / "about.json").write_text(json.dumps({"name": "synthetic", "unread_head": unread}))
    trained = invoke(store, "train", "toy", "--method", "own-head")
    assert trained.exit_code == 2
    assert said in " ".join(trained.stderr.split())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", methods())
def test_every_method_is_trained_and_evaluated(store: StoreFolder, synthetic: Synthetic, name: str) -> None:
    synthetic(store, prompts=60, users=3, ratings=True, reward_head=True)
    trained = invoke(store, "train", "toy", "--method", name, "--json")
    assert trained.exit_code == 0, trained.output
    record = json.loads(trained.stdout)["record"]
    assert (record["method"], record["parent"]) == (name, None)
    assert math.isfinite(record["validation_nll"])
    evaluated = invoke(store, "eval", record["run"], "--json")
    assert evaluated.exit_code == 0, evaluated.output
    evaluation = json.loads(evaluated.stdout)
    assert evaluation["pairs"] == 45
    # The same model on the same pairs in one piece.
    fitted = open_fitted(store, open_run(store, record["run"]))
    _, pairs = fitted.reading.pairs(open_dataset(store, "toy"), fitted.features, "test", pl.lit(True))
    assert evaluation["accuracy"] == pytest.approx(accuracy(fitted.model.scores(pairs).log_probability()))
    by_attribute = [row["accuracy"] for row in evaluation["mixture_accuracy"]]
    assert evaluation["lowest_accuracy"] == min(by_attribute)
    for shown in (invoke(store, "train", "toy", "--method", name), invoke(store, "eval", record["run"])):
        assert shown.exit_code == 0, shown.output
        assert record["run"] in shown.stdout
    assert invoke(store, "ls").exit_code == 0
    rows = json.loads(invoke(store, "sql", "SELECT method, k FROM runs", "--json").stdout)
    assert rows == [{"method": name, "k": record["k"]}]


def test_units_are_users_where_pairs_name_any(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=60, users=3)
    data = open_method_data(store, "toy", frozenset({"units"}))
    assert data.reading.units == Units("user", ("a0", "a1", "a2", "b0", "b1", "b2"))
    names = data.source.fitting.table["user"]
    assert data.training.fitting.units is not None
    for code, name in zip(data.training.fitting.units.tolist(), names, strict=True):
        assert (name is None) == (code == NO_UNIT)
        assert name is None or data.training.units[code] == name
    unknown_user = data.source.fitting.table.head(1).with_columns(user=pl.lit("nobody"))
    assert data.reading.units.codes(unknown_user).tolist() == [NO_UNIT]


def test_units_are_attributes_where_pairs_name_no_users(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=40)
    data = open_method_data(store, "toy", frozenset({"units"}))
    assert data.reading.units == Units("attribute", ("a", "b"))
    assert data.training.unit_kind == "attribute"


def test_responses_are_those_of_the_pairs(store: StoreFolder, synthetic: Synthetic) -> None:
    features = open_features(store, synthetic(store, prompts=20))
    reading = Reading("prompt", "plain", frozenset({"responses"}))
    table, pairs = reading.pairs(open_dataset(store, "toy"), features, "test", pl.col("attribute") == "b")
    chosen, rejected = pairs.responses()
    assert len(pairs) == len(table) == 5
    torch.testing.assert_close(chosen - rejected, pairs.delta)
    with pytest.raises(ValueError, match="without their responses"):
        Reading("prompt", "plain").pairs(open_dataset(store, "toy"), features, "test", pl.lit(True))[1].responses()


def test_ratings_find_the_vectors_of_their_responses(store: StoreFolder, synthetic: Synthetic) -> None:
    features = open_features(store, synthetic(store, prompts=40, ratings=True))
    rated = open_method_data(store, "toy", frozenset({"ratings"})).training.rated
    assert rated is not None
    assert rated.attributes == ("a", "b")
    part = open_dataset(store, "toy").of_split("train")[0]
    pairs, ratings = read_table(part, "pairs"), read_table(part, "ratings")
    links = pl.concat([pairs, read_table(open_dataset(store, "toy").links(part, features.id), "links").drop("pair_id")],
                      how="horizontal")  # type: ignore[arg-type]  # fmt: skip
    expected = {}
    for row in links.filter(pl.col("part") == "fit").iter_rows(named=True):
        for side in ("chosen", "rejected"):
            vector = features.gather(features.locate(pl.Series([row[f"{side}_key"]], dtype=pl.Binary)))[0]
            own = ratings.filter(pl.col("response_id") == row[f"{side}_id"])
            expected[tuple(vector.tolist())] = dict(own.select("attribute", "rating").iter_rows())
    assert len(expected) == len(rated.embedding)
    for vector, values in zip(rated.embedding.tolist(), rated.ratings.tolist(), strict=True):
        assert values == pytest.approx([expected[tuple(vector)][name] for name in "ab"], rel=1e-6)


def test_scores_come_in_pieces(store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic(store, prompts=40)
    run = train_method(store, "toy", "drm", MethodOptions()).run
    whole = evaluate(store, run)
    assert whole.scored == 30 + int(open_run(store, run).record["validation_pairs"])
    monkeypatch.setattr(scoring, "CHUNK", 7)
    other = train_method(store, "toy", "drm", MethodOptions(), seed=1).run
    pieces = evaluate(store, other)
    assert len(open_run(store, other).score_shards("toy", "test")) == math.ceil(30 / 7)
    same = [name for name in whole.head_accuracy.columns if name != "run"]
    assert pieces.head_accuracy.select(same).equals(whole.head_accuracy.select(same))
    assert pieces.scored == whole.scored
    assert evaluate(store, other).scored == 0


def test_runs_that_do_not_say_how_heads_combine_are_mixtures(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=60)
    trained = invoke(store, "train", "toy", "--k", "2", "--restarts", "1", "--epochs", "2", "--json")
    run = json.loads(trained.stdout)["run"]
    expected = evaluate(store, run).accuracy
    path = store.run(run) / "run.json"
    record = json.loads(path.read_text())
    assert record.pop("combine") == "probability"
    del record["digest"]  # as earlier versions wrote it
    path.write_text(json.dumps(record))
    assert evaluate(store, run).accuracy == expected


def test_a_split_whose_pairs_all_are_too_long_has_nothing_to_evaluate(store: StoreFolder, synthetic: Synthetic) -> None:
    features = synthetic(store, prompts=40)
    run = train_method(store, "toy", "drm", MethodOptions()).run
    dataset = open_dataset(store, "toy")
    links = dataset.links(dataset.of_split("test")[0], features)
    assert links is not None
    rows = [row | dict.fromkeys(KEY_COLUMNS) for row in read_table(links, "links").to_dicts()]
    file = write_table(links.folder, links.stem, "links", pa.Table.from_pylist(rows, LINK_SCHEMA))
    commit(links.folder, links.stem, {"links": file}, links.record)
    with pytest.raises(BadInput, match="no pair fits the backbone's length"):
        evaluate(store, run)


def without_response_ids(store: StoreFolder) -> None:
    """Store the train pairs as the first version did."""
    folder = store.dataset("toy")
    part = open_dataset(store, "toy").of_split("train")[0]
    links = open_dataset(store, "toy").links(part, store.names("features")[0])
    assert links is not None
    table = read_table(part, "pairs").drop("chosen_id", "rejected_id").to_arrow()
    file = write_table(folder / "pairs", part.stem, "pairs", table)
    commit(folder / "pairs", part.stem, {**part.files, "pairs": file}, part.record)
    commit(links.folder, links.stem, links.files, {**links.record, "pairs_digest": file.digest})


def test_pairs_of_the_first_version_are_trained_on_but_do_not_serve_ratings(
    store: StoreFolder, synthetic: Synthetic
) -> None:
    synthetic(store, prompts=60, ratings=True)
    without_response_ids(store)
    evaluate(store, train_method(store, "toy", "drm", MethodOptions()).run)
    with pytest.raises(BadInput, match=r"run `micropref embed made.jsonl --name toy --split train --replace`"):
        train_method(store, "toy", "armo", MethodOptions())


def test_pairs_of_the_first_version_are_stored_anew_by_embed(
    store: StoreFolder, write_rows: Callable[..., Path], tiny_backbone: Callable[..., Path], rows: list[dict[str, Any]]
) -> None:
    path = write_rows(rows[:30])
    words = ("embed", str(path), "--name", "toy", "--backbone", str(tiny_backbone("bert")), "--json")
    assert invoke(store, *words).exit_code == 0
    options = SourceOptions()
    assert covered(open_dataset(store, "toy"), locate(path)[0], options)
    without_response_ids(store)
    assert not covered(open_dataset(store, "toy"), locate(path)[0], options)
    again = invoke(store, *words)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["texts_embedded"] == 0
    assert covered(open_dataset(store, "toy"), locate(path)[0], options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "drm", "--k", "3"), "k has no effect with"),
        (("--method", "lore", "--lam", "0.2", "--hidden", "3"), "have no effect with"),
        (("--armo-gate", "paper"), "has no effect with"),
        (("--method", "single", "--restarts", "2"), "restarts has no effect with"),
        (("--method", "single", "--lr", "0.1"), "lr has no effect with"),
        (("--method", "single", "--device", "cpu", "--epochs", "3"), "have no effect with"),
        (("--solver", "scikit-learn"), "solver scikit-learn with --method mixture: it fits one head"),
        (("--method", "armo"), "data set 'toy', split 'train': it has no ratings"),
        (("--method", "armo", "--reward-input", "context"), "--responses context"),
        (("--method", "own-head"), "own-head: the backbone of these features has no reward head"),
        (("--method", "lore", "--features", "nothere"), "unknown features id 'nothere'"),
    ],
)
def test_bad_requests_are_one_line(
    store: StoreFolder, synthetic: Synthetic, words: tuple[str, ...], message: str
) -> None:
    synthetic(store, prompts=40)
    result = invoke(store, "train", "toy", *words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("drm", ["k"], "k has no effect with `method` drm; it accepts `features`, `reward_input`, `seed`"),
        ("lore", ["lam", "k", "hidden"], "`lam`, `hidden` have no effect with `method` lore; it accepts `device`"),
        (
            "single",
            ["epochs", "l2"],
            "epochs has no effect with `method` single; it accepts `features`, `k`, `l2`, `memory`, `projection`, "
            "`reward_input`, `seed`, `solver`, and with `solver` adamw `batch`, `data_seed`, `device`, `dtype`",
        ),
        ("static", ["router_input"], "router_input has no effect with `method` static; it accepts `anneal`, `batch`"),
        ("mixture", ["weight"], "weight has no effect with `latent` pair; leave it out, or give `latent` user"),
    ],
)
def test_options_without_effect_are_named_as_arguments(method: str, given: list[str], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        accepted.check_used(method, given, "pair")
    assert str(caught.value).startswith(message)


def test_single_takes_the_options_of_the_solver_that_is_asked_for() -> None:
    accepted.check_used("single", ["epochs", "lr", "solver"], "pair", "adamw")
    accepted.check_used("single", ["l2", "solver"], "pair", "scikit-learn")
    with pytest.raises(BadInput, match="lr has no effect"):
        accepted.check_used("single", ["lr", "solver"], "pair", "scikit-learn")


def test_runs_of_unknown_methods_are_refused(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=40)
    run = train_method(store, "toy", "drm", MethodOptions()).run
    path = store.run(run) / "run.json"
    record = json.loads(path.read_text()) | {"method": "magic"}
    del record["digest"]  # as earlier versions wrote it
    path.write_text(json.dumps(record))
    with pytest.raises(BadInput, match="unknown method 'magic': expected single, ensemble"):
        evaluate(store, run)


def test_every_option_of_train_is_known_to_change_something() -> None:
    (command,) = [one.callback for one in cli.app.registered_commands if one.callback.__name__ == "train"]
    offered = set(inspect.signature(command).parameters) - {"ctx"}
    assert offered == set(accepted.FIT) | accepted.EVERYWHERE | {"armo_gate"}
