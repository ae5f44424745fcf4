"""What a router reads, from training to routing: every choice, as a slow reference reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from micropref.cache.choices import RouterInput
from micropref.cache.datasets import open_dataset
from micropref.cache.runs.records import open_run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import context_keys
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.pair_features import load_pairs
from micropref.cache.vectors.router_inputs import contexts_to_read
from micropref.cli import app
from micropref.heads.evaluation.metrics import correct
from micropref.heads.mixture import Mixture
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.evaluation.wordings import compare_wordings
from micropref.pipeline.routing.route import RouteOptions, route

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


def test_auto_takes_contexts_by_themselves_where_they_have_vectors(store: StoreFolder, synthetic: Synthetic) -> None:
    features = open_features(store, synthetic(store, prompts=40))
    dataset = open_dataset(store, "toy")
    assert contexts_to_read(dataset, features, "train") == "context"
    shutil.rmtree(features.folder / "contexts")
    assert context_keys(features).is_empty()
    assert contexts_to_read(dataset, features, "train") == "context+prompt"
    bare = open_features(store, synthetic(store, "bare", prompts=40, context=False))
    assert contexts_to_read(open_dataset(store, "bare"), bare, "train") == "prompt"
