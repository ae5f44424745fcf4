"""The stacked fit with autograd, its networks, and weights by unit, against torch's own and slow loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from micropref.cache.errors import BadInput, Failure
from micropref.heads.methods.adam import ALL_PAIRS, Recipe, Rows, averaged, descend
from micropref.heads.methods.annotator_weights import (
    FEW_SHOT,
    UnitWeights,
    few_shot,
    known_pairs,
    pairs_of_units,
    per_unit,
)
from micropref.heads.methods.base import NO_UNIT, Pairs, TrainingData
from micropref.heads.methods.stacking import checked, generators, network, normal, one_seed, run_network, stacked

Parts = dict[str, torch.Tensor]


def pairs_of(units: torch.Tensor | None, count: int = 6) -> Pairs:
    return Pairs(torch.arange(2.0 * count).view(count, 2), torch.zeros(count, 2), torch.arange(count), units=units)


def squares(parts: Parts, rows: Rows) -> torch.Tensor:
    """Distance to the mean of the rows 0..9, per seed."""
    return (parts["x"] - torch.arange(10.0)[rows].mean()).square().sum(1)


def test_steps_are_those_of_adam_along_a_cosine() -> None:
    recipe = Recipe(lr=0.1, steps=7, batch=ALL_PAIRS, faster={"y": 0.5})
    start = {"x": torch.tensor([[0.0, 9.0]]), "y": torch.tensor([[1.0, 2.0]])}
    found = descend(start, lambda parts, rows: squares(parts, rows) + (parts["y"] ** 4).sum(1), 10, recipe)
    slow = {name: part.clone().requires_grad_() for name, part in start.items()}
    first, second = torch.optim.Adam([slow["x"]]), torch.optim.Adam([slow["y"]])
    for step in range(7):
        fall = (1 + math.cos(math.pi * step / 7)) / 2
        for optimizer, lr in ((first, 0.1), (second, 0.5)):
            optimizer.param_groups[0]["lr"] = lr * fall
            optimizer.zero_grad()
        ((slow["x"] - 4.5).square().sum() + (slow["y"] ** 4).sum()).backward()
        first.step()
        second.step()
    torch.testing.assert_close(found, {name: part.detach() for name, part in slow.items()})


def test_minibatches_are_the_same_for_one_seed_and_for_three() -> None:
    recipe = Recipe(lr=0.3, steps=40, batch=3)
    start = {"x": torch.tensor([[0.0], [5.0], [9.0]])}
    together = descend(start, squares, 10, recipe)["x"]
    assert torch.equal(descend({"x": start["x"][1:2]}, squares, 10, recipe)["x"], together[1:2])
    assert not torch.equal(together, descend(start, squares, 10, replace(recipe, batch=10))["x"])


def test_every_seed_keeps_its_own_best_check() -> None:
    looked: list[torch.Tensor] = []

    def validation(parts: Parts) -> torch.Tensor:
        looked.append(parts["x"].detach().clone())
        return (parts["x"] - torch.tensor([[1.0], [4.0]])).abs().sum(1)

    recipe = Recipe(lr=0.2, steps=60, batch=10, cosine=False)
    kept = descend({"x": torch.zeros(2, 1)}, squares, 10, recipe, validation)["x"]
    seen = torch.stack(looked)[:, :, 0]
    assert len(seen) == 12
    best = (seen - torch.tensor([1.0, 4.0])).abs().argmin(0)
    assert best[0] < best[1] < 11
    assert torch.equal(kept[:, 0], seen[best, torch.arange(2)])


def test_a_fit_that_leaves_the_numbers_is_a_failure() -> None:
    with pytest.raises(Failure, match="extreme features"):
        descend({"x": torch.ones(1, 1)}, lambda parts, _: parts["x"].sum(1) * math.inf, 3, Recipe(0.1, 2, 3))


def test_the_mean_over_chunks_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("micropref.heads.methods.adam.CHUNK", 4)
    values = torch.arange(10.0).square()
    mean = averaged(lambda parts, rows: values[rows].mean() * parts["x"], 10)
    torch.testing.assert_close(mean({"x": torch.tensor([1.0, 2.0])}), values.mean() * torch.tensor([1.0, 2.0]))


def test_networks_are_those_of_torch() -> None:
    parts = network(generators([3, 4]), (5, 7, 2))
    parts["b0"], parts["b1"] = normal(generators([1, 2]), 7), normal(generators([1, 2]), 2)
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    shared, own = run_network(parts, x), run_network(parts, x.expand(2, -1, -1))
    for seed in range(2):
        module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 2))
        names = {"0.weight": "v0", "0.bias": "b0", "2.weight": "v1", "2.bias": "b1"}
        module.load_state_dict({name: parts[part][seed] for name, part in names.items()})
        for outputs in (shared, own, run_network(stacked(one_seed(parts, seed)), x).expand(2, -1, -1)):
            torch.testing.assert_close(outputs[seed], module(x).detach())
    assert parts["v0"].abs().max() <= 5**-0.5


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.zeros(2, 3)}, "found tensors .'a'., expected .'a', 'b'."),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, "b has shape .4., expected .K."),
        ({"a": torch.zeros(2), "b": torch.zeros(2)}, "a has shape .2., expected .K, D."),
    ],
)
def test_tensors_that_do_not_fit_are_named(state: Parts, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(state, {"a": "KD", "b": "K"})


def test_unknown_units_get_the_mean_of_the_known_weights() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    weights = UnitWeights.of_logits(logits)
    torch.testing.assert_close(weights.unknown.exp(), torch.softmax(logits, 1).mean(0))
    found = weights.of(pairs_of(torch.tensor([1, NO_UNIT, 0, 7, 1, 1]))).exp()
    torch.testing.assert_close(found[[0, 2, 4]], torch.softmax(logits, 1)[[1, 0, 1]])
    torch.testing.assert_close(found[[1, 3]], weights.unknown.exp().expand(2, -1))
    torch.testing.assert_close(weights.of(pairs_of(None)), weights.unknown.expand(6, -1))


def test_units_count_alike_whatever_their_pairs() -> None:
    units = torch.tensor([0, 0, 0, 2])
    assert per_unit(units).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])


def test_only_pairs_of_known_units_are_fitted() -> None:
    data = TrainingData(pairs_of(torch.tensor([1, NO_UNIT, 0, NO_UNIT, 1, 1])), pairs_of(None))
    assert pairs_of_units(data, "X").clusters.tolist() == [0, 2, 4, 5]
    assert known_pairs(data.fitting, 1).clusters.tolist() == [2]
    assert len(known_pairs(data.validation, 5)) == 0
    with pytest.raises(BadInput, match="X learns from annotators"):
        pairs_of_units(TrainingData(pairs_of(None), pairs_of(None)), "X")


def test_few_shots_fit_every_unit_as_if_alone() -> None:
    generator = torch.Generator().manual_seed(5)
    margins, units = torch.randn(20, 3, generator=generator), torch.randint(3, (20,), generator=generator) * 2
    start = torch.log_softmax(torch.tensor([0.0, 1.0, 0.5]), 0)

    def fitted(rows: torch.Tensor, codes: torch.Tensor) -> UnitWeights:
        shots = replace(pairs_of(codes, len(rows)), units=codes)
        return few_shot(start, shots, lambda weights: torch.nn.functional.logsigmoid((weights * margins[rows]).sum(1)))

    together = fitted(torch.arange(20), units)
    torch.testing.assert_close(together.known[1], start)  # nobody has code 1
    slow = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([slow], lr=FEW_SHOT.lr)
    rows = (units == 2).nonzero()[:, 0]
    for _ in range(FEW_SHOT.steps):
        optimizer.zero_grad()
        loss = torch.zeros(())
        for row in rows:
            loss = loss - torch.sigmoid(torch.softmax(slow, 0) @ margins[row]).log() / len(rows)
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(together.known[2].exp(), torch.softmax(slow, 0).detach(), atol=1e-3, rtol=0)
    torch.testing.assert_close(fitted(rows, torch.zeros(len(rows), dtype=torch.long)).known[0], together.known[2])
    assert torch.equal(fitted(rows[:0], rows[:0]).of(pairs_of(torch.zeros(6, dtype=torch.long)))[0], start)
    with pytest.raises(ValueError, match="code of their unit"):
        fitted(rows, torch.full((len(rows),), NO_UNIT))
