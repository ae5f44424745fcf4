"""Is personalisation worth it: yes where groups were planted, no without them, and no when people are shuffled."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from micropref import Store, cli
from micropref.cache.datasets import open_dataset
from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.pair_features import PairFeatures, load_pairs
from micropref.heads.adaptation.diagnosis import DiagnosisPlan
from micropref.pipeline.people.diagnose import UnitDiagnosis, _reason, diagnose, diagnose_kind

Synthetic = Callable[..., str]
Parts = tuple[PairFeatures, PairFeatures, PairFeatures]
CHEAP = DiagnosisPlan(k=2, restarts=1, device="cpu")


def parts_of(store: StoreFolder, synthetic: Synthetic, **changes: Any) -> Parts:
    """Return pairs to fit, validation and test pairs that name a user."""
    features = open_features(store, synthetic(store, users=10, **changes))
    dataset = open_dataset(store, "toy")
    train, test = (load_pairs(dataset, features, split, router_input="prompt") for split in ("train", "test"))
    named = [part.take(part.table["user"].is_not_null()) for part in (train, test)]
    fitting, validation = (named[0].take(named[0].table["part"] == name) for name in ("fit", "validation"))
    return fitting, validation, named[1]


def shuffled(parts: Parts, seed: int) -> Parts:
    """Deal the users of each part out anew."""
    parts_shuffled = [replace(p, table=p.table.with_columns(user=p.table["user"].shuffle(seed=seed))) for p in parts]
    return parts_shuffled[0], parts_shuffled[1], parts_shuffled[2]


def diluted(parts: Parts, share: float, seed: int) -> Parts:
    """Deal the users of so large a share of the pairs out anew."""
    others = shuffled(parts, seed)
    chosen = [pl.Series(np.random.default_rng(seed).random(len(part)) < share) for part in parts]
    mixed = [
        replace(part, table=part.table.with_columns(user=other.table["user"].zip_with(mask, part.table["user"])))
        for part, other, mask in zip(parts, others, chosen, strict=True)
    ]
    return mixed[0], mixed[1], mixed[2]


def found(parts: Parts, plan: DiagnosisPlan = CHEAP) -> UnitDiagnosis:
    diagnosis = diagnose_kind(*parts, "user", plan)
    assert diagnosis is not None
    return diagnosis


def test_planted_groups_are_worth_knowing(store: StoreFolder, synthetic: Synthetic) -> None:
    one = found(parts_of(store, synthetic))
    assert (one.worth_it, one.more_pairs, one.units) == ("yes", 0, 20)
    gains = (one.over_single, one.over_nobody, one.over_stranger)
    assert one.worth == min(gain.mean for gain in gains) > 0.2
    for gain, without in zip(gains, (one.single_nll, one.nobody_nll, one.stranger_nll), strict=True):
        assert 0 < gain.low < gain.mean < gain.high
        assert gain.mean == pytest.approx(without - one.unit_nll)
    assert one.by_count[1] < one.by_count[4] < one.by_count[16]


def test_people_of_one_taste_are_not_worth_knowing(store: StoreFolder, synthetic: Synthetic) -> None:
    fitting, validation, test = (p.take(p.table["attribute"] == "a") for p in parts_of(store, synthetic))
    one = found((fitting, validation, test))
    assert one.units == 10
    assert one.worth_it == "no"
    assert abs(one.over_stranger.mean) < 0.02


@pytest.mark.slow
def test_shuffled_people_are_not_worth_knowing(store: StoreFolder, synthetic: Synthetic) -> None:
    parts = parts_of(store, synthetic, prompts=200)
    assert found(parts).worth_it == "yes"
    assert [found(shuffled(parts, seed)).worth_it for seed in range(4)].count("yes") == 0


@pytest.mark.slow
def test_few_of_a_hundred_shuffles_are_taken_for_groups(store: StoreFolder, synthetic: Synthetic) -> None:
    parts = parts_of(store, synthetic, prompts=200)
    answers = [found(shuffled(parts, seed)).worth_it for seed in range(100, 200)]
    assert answers.count("yes") <= 10  # of 100 tables at a nominal 5 %


@pytest.mark.slow
def test_most_weak_effects_are_found(store: StoreFolder, synthetic: Synthetic) -> None:
    """Power: where half of the pairs name the wrong user, which leaves .07 nats, most are told: 7 of these ten."""
    parts = parts_of(store, synthetic, prompts=600)
    answers = [found(diluted(parts, 0.5, seed)).worth_it for seed in range(10)]
    assert answers.count("yes") >= 6
    assert "no" not in answers  # the others are too early to tell


def test_few_pairs_say_how_many_more_would_settle_it(store: StoreFolder, synthetic: Synthetic) -> None:
    """With a pair or two of each user to learn from, no gain says little: it is too early to tell."""
    fitting, validation, test = parts_of(store, synthetic, prompts=200)
    parts_shuffled = shuffled((fitting, validation, test), 0)
    few = parts_shuffled[0].take(parts_shuffled[0].table.select(pl.int_range(pl.len()).over("user") < 2).to_series())
    one = found((few, *parts_shuffled[1:]))
    assert (one.pairs_per_unit, one.worth_it, one.more_pairs) == (2, "not yet", 6)


def test_only_prompts_that_train_has_not_are_scored(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, users=5, prompts=120)
    one, *_ = diagnose(store, "toy", CHEAP).units
    test = open_dataset(store, "toy").linked_pairs(open_dataset(store, "toy").linked_features()[0], "test", ["user"])
    assert one.scored == test["user"].drop_nulls().len() - one.unknown


def test_every_kind_of_unit_has_a_row_and_a_line(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic(store, users=5, prompts=160)
    once = functools.cache(lambda *_: diagnose(store, "toy", CHEAP))  # both forms print the same diagnosis
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "micropref.pipeline.people.diagnose.diagnose", lambda *given, **_: (asked.append(given), once())[1]
    )
    words = ["diagnose", "toy", "--k", "2", "--restarts", "1", "--device", "cpu", "--store", str(store.root)]
    report = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).stdout)
    assert [(unit["kind"], unit["worth_it"]) for unit in report["units"]] == [
        ("user", "yes"),
        ("attribute", "yes"),
        ("context", "yes"),
    ]
    text = CliRunner().invoke(cli.app, words).stdout.splitlines()
    assert text[0].startswith("toy, by user: yes: knowing the user is worth +0.")
    assert [given[2] for given in asked] == [CHEAP, CHEAP]


def test_people_whose_taste_is_the_contexts_are_worth_knowing_with_it(store: StoreFolder, synthetic: Synthetic) -> None:
    """Users who choose in both contexts, by opposite tastes, are nobody by themselves."""
    parts = [
        replace(part, table=part.table.with_columns(user=pl.col("user").str.slice(1)))
        for part in parts_of(store, synthetic)
    ]
    alone, both = (diagnose_kind(*parts, kind, CHEAP) for kind in ("user", "user and context"))  # type: ignore[arg-type]
    assert alone is not None
    assert both is not None
    assert (alone.units, alone.worth_it) == (10, "no")
    assert (both.units, both.worth_it, both.scored) == (20, "yes", alone.scored)
    assert both.resampled == alone.resampled == "users"  # whose prompts nobody else chose on
    without = parts[0].take(parts[0].table["context"] == "a")
    assert diagnose_kind(without, *parts[1:], "user and context", CHEAP) is None


def test_data_that_names_nobody_is_refused(
    store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic(store, prompts=80)
    monkeypatch.setattr("micropref.pipeline.people.diagnose.KINDS", ("user",))
    with pytest.raises(BadInput, match=r"neither users, attributes nor contexts .* two of a kind or more") as caught:
        diagnose(store, "toy", CHEAP)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_there_are_no_more_groups_than_units(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, users=5, prompts=80)
    assert diagnose(store, "toy", replace(CHEAP, k=1000)) == diagnose(store, "toy", replace(CHEAP, k=10))


def test_the_defaults_of_diagnose_are_those_of_the_stage() -> None:
    import inspect

    told = {name: parameter.default for name, parameter in inspect.signature(Store.diagnose).parameters.items()}
    plan = DiagnosisPlan()
    assert {name: told[name] for name in ("k", "restarts", "device", "seed")} == {
        "k": plan.k,
        "restarts": plan.restarts,
        "device": plan.device,
        "seed": plan.seed,
    }


def test_units_that_cannot_be_scored_say_why() -> None:
    def table(*users: str | None) -> pl.DataFrame:
        return pl.DataFrame({"user": users}, schema={"user": pl.String})

    nobody, both, other = table(None), table("ann", "bob", None), table("eve")
    assert _reason((nobody, nobody, nobody), "user") is None
    assert _reason((both, both, other), "user") == "none of the 2 with pairs to fit has test pairs of new prompts too"
    assert _reason((both, other, both), "user") == "none of the 2 with pairs to fit has validation pairs too"
    assert _reason((other, both, both), "user") == "1 of them has pairs to fit, which takes two or more"
    assert _reason((nobody, both, both), "user") == "0 of them have pairs to fit, which takes two or more"
