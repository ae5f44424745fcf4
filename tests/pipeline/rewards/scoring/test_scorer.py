"""Rewards of texts equal what the store says of the same texts, for every kind of router and every taste."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import micropref
from micropref.cache.errors import BadInput
from micropref.cache.runs.records import open_run
from micropref.pipeline.rewards.scoring import scorer as stage
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.options import BackboneOptions
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
    return ScoringEngine.open(opened._store, run, BackboneOptions(device="cpu"))


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


@pytest.fixture
def routed(filled: micropref.Store) -> str:
    return str(filled.train("mine", k=3, restarts=1, epochs=3).run)


def test_weights_as_they_are(filled: micropref.Store, routed: str) -> None:
    one, other = engine(filled, routed).score(
        [Candidates("p", ("a", "b"), Taste(weights=weights)) for weights in ((1, 0, 0), (2, 2, 0))]
    )
    assert one.heads == other.heads
    assert one.heads[0] is not None
    assert one.rewards[0] == pytest.approx(one.heads[0][0])
    assert other.rewards[0] == pytest.approx((one.heads[0][0] + one.heads[0][1]) / 2)
    assert (one.weights, other.weights) == (pytest.approx((1, 0, 0)), pytest.approx((0.5, 0.5, 0)))


def test_an_attribute_has_the_mean_weights_of_its_train_pairs(filled: micropref.Store, routed: str) -> None:
    filled.evaluate(routed, split="train")
    mean = filled.sql(
        "SELECT head, avg(weight) AS weight FROM scores WHERE split = 'train' AND attribute = 'warm' "
        "GROUP BY head ORDER BY head"
    )["weight"]
    (found,) = engine(filled, routed).score([Candidates("p", ("a",), Taste(attribute="warm"))])
    assert found.weights == pytest.approx(mean.to_list(), abs=1e-5)
    with pytest.raises(BadInput, match="no pair has the attribute 'cosy'"):
        engine(filled, routed).heads.check(Taste(attribute="cosy"))


@pytest.mark.parametrize("method", ["hedge", "shrunk", "drm", "fit"])
def test_a_person_is_scored_as_adapt_predicts(filled: micropref.Store, routed: str, method: Any) -> None:
    adapted = filled.adapt(routed, "user", shots=[2], method=method, shots_from="train", out=filled.folder / "files")
    tensors = open_run(filled._store, adapted.run).tensors()
    record = filled.run(adapted.run).record
    scorer = engine(filled, adapted.run)
    at = record["groups"].index("u3")
    asked = Candidates("What is thing 3?", ("Gladly!", "See manual."), Taste("Prefer the dry answer.", user="u3"))
    (mine,), (own,) = scorer.score([asked]), scorer.score([replace(asked, taste=Taste("Prefer the dry answer."))])
    weights = tensors["weights"][at].double()
    if record["settings"]["routed"]:
        weights = weights * torch.tensor(own.weights, dtype=torch.float64)
    weights = weights / weights.sum()
    scale = tensors["scale"][at].double() if "scale" in tensors else torch.ones(3)
    assert mine.weights == pytest.approx(weights.tolist(), abs=1e-6)
    assert own.heads[0] is not None
    assert mine.rewards[0] == pytest.approx(float((weights * torch.tensor(own.heads[0]) / scale).sum()), abs=1e-6)
    # The same person's file in the run's own folder says the same.
    people = filled.run(routed)._run.folder / "people"
    people.mkdir()
    for file in (filled.folder / "files").iterdir():
        (people / file.name).write_bytes(file.read_bytes())
    (again,) = engine(filled, routed).score([asked])
    assert again.rewards == pytest.approx(mine.rewards)
    assert engine(filled, routed).score([replace(asked, taste=Taste(user="nobody"))])[0].rewards == (None, None)


def test_candidates_of_one_prompt_are_cut_to_one_text(
    tmp_path: Path, rows: list[dict[str, Any]], tiny_backbone: Callable[..., Path]
) -> None:
    """Responses of other lengths leave other parts of a long prompt; compared ones share one."""
    opened = micropref.Store(tmp_path / "store")
    options: dict[str, Any] = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32", "max_length": 120}
    opened.embed(rows, "mine", backbone=tiny_backbone("llama"), **options)
    run = opened.train("mine", k=2, restarts=1, epochs=3, router_input="prompt").run
    scorer = engine(opened, run)
    prompt, short, long = "word " * 60, "yes", "no " * 20
    together = Candidates(prompt, (short, long, "x" * 500), together=True)
    (apart,) = scorer.score([replace(together, together=False)])
    (found,) = scorer.score([together])
    assert found.trimmed == (True, True, False)
    assert found.reasons[2] == "too long: the response does not fit the backbone's 120 tokens"
    assert found.rewards[1] == pytest.approx(apart.rewards[1])  # the longest is cut as it would be alone
    assert found.rewards[0] != pytest.approx(apart.rewards[0])
    pair = opened.embed(
        [{"prompt": prompt, "chosen": short, "rejected": long}],
        "cut",
        backbone=tiny_backbone("llama"),
        device="cpu",
        dtype="float32",
        max_length=120,
        split="test",
    )
    assert pair.trimmed == 1
    opened.evaluate(run, data="cut")
    margin = opened.sql("SELECT margin FROM scores WHERE data = 'cut' AND head = 0")["margin"].item()
    assert found.heads[0] is not None
    assert found.heads[1] is not None
    assert found.heads[0][0] - found.heads[1][0] == pytest.approx(margin, abs=1e-5)


def test_what_cannot_be_scored_has_a_reason(filled: micropref.Store, routed: str) -> None:
    empty, known = engine(filled, routed).score([Candidates("", ("",)), Candidates("p", ("a",))])
    assert known.rewards[0] is not None
    assert (known.p_first, known.best, empty.rewards) == (None, 0, empty.rewards)
    static = filled.train("mine", method="static", k=2).run
    with pytest.raises(BadInput, match="reads no contexts"):
        engine(filled, static).heads.check(Taste("Be brief."))
    dpl = filled.train("mine", method="dpl-mean-variance").run
    with pytest.raises(BadInput, match="its heads give no reward to a response by itself"):
        engine(filled, dpl)


def test_another_backbone_is_refused(filled: micropref.Store, routed: str, make_backbone: Callable[..., Path]) -> None:
    other = make_backbone("llama", rms_norm_eps=1e-3)
    with pytest.raises(BadInput, match=r"is not the one that made features .*: its checkpoint is .*; give the folder"):
        ScoringEngine.open(filled._store, routed, BackboneOptions(str(other), "cpu"))


def test_chunks_do_not_change_rewards(filled: micropref.Store, routed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Candidates(f"q{at % 5}", (f"a{at}", f"b{at}"), Taste("Be brief.")) for at in range(20)]
    whole = engine(filled, routed).score(asked)
    monkeypatch.setattr(stage, "CHUNK_RESPONSES", 3)
    monkeypatch.setattr(stage, "KEPT_CONTEXTS", 0)
    parts = engine(filled, routed).score(asked)
    for one, other in zip(whole, parts, strict=True):
        assert one.rewards == pytest.approx(other.rewards, abs=1e-5)


def test_what_several_groups_ask_for_is_forwarded_once(filled: micropref.Store) -> None:
    scoring = engine(filled, filled.train("mine", k=2, restarts=1, epochs=2, router_input="prompt").run)
    asked = scoring.read([Candidates("One?", ("a", "b")), Candidates("One?", ("b", "c")), Candidates("Two?", ("a",))])
    texts = asked.chunk.texts
    assert len({text.content for text in texts}) == len(texts)
    first, second, third = asked.chunk.groups
    assert first.responses[1] == second.responses[0]
    assert first.prompt == second.prompt != third.prompt
    assert first.responses[0] != third.responses[0]
    found = list(scoring.rewarded(asked, scoring.forward(texts, asked.chunk.trees).result()))
    alone = scoring.score([Candidates("One?", ("b",))])
    assert found[0].rewards[1] == found[1].rewards[0] == pytest.approx(alone[0].rewards[0], abs=1e-5)
    assert found[0].tokens[0] == len(texts[first.responses[0] or 0])
    scoring.close()
