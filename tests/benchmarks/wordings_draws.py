"""Draws of `make bench-wordings`: which wordings and prompts are trained on, and who chose what.

N pairs, C contexts, P prompts, D embedding width. Choices are made as in the demo: a group likes one of two styles with
σ(SHARPNESS · ranks apart). Test pairs have prompts and wordings of their own; validation pairs, as in `train`, have
prompts of their own and the wordings of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from wordings_vectors import GROUPS, STYLES, Vectors, Wordings

from micropref.heads.fitting.settings import PairTensors
from micropref.pipeline.demo import generate as demo

Shape = Literal["demo", "interaction", "unique"]
"""demo: a group has one taste; interaction: on every second topic the taste of its opposite; unique: as demo, and every
fit pair has a context of its own."""
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
    part = torch.rand(prompts, generator=generator)
    test = part < TEST_PROMPTS
    validation = ~test & (part < TEST_PROMPTS + VALIDATION_PROMPTS)
    made = (
        _pairs(wordings, known, ~test & ~validation, shape, sizes.fit, generator),
        _pairs(wordings, known, validation, shape, sizes.validation, generator),
        _pairs(wordings, ~known, test, shape, sizes.test, generator),
    )
    return Draw(*made)


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
    return Pairs(*torch.tensor(numbers).T)


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
    context, prompt = torch.empty(2, count, dtype=torch.int64)
    topic = wordings.topic[: len(prompts)]
    for g in range(len(GROUPS)):
        mine, there = group == g, at_home == g
        context[mine] = pick(torch.nonzero(contexts & (wordings.group == g)).flatten(), int(mine.sum()))
        prompt[there] = pick(torch.nonzero(prompts & (topic % len(GROUPS) == g)).flatten(), int(there.sum()))
    taste = group
    if shape == "interaction":
        taste = torch.where(wordings.topic[prompt] % 2 == 0, group, OPPOSITE[group])
    first = torch.randint(len(STYLES), (count,), generator=generator)
    second = (first + torch.randint(1, len(STYLES), (count,), generator=generator)) % len(STYLES)
    ahead = RANKS[taste, second] - RANKS[taste, first]
    agrees = torch.rand(count, generator=generator) < torch.sigmoid(demo.SHARPNESS * ahead)
    return Pairs(context, prompt, torch.where(agrees, first, second), torch.where(agrees, second, first), group)


def tensors(pairs: Pairs, vectors: Vectors, router: torch.Tensor, rows: torch.Tensor) -> PairTensors:
    """Return pairs as a fit takes them; `rows` of the router's input is the one each pair reads."""
    return PairTensors(pairs.delta(vectors), router, pairs.context, rows)
