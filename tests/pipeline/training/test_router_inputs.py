"""What a router reads, from training to routing: every choice, as a slow reference reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from micropref.cache.choices import RouterInput
from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs.records import open_run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import add_context_keys, context_keys
from micropref.cache.vectors.gathering import gather_keys
from micropref.cache.vectors.opening import open_features, planned_features
from micropref.cache.vectors.pair_features import load_pairs
from micropref.cache.vectors.router_inputs import contexts_to_read
from micropref.cli import app
from micropref.heads.evaluation.metrics import correct
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.heads.mixture import Mixture
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.evaluation.wordings import compare_wordings
from micropref.pipeline.people.adapt import AdaptOptions, adapt
from micropref.pipeline.routing.route import RouteOptions, route
from micropref.pipeline.training.fitted_contexts import count_known, open_contexts
from micropref.pipeline.training.train import TrainOptions, train

Synthetic = Callable[..., str]
WIDTHS: dict[RouterInput, int] = {
    "prompt": 16, "context": 16, "context+prompt": 16, "difference": 16, "context,prompt": 32,
}  # fmt: skip


@pytest.mark.parametrize("reads", WIDTHS)
def test_a_run_reads_the_same_from_training_to_routing(
    store: StoreFolder, synthetic: Synthetic, reads: RouterInput
) -> None:
    features = open_features(store, synthetic(store, prompts=200))
    asked = ["train", "toy", "--k", "2", "--restarts", "1", "--epochs", "3", "--router-input", reads]
    done = CliRunner().invoke(app, [*asked, "--store", str(store.root), "--json"])
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)["record"]
    assert (record["settings"]["router_input"], record["router_reading"]) == (reads, 2)
    assert record["lam"] == record["settings"]["lam"] == (0.1 if reads == "prompt" else 0.03)
    run = open_run(store, record["run"])
    tensors = run.tensors()
    assert tensors["router.v1"].shape[1] == WIDTHS[reads]
    assert ("no_context" in tensors) == (reads != "prompt")
    test = load_pairs(open_dataset(store, "toy"), features, "test", router_input=reads)
    assert bool(test.router.isnan().any()) == (reads != "prompt"), "a third of the pairs has no context"
    evaluation = evaluate(store, run.id)
    right = correct(Mixture.from_state(tensors).log_probability(test.delta, test.router))
    assert evaluation.accuracy == pytest.approx(float(right.mean()))
    assert evaluation.without_context == (0 if reads == "prompt" else len(test) // 3)
    if reads == "prompt":
        assert evaluation.wordings is None
    else:
        assert evaluation.wordings is not None
        assert (evaluation.wordings.trained, evaluation.wordings.here, evaluation.wordings.new) == (2, 2, 0)
    routed = open_run(store, route(store, run.id, None, RouteOptions((3,))).run)
    assert routed.record["settings"]["router_input"] == ("context" if reads == "prompt" else reads)
    assert evaluate(store, routed.id).pairs > 0


def test_new_wordings_are_told_apart() -> None:
    frame = pl.DataFrame({"context": ["a", "a", "b", None]})
    found = compare_wordings(frame, {"a", "c"}, torch.tensor([0.9, 0.1, 0.8, 0.2]).log())
    assert found is not None
    assert (found.trained, found.here, found.new, found.seen_pairs, found.new_pairs) == (2, 2, 1, 2, 1)
    assert (found.seen_accuracy, found.new_accuracy) == (0.5, 1.0)
    assert compare_wordings(frame.filter(pl.col("context").is_null()), {"a"}, torch.tensor([0.2]).log()) is None


def test_new_contexts_that_resemble_fitted_ones_are_counted(store: StoreFolder, synthetic: Synthetic) -> None:
    features = open_features(store, synthetic(store, prompts=240, wordings=4))
    options = TrainOptions(restarts=1, router_input="context")
    run = open_run(store, train(store, "toy", FitSetting("mixture", 2), FitPlan(epochs=1), options).run)
    assert (run.record["context_known"]["contexts"], run.record["context_known"]["of"]) == (6, 6)
    known = open_contexts(run)
    assert known is not None
    own = dict(context_keys(features).iter_rows())
    vectors = gather_keys(features, pl.Series(list(own.values()), dtype=pl.Binary))
    assert known.knows(vectors).all()
    assert known.knows(1.7 * vectors).all()
    assert not known.knows(-vectors).any()
    assert count_known(run, features, pl.Series(["a1", "b2", "b2", "not embedded"])) == 2
    assert verify(store).problems == []
    frame = pl.DataFrame({"context": ["a", "b"]})
    found = compare_wordings(frame, {"a"}, torch.tensor([0.9, 0.1]).log(), lambda new: len(new))
    assert found is not None
    assert found.context_known == 1
    seen = evaluate(store, run.id).wordings
    assert seen is not None
    assert (seen.new, seen.context_known) == (2, 2)
    on_prompts = TrainOptions(restarts=1, router_input="prompt")
    bare = open_run(store, train(store, "toy", FitSetting("mixture", 2), FitPlan(epochs=1), on_prompts).run)
    assert open_contexts(bare) is None
    assert "context_known" not in bare.record


def other_features(store: StoreFolder, synthetic: Synthetic, width: int = 5) -> str:
    """Vectors of the toy contexts by another backbone: the first entries of what the pairs' own has, turned round."""
    own = open_features(store, synthetic(store, prompts=200, wordings=3))
    keys = dict(context_keys(own).iter_rows())
    vectors = gather_keys(own, pl.Series(list(keys.values()), dtype=pl.Binary)).numpy()
    other = planned_features(store, {"width": width, "store_dtype": "float32", "max_length": 9})
    other.create({"name": "another"}, None)
    other.write_shard(list(keys.values()), -vectors[:, :width], {})
    add_context_keys(other, keys)
    return other.id


