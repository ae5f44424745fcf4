"""Pairs drawn from a known mixture of groups: what fits of every size have to find again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from micropref.heads.fitting.settings import PairTensors
from micropref.heads.mixture import Mixture, Router

GROUPS, SIGNAL = 4, 32
NOISE = 0.1
"""Standard deviation in every direction of the width, where that of a signal direction is about 1."""
KINDS = 16
"""Contexts gather around so many centres,"""
WORDING = 0.5
"""each this far, in standard deviations of the centres, from its own."""
SHARPNESS = 6.0
"""Spread of the true router's logits: a context's likeliest group has weight .88 on average."""
STRENGTH = 3.0
"""Standard deviation of every true margin: a group's own reward is right about 84 % of its choices."""


@dataclass(frozen=True)
class Planted:
    """Pairs drawn from a known mixture, and that mixture."""

    fit: PairTensors
    validation: PairTensors
    test: PairTensors
    truth: Mixture


def plant(pairs: int, held_out: int, width: int, seed: int) -> Planted:
    """Return groups with their own rewards; which one chooses depends on the context through a linear router.

    Differences and contexts each lie in a random SIGNAL-dimensional subspace of the width, plus NOISE. A tenth of the
    pairs is to validate, those held out are to test.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def spread(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        basis = torch.linalg.qr(normal(width, SIGNAL)).Q
        return rows @ basis.T + NOISE * normal(len(rows), width), basis

    total = pairs + held_out
    delta, reward_basis = spread(normal(total, SIGNAL))
    kind = torch.randint(KINDS, (total,), generator=generator)
    context, context_basis = spread(normal(KINDS, SIGNAL)[kind] + WORDING * normal(total, SIGNAL))
    heads = STRENGTH * torch.nn.functional.normalize(normal(GROUPS, SIGNAL)) @ reward_basis.T
    router = SHARPNESS * torch.linalg.qr(normal(SIGNAL, GROUPS)).Q.T @ context_basis.T
    truth = Mixture(heads, Router(None, None, router, torch.zeros(GROUPS)))
    group = torch.multinomial(truth.log_weights(context, total).exp(), 1, generator=generator)
    margin = truth.margins(delta).gather(1, group).squeeze(1)
    prefers = torch.rand(total, generator=generator) < torch.sigmoid(margin)
    delta *= (2 * prefers.float() - 1)[:, None]
    edges = itertools.pairwise([0, pairs * 9 // 10, pairs, total])
    return Planted(*(PairTensors(delta[a:b], context[a:b]) for a, b in edges), truth)


def dense(pairs: PairTensors) -> PairTensors:
    """Return the same pairs with a row of the router's input for each, shared or not."""
    assert pairs.router is not None
    router = pairs.router if pairs.router_rows is None else pairs.router[pairs.router_rows]
    return PairTensors(pairs.delta, router, pairs.units)


@pytest.fixture(scope="session")
def planted() -> Callable[[int, int, int, int], Planted]:
    """Return `planted(pairs, held out, width, seed)`."""
    return plant


@dataclass(frozen=True)
class People:
    """Choices of people of GROUPS tastes whose prompts say nothing, and the heads that made them."""

    fit: PairTensors
    validation: PairTensors
    test: PairTensors
    group: tuple[torch.Tensor, torch.Tensor]
    """Group of each validation and test pair."""
    truth: torch.Tensor
    """[GROUPS, width]"""


def plant_people(people: int, each: int, width: int, seed: int) -> People:
    """Return `each` pairs of every person to fit, and one to validate and one to test on of whom there is need."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    held_out = min(people, 2000)
    person = torch.cat([torch.arange(people).repeat_interleave(each), *(torch.arange(held_out) for _ in range(2))])
    basis = torch.linalg.qr(normal(width, SIGNAL)).Q
    heads = STRENGTH * torch.nn.functional.normalize(normal(GROUPS, SIGNAL)) @ basis.T
    delta = normal(len(person), SIGNAL) @ basis.T + NOISE * normal(len(person), width)
    group = torch.randint(GROUPS, (people,), generator=generator)[person]
    margin = (delta * heads[group]).sum(1)
    delta *= (2 * (torch.rand(len(person), generator=generator) < torch.sigmoid(margin)).float() - 1)[:, None]
    prompt = normal(len(person), width)
    edges = list(itertools.pairwise([0, people * each, people * each + held_out, len(person)]))
    parts = [PairTensors(delta[a:b], prompt[a:b], person[a:b]) for a, b in edges]
    return People(*parts, (group[slice(*edges[1])], group[slice(*edges[2])]), heads)


@pytest.fixture(scope="session")
def planted_people() -> Callable[[int, int, int, int], People]:
    """Return `planted_people(people, pairs of each, width, seed)`."""
    return plant_people
