"""How often intervals hold the truth, on simulated choices of people on prompts whose share of right ones is known.

N pairs, C columns, each a data set of its own on the same design.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from micropref.heads.evaluation.intervals import Sides, mean_intervals

COLUMNS = 100
"""Data sets drawn on one design; a new design, of other sizes of clusters, for each so many."""
ACCURACY, OTHER = 0.72, 0.66
"""Share of right ones by the method and by the one it is compared with."""


@dataclass(frozen=True)
class Cell:
    """One shape of data."""

    name: str
    prompts: int
    people: int = 0
    """0: nobody is named, prompts alone have several pairs."""
    share: float = 0.1
    """Of the prompts that a person chooses on."""
    wordings: int = 0
    """Texts that a person's context may have; 0: there are no contexts."""
    heavy: bool = False
    """Whether numbers of choices, of a person or else of a prompt, have a heavy tail."""
    spread: float = 0.25
    """How far a prompt's (and a person's) share of right ones may be from the mean."""

    @property
    def target(self) -> float:
        """Return the coverage that is asked for."""
        least = min(self.prompts, self.people or self.prompts, self.wordings or self.prompts)
        return 0.93 if least >= 20 else 0.90


ONE_WAY = [
    Cell(f"{prompts} prompts{', heavy tail' if heavy else ''}", prompts, heavy=heavy)
    for heavy in (False, True)
    for prompts in (5, 12, 20, 50, 120)
]
TWO_WAY = [
    Cell("20 × 20", 20, 20),
    Cell("50 × 20", 20, 50),
    Cell("20 × 100", 100, 20),
    Cell("200 × 50", 50, 200),
    Cell("100 × 500, heavy tail", 500, 100, heavy=True),
    Cell("300 × 100, 12 wordings", 100, 300, share=0.04, wordings=12),
    Cell("300 × 100, 30 wordings", 100, 300, share=0.04, wordings=30),
]


def coverage(cell: Cell, simulations: int, seed: int) -> tuple[float, float, float, float]:
    """Return how often intervals of an accuracy and of a difference hold the truth, and the median of their widths."""
    generator = torch.Generator().manual_seed(seed)
    hits, widths = torch.zeros(2), []
    for _ in range(simulations // COLUMNS):
        sides = design(cell, generator)
        right, other = choices(cell, sides, generator)
        accuracy = mean_intervals(right, sides, "share")
        difference = mean_intervals(right - other, sides, "difference")
        for place, (found, truth) in enumerate(((accuracy, ACCURACY), (difference, ACCURACY - OTHER))):
            hits[place] += ((found.low <= truth) & (truth <= found.high)).sum()
        widths.append(torch.stack([accuracy.high - accuracy.low, difference.high - difference.low]))
    wide = torch.cat(widths, 1).median(1).values
    total = simulations // COLUMNS * COLUMNS
    return float(hits[0]) / total, float(hits[1]) / total, float(wide[0]), float(wide[1])


def design(cell: Cell, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return who chose on what: every person on so large a share of prompts, or every prompt so many times."""
    units = cell.people or cell.prompts
    each = max(2.0, cell.share * cell.prompts) if cell.people else 6.0
    sizes = torch.full((units,), each)
    if cell.heavy:  # Pareto with shape 1.5: finite mean, infinite variance
        sizes = sizes / 3 * torch.rand(units, generator=generator, dtype=torch.float64).pow(-1 / 1.5)
    limit = cell.prompts if cell.people else 40 * each
    sizes = sizes.round().long().clamp(1, int(limit))
    unit = torch.arange(units).repeat_interleave(sizes)
    if not cell.people:
        return {"prompts": unit}
    drawn = torch.rand(units, cell.prompts, generator=generator).argsort(1)
    prompt = torch.cat([row[:size] for row, size in zip(drawn, sizes.tolist(), strict=True)])
    sides = {"users": unit, "prompts": prompt}
    return sides | ({"wordings": unit % cell.wordings} if cell.wordings else {})


def choices(cell: Cell, sides: Sides, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which pairs [N, C] two methods get right. What is hard for one is half as hard for the other, and more."""
    base = torch.zeros(len(next(iter(sides.values()))), COLUMNS, dtype=torch.float64)
    spread = cell.spread / len(sides)
    own, other = base + ACCURACY, base + OTHER
    for ids in sides.values():
        count = int(ids.max()) + 1
        effect, further = (2 * torch.rand(2, count, COLUMNS, generator=generator, dtype=torch.float64) - 1) * spread
        own, other = own + effect[ids], other + (effect[ids] + further[ids]) / 2
    luck = torch.rand(base.shape, generator=generator, dtype=torch.float64)
    return (luck < own).double(), (luck < other).double()