@pytest.mark.parametrize("reads", ["auto", "context", "context,prompt"])
def test_contexts_are_read_by_another_backbone(store: StoreFolder, synthetic: Synthetic, reads: Any) -> None:
    other = open_features(store, other_features(store, synthetic))
    (own_id,) = open_dataset(store, "toy").linked_features()
    options = TrainOptions(restarts=2, router_input=reads, features=own_id, router_features=other.id)
    run = open_run(store, train(store, "toy", FitSetting("mixture", 2), FitPlan(epochs=3), options).run)
    assert run.record["settings"]["router_features"] == other.id
    both = run.record["settings"]["router_input"] == "context,prompt"
    tensors = run.tensors()
    assert tensors["router.v1"].shape[1] == 5 + 16 * both
    dataset, own = open_dataset(store, "toy"), open_features(store, own_id)
    test = load_pairs(dataset, own, "test", router_input="context,prompt")
    expected = torch.cat([-test.router[:, :5], test.router[:, 16:]], 1)[:, : 5 + 16 * both]
    right = correct(Mixture.from_state(tensors).log_probability(test.delta, expected))
    assert evaluate(store, run.id).accuracy == pytest.approx(float(right.mean()))
    routed = open_run(store, route(store, run.id, None, RouteOptions((3,))).run)
    assert routed.record["settings"]["router_features"] == other.id
    assert evaluate(store, routed.id).pairs > 0
    assert adapt(store, run.id, None, AdaptOptions("attribute", (2,))).run


def test_other_features_have_to_hold_the_contexts(store: StoreFolder, synthetic: Synthetic) -> None:
    features = other_features(store, synthetic)
    (own,) = open_dataset(store, "toy").linked_features()
    fit = FitSetting("mixture", 2), FitPlan(epochs=1)
    options = TrainOptions(restarts=1, features=own, router_features=features)
    with pytest.raises(BadInput, match=r"contexts by themselves, and `router_input` is difference"):
        train(store, "toy", *fit, replace(options, router_input="difference"))
    with pytest.raises(BadInput, match="unknown features id 'gone'"):
        train(store, "toy", *fit, replace(options, router_features="gone"))
    shutil.rmtree(open_features(store, features).folder / "contexts")
    with pytest.raises(BadInput, match=rf"6 contexts have no vector of their own in features {features}, which"):
        train(store, "toy", *fit, options)


def test_auto_takes_contexts_by_themselves_where_they_have_vectors(store: StoreFolder, synthetic: Synthetic) -> None:
    features = open_features(store, synthetic(store, prompts=40))
    dataset = open_dataset(store, "toy")
    assert contexts_to_read(dataset, features, "train") == "context"
    shutil.rmtree(features.folder / "contexts")
    assert context_keys(features).is_empty()
    assert contexts_to_read(dataset, features, "train") == "context+prompt"
    bare = open_features(store, synthetic(store, "bare", prompts=40, context=False))
    assert contexts_to_read(open_dataset(store, "bare"), bare, "train") == "prompt"
