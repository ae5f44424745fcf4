"""Fixtures for tests of the compared methods: people of two opposite tastes whose probabilities are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from micropref.heads.methods.base import NO_UNIT, Pairs, RatedResponses, TrainingData

WIDTH, PEOPLE, SIGNAL, SHARPNESS = 24, 40, 6, 3.0


@dataclass(frozen=True)
class Population:
    """Choices of people whose even numbers like what the odd ones dislike, or who all have one taste."""

    data: TrainingData
    test: Pairs
    bayes: float
    """Accuracy on the test pairs of who knows everybody's reward."""
    taste: torch.Tensor
    """[D] reward of the even numbers."""

    def without_people(self) -> Pairs:
        """The test pairs with nobody named."""
        return replace(self.test, units=torch.full((len(self.test),), NO_UNIT))


def populate(pairs: int = 5000, opposed: bool = True, group_in_prompt: bool = False, seed: int = 0) -> Population:
    """Draw pairs, the last 1,000 for the test; `group_in_prompt` puts the person's group into the embedded prompt.

    Ratings are of each response by either taste, with noise, and by verbosity, which nobody cares about.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    basis = torch.linalg.qr(normal(WIDTH, SIGNAL + 1)).Q
    taste = SHARPNESS / 2**0.5 * basis[:, :SIGNAL] @ torch.nn.functional.normalize(normal(SIGNAL), dim=0)
    first, second = (0.3 + normal(2, pairs, SIGNAL + 1) @ basis.T + 0.02 * normal(2, pairs, WIDTH)).unbind()
    people = torch.randint(PEOPLE, (pairs,), generator=generator)
    sign = 1 - 2.0 * (people % 2) if opposed else torch.ones(pairs)
    margin = sign * ((first - second) @ taste)
    swap = (torch.rand(pairs, generator=generator) > torch.sigmoid(margin))[:, None]
    chosen, rejected = torch.where(swap, second, first), torch.where(swap, first, second)
    prompt = normal(pairs, WIDTH) + (2 * sign[:, None] if group_in_prompt else 0)
    every = Pairs(chosen - rejected, prompt, torch.arange(pairs) // 4, chosen, rejected, people)
    edges = (0, pairs - 1500, pairs - 1000, pairs)
    fitting, validation, test = (every.take(torch.arange(a, b)) for a, b in itertools.pairwise(edges))
    rewards = torch.stack([taste, -taste, basis[:, SIGNAL]])
    assert fitting.chosen is not None
    ratings = fitting.chosen @ rewards.T + 0.3 * normal(len(fitting), 3)
    rated = RatedResponses(fitting.chosen, ratings, fitting.clusters, ("warm", "cold", "verbosity"))
    data = TrainingData(fitting, validation, tuple(f"u{n}" for n in range(PEOPLE)), "user", rated)
    return Population(data, test, torch.sigmoid(margin[edges[2] :].abs()).mean().item(), taste)


@pytest.fixture(scope="session")
def population() -> Callable[..., Population]:
    """Return the function that draws a population."""
    return populate
