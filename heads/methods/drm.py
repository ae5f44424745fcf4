"""Decomposed reward models: the principal components of Δ as reward heads, none of them trained.

Source: Luo et al. 2025, "Rethinking Diverse Human Preference Learning through Principal Component Analysis".
Letters: N pairs, D embedding width, C components, K = 2 C + 1 heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import scipy.linalg
import torch

from micropref.heads.methods.base import MethodOptions, Need, TrainingData
from micropref.heads.methods.bradley_terry import MixtureModel
from micropref.heads.mixture import Mixture

COMPONENTS = 50
"""At most; fewer where D or N - 1 is smaller."""
BLOCK = 8192
"""Pairs read at a time."""


class Drm:
    """C unit eigenvectors of the covariance of Δ, each with both signs: +v_1 .. +v_C, −v_1 .. −v_C, then the mean.

    Centring takes the mean of Δ away, which is the one direction that everybody shares (the chosen response minus the
    rejected one), so its unit vector is one more head: a departure (the paper has the backbone's own head
    there). The paper weighs heads by a few choices of one person; before any is known weights are uniform. The signs
    then cancel and the mean head alone decides: without it, this method predicts ½ until a person has chosen.
    """

    name: ClassVar[str] = "drm"
    title: ClassVar[str] = "Decomposed (PCA)"
    supervision: ClassVar[str] = "pairs, not fitted"
    needs: ClassVar[frozenset[Need]] = frozenset()
    options: ClassVar[frozenset[str]] = frozenset()

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[MixtureModel]:  # noqa: ARG002
        """Return the same heads for every seed: nothing here is random."""
        mean, components = principal_components(data.fitting.delta, COMPONENTS)
        heads = torch.cat([components, -components, torch.nn.functional.normalize(mean, dim=0)[None]])
        return [MixtureModel(Mixture(heads), "linear")] * len(seeds)

    def restore(self, state: Mapping[str, torch.Tensor]) -> MixtureModel:
        """Return the model of saved heads."""
        return MixtureModel(Mixture.from_state(state), "linear")


def principal_components(rows: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean [D] of rows [N, D] and their leading unit components [C, D], most variance first, in float32.

    A component's sign is the one that makes its largest entry positive.
    """
    width = rows.shape[1]
    total, gram = torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].double()
        total += block.sum(0)
        gram.addmm_(block.T, block)
    mean = total / len(rows)
    covariance = gram / len(rows) - torch.outer(mean, mean)
    count = max(1, min(most, width, len(rows) - 1))
    _, vectors = scipy.linalg.eigh(covariance.numpy(), subset_by_index=(width - count, width - 1))
    components = torch.from_numpy(vectors).T.flip(0)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    return mean.float(), (components * largest.sign()).float().contiguous()
