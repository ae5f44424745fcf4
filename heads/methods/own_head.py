"""The backbone's own reward head: `score.weight` of a checkpoint that was trained as a reward model.

r(x, a) = w · e(x, a) on the cached embeddings; nothing is learnt from the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from micropref.cache.errors import BadInput
from micropref.heads.methods.base import MethodOptions, Need, TrainingData
from micropref.heads.methods.bradley_terry import MixtureModel
from micropref.heads.mixture import Mixture


class OwnHead:
    """The checkpoint's head as a method."""

    name: ClassVar[str] = "own-head"
    title: ClassVar[str] = "Backbone's own head"
    supervision: ClassVar[str] = "none here"
    needs: ClassVar[frozenset[Need]] = frozenset({"reward_head"})
    options: ClassVar[frozenset[str]] = frozenset()

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[MixtureModel]:  # noqa: ARG002
        """Return the checkpoint's head, the same for every seed. Raises BadInput where it has none."""
        if data.reward_head is None:
            raise BadInput("own-head: the backbone of these features has no reward head; embed with one that has")
        return [MixtureModel(Mixture(data.reward_head))] * len(seeds)

    def restore(self, state: Mapping[str, torch.Tensor]) -> MixtureModel:
        """Return the model of a saved head."""
        return MixtureModel(Mixture.from_state(state))
