"""The ceiling of a comparison: a single reward for each attribute, fitted on that attribute's own training pairs.

It knows the attribute of every pair, which no compared method does. n scored pairs, D embedding width.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch

from micropref.cache.errors import BadInput
from micropref.cache.vectors.pair_features import PairFeatures
from micropref.heads.evaluation.metrics import correct
from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.settings import FitPlan, FitSetting, PairTensors

NO_ATTRIBUTE = "(none)"
"""Group of pairs without an attribute."""
CEILING_PLAN = FitPlan(epochs=200, batch=256, patience=20)
"""One attribute's pairs are few: the default plan would end after a few dozen steps."""


def ceiling(
    fitting: PairFeatures, validation: PairFeatures, delta: torch.Tensor, attribute: pl.Series, device: str = "auto"
) -> torch.Tensor:
    """Return which scored pairs [n] their attribute's reward gets right: 1, or ½ on ties.

    `delta` [n, D] and `attribute` [n] are of the scored pairs. Raises BadInput where an attribute among them has no
    pairs to fit, or none to validate on.
    """
    right = torch.empty(len(delta), dtype=torch.float64)
    for name in attribute.unique().sort():
        own, held_out = (
            part.take(part.table["attribute"].fill_null(NO_ATTRIBUTE) == name) for part in (fitting, validation)
        )
        if not len(own) or not len(held_out):
            raise BadInput(f"attribute {name!r} has no pairs to fit or none to validate on")
        pairs = PairTensors(own.delta, None), PairTensors(held_out.delta, None)
        model = fit(*pairs, [FitSetting("single", 1)], replace(CEILING_PLAN, device=device))[0].mixture
        mine = (attribute == name).to_torch()
        right[mine] = correct(model.log_probability(delta[mine], None))
    return right
