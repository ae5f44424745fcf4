"""Draws of `make bench-wordings`: which wordings and prompts are trained on, and who chose what.

N pairs, C contexts, P prompts, D embedding width. Choices are made as in the demo: a group likes one of two styles with
σ(SHARPNESS · ranks apart). Test pairs have prompts and wordings of their own; validation pairs, as in `train`, have
prompts of their own and the wordings of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from micropref.pipeline.demo import generate as demo
from tests.benchmarks.wordings_vectors import GROUPS, STYLES, Vectors, Wordings

Shape = Literal["demo", "interaction", "unique"]
"""demo: a group has one taste; interaction: on every second topic the taste of its opposite; unique: as demo, and every
pair has a context of its own, a mixture of the vectors of two wordings."""
RANKS = torch.tensor([[demo.TASTES[group].index(style) for style in STYLES] for group in GROUPS])
"""[groups, styles] place of a style in a group's ranking."""
OPPOSITE = torch.tensor([GROUPS.index(demo.OPPOSITE[group]) for group in GROUPS])
TEST_PROMPTS, VALIDATION_PROMPTS = 0.2, 0.1
"""Shares of prompts."""


@dataclass(frozen=True)
class Sizes:
    """Pairs of a draw."""

    fit: int = 6000
    validation: int = 800
    test: int = 4000


@dataclass(frozen=True)
class Pairs:
    """N pairs by numbers: contexts and prompts in the vectors, answers among the styles."""

    context: torch.Tensor
    prompt: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor
    group: torch.Tensor
    """Who chose: the context describes this group."""
    other: torch.Tensor
    """A second wording of the same group,"""
    share: torch.Tensor
    """and how much of it a pair's context has: 0 unless every pair has a context of its own."""

    def delta(self, vectors: Vectors) -> torch.Tensor:
        """Return Δ [N, D]."""
        return vectors.answers[self.prompt, self.chosen] - vectors.answers[self.prompt, self.rejected]

    def of(self, mask: torch.Tensor) -> Pairs:
        """Return the pairs of a mask or of numbers."""
        return Pairs(*(part[mask] for part in vars(self).values()))


@dataclass(frozen=True)
class Draw:
    """One draw."""

    fit: Pairs
    validation: Pairs
    test: Pairs


def draw(wordings: Wordings, seed: int, each: int, shape: Shape, sizes: Sizes, prompts: int) -> Draw:
    """Return a draw with `each` wordings a group in train, among the first `prompts` prompts."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.zeros(len(wordings.contexts), dtype=torch.bool)
    for group in range(len(GROUPS)):
        own = torch.nonzero(wordings.group == group).flatten()
        known[own[torch.randperm(len(own), generator=generator)[:each]]] = True
    test, validation = _held_prompts(wordings.topic[:prompts], generator)
    made = (
        _pairs(wordings, known, ~test & ~validation, shape, sizes.fit, generator),
        _pairs(wordings, known, validation, shape, sizes.validation, generator),
        _pairs(wordings, ~known, test, shape, sizes.test, generator),
    )
    return Draw(*made)


def _held_prompts(topic: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return masks [P] of test and of validation prompts, the same shares of every topic and one at least."""
    test, validation = torch.zeros(2, len(topic), dtype=torch.bool)
    for number in topic.unique():
        own = torch.nonzero(topic == number).flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        tested, held = (max(1, round(share * len(own))) for share in (TEST_PROMPTS, VALIDATION_PROMPTS))
        test[own[:tested]] = True
        validation[own[tested : tested + held]] = True
    return test, validation


def shipped(wordings: Wordings, rows: list[dict[str, str]], test: list[dict[str, str]]) -> Draw:
    """Return the demo's own pairs, a tenth of its training prompts held out for validation."""
    pairs, tested = (_of_rows(wordings, part) for part in (rows, test))
    prompts = torch.unique(pairs.prompt)
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0))
    held = torch.isin(pairs.prompt, prompts[order[: round(VALIDATION_PROMPTS * len(prompts))]])
    return Draw(pairs.of(~held), pairs.of(held), tested)


def _of_rows(wordings: Wordings, rows: list[dict[str, str]]) -> Pairs:
    context = {text: number for number, text in enumerate(wordings.contexts)}
    prompt = {text: number for number, text in enumerate(wordings.prompts)}
    numbers = [
        (
            context[row["context"]],
            prompt[row["prompt"]],
            wordings.answers[prompt[row["prompt"]]].index(row["chosen"]),
            wordings.answers[prompt[row["prompt"]]].index(row["rejected"]),
            GROUPS.index(row["attribute"]),
        )
        for row in rows
    ]
    return _plain(*torch.tensor(numbers).T)


def _plain(context: torch.Tensor, *more: torch.Tensor) -> Pairs:
    """Return pairs whose contexts are wordings as they are."""
    return Pairs(context, *more, other=context, share=torch.zeros(len(context)))


def _pairs(
    wordings: Wordings,
    contexts: torch.Tensor,
    prompts: torch.Tensor,
    shape: Shape,
    count: int,
    generator: torch.Generator,
) -> Pairs:
    """Return pairs whose contexts and prompts are among those of two masks, [C] and [P]."""

    def pick(among: torch.Tensor, n: int) -> torch.Tensor:
        return among[torch.randint(len(among), (n,), generator=generator)]

    group = torch.randint(len(GROUPS), (count,), generator=generator)
    home = torch.rand(count, generator=generator) < demo.HOME_SHARE
    at_home = torch.where(home, group, OPPOSITE[group])
    context, prompt, other = torch.empty(3, count, dtype=torch.int64)
    topic = wordings.topic[: len(prompts)]
    for g in range(len(GROUPS)):
        mine, there = group == g, at_home == g
        wording = torch.nonzero(contexts & (wordings.group == g)).flatten()
        place = torch.randint(len(wording), (int(mine.sum()),), generator=generator)
        step = torch.randint(1, max(2, len(wording)), place.shape, generator=generator)
        context[mine], other[mine] = wording[place], wording[(place + step) % len(wording)]
        prompt[there] = pick(torch.nonzero(prompts & (topic % len(GROUPS) == g)).flatten(), int(there.sum()))
    taste = group
    if shape == "interaction":
        taste = torch.where(wordings.topic[prompt] % 2 == 0, group, OPPOSITE[group])
    first = torch.randint(len(STYLES), (count,), generator=generator)
    second = (first + torch.randint(1, len(STYLES), (count,), generator=generator)) % len(STYLES)
    ahead = RANKS[taste, second] - RANKS[taste, first]
    agrees = torch.rand(count, generator=generator) < torch.sigmoid(demo.SHARPNESS * ahead)
    chosen, rejected = torch.where(agrees, first, second), torch.where(agrees, second, first)
    if shape != "unique":
        return _plain(context, prompt, chosen, rejected, group)
    return Pairs(context, prompt, chosen, rejected, group, other, torch.rand(count, generator=generator))
