"""What a row of a comparison predicts with one seed.

Letters: n scored pairs, V validation pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.evaluation.metrics import correct, nll
from micropref.heads.evaluation.scale import choose_scale, scaled_log_probability


@dataclass(frozen=True)
class Prediction:
    """Log-odds that the chosen response is preferred."""

    scored: torch.Tensor
    """[n] of scored pairs."""
    validation: torch.Tensor
    """[V] of the validation pairs that the scale is chosen on."""
    clusters: torch.Tensor
    """[V] prompts of these."""

    def right(self) -> torch.Tensor:
        """Return which scored pairs are right [n]: 1, or ½ on ties."""
        return correct(F.logsigmoid(self.scored.double()))

    def scale(self) -> float:
        """Return what log-odds are multiplied by for the NLL; 1 where there is no validation pair."""
        return choose_scale(self.validation, self.clusters) if len(self.validation) else 1.0

    def nll(self) -> float:
        """Return the NLL of scored pairs, scaled, in nats per pair."""
        return nll(scaled_log_probability(self.scored, self.scale()))
