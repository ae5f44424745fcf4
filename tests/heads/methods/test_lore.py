"""LoRe: its loss against a slow one, the people it finds, and newcomers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from micropref.heads.evaluation.metrics import accuracy
from micropref.heads.methods.adam import Recipe
from micropref.heads.methods.annotator_weights import per_unit
from micropref.heads.methods.base import Adaptable, MethodOptions, TrainingData
from micropref.heads.methods.lore import LoRe, LoReModel, Problem

OPTIONS = MethodOptions(k=3, device="cpu")


def problem(seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    delta, anchor = torch.randn(12, 5, generator=generator), torch.randn(5, generator=generator)
    units = torch.tensor([0, 0, 1, 2, 2, 2, 0, 1, 2, 2, 2, 2])
    return Problem(delta, units, per_unit(units), anchor, None, 0.7)  # type: ignore[arg-type]


def test_the_loss_is_the_published_one() -> None:
    lore, alpha = problem(), torch.tensor([0.0, 0.3])
    parts = lore.start(4, [1, 2])
    expected = torch.zeros(2, dtype=torch.float64)
    for seed in range(2):
        v, a = parts["v"][seed].double(), parts["a"][seed].double()
        for unit in range(3):
            rows = [row for row in range(12) if lore.units[row] == unit]
            for row in rows:
                reward = (torch.softmax(a[unit], 0)[:, None] * v).sum(0)
                logit = lore.delta[row].double() / 0.7 @ reward / 100
                expected[seed] -= torch.sigmoid(logit).log() / len(rows)
        expected[seed] += alpha[seed] * sum(((row - lore.anchor) ** 2).sum() for row in v)
    torch.testing.assert_close(lore.loss(parts, slice(None), alpha).double(), expected, rtol=1e-5, atol=1e-5)
    halves = [lore.loss(parts, slice(start, start + 6), alpha) for start in (0, 6)]
    torch.testing.assert_close(torch.stack(halves).mean(0).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def people(population: Callable[..., Any]) -> Any:
    return population()


@pytest.fixture(scope="module")
def fitted(people: Any) -> list[LoReModel]:
    return LoRe().fit(people.data, OPTIONS, [0, 1])  # type: ignore[return-value]


def test_known_people_are_served_nearly_as_well_as_can_be(people: Any, fitted: list[LoReModel]) -> None:
    for model in fitted:
        assert accuracy(model.scores(people.test).log_probability()) > 0.97 * people.bayes
        assert accuracy(model.scores(people.without_people()).log_probability()) < 0.6


def test_a_few_choices_tell_newcomers_apart(people: Any, fitted: list[LoReModel]) -> None:
    model, test = fitted[0], people.test
    assert isinstance(model, Adaptable)
    shots, rest = test.take(test.clusters % 2 == 0), test.take(test.clusters % 2 == 1)
    adapted = model.adapted(shots)
    assert accuracy(adapted.scores(rest).log_probability()) > 0.93 * people.bayes
    assert torch.equal(adapted.heads, model.heads)
    assert torch.equal(model.adapted(shots.take(slice(0))).scores(rest).log_weights[0], model.weights.unknown)  # type: ignore[arg-type]


def test_a_strong_pull_makes_one_reward_for_all(people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micropref.heads.methods.lore.STRENGTHS", (1e9,))
    monkeypatch.setattr("micropref.heads.methods.lore.RECIPE", Recipe(lr=0.5, steps=400, batch=4096))
    (model,) = LoRe().fit(people.data, OPTIONS, [0])
    heads = model.state()["heads"]
    torch.testing.assert_close(heads, heads[:1].expand_as(heads), atol=0.02, rtol=0)


def test_alpha_is_the_best_on_validation(people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data: TrainingData = people.data
    assert data.fitting.units is not None
    monkeypatch.setattr("micropref.heads.methods.lore.RECIPE", Recipe(lr=0.5, steps=60, batch=4096))
    units = data.fitting.units
    lore = Problem(data.fitting.delta, units, per_unit(units), torch.zeros(24), data.validation, 1.4)
    found = lore.best_alpha(2)
    alphas = [strength * 40 / (1e4 * len(units)) for strength in (1.0, 10.0, 100.0, 1000.0)]
    alone = [lore.fitted(2, [0], [alpha])[0].scores(data.validation).log_probability().mean() for alpha in alphas]
    assert found == pytest.approx(alphas[int(torch.stack(alone).argmax())])
