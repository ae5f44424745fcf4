"""The ceiling of a comparison: a single reward for each attribute, fitted on that attribute's own training pairs.

It knows the attribute of every pair, which no compared method does. n scored pairs, V validation pairs of their
attributes, D embedding width.
"""

from __future__ import annotations

import polars as pl
import torch

from micropref.cache.errors import BadInput
from micropref.cache.vectors.pair_features import PairFeatures
from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.settings import FitPlan, FitSetting, PairTensors

NO_ATTRIBUTE = "(none)"
"""Group of pairs without an attribute."""
CEILING_PLAN = FitPlan(solver="scikit-learn")


def ceiling(
    fitting: PairFeatures, validation: PairFeatures, delta: torch.Tensor, attribute: pl.Series
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-odds of scored pairs [n] and validation pairs [V], each by its attribute's reward.

    `delta` [n, D] and `attribute` [n] are of the scored pairs. Raises BadInput where an attribute among them has no
    pairs to fit, or none to validate on.
    """
    log_odds, validated = torch.empty(len(delta)), []
    for name in attribute.unique().sort():
        own, held_out = (
            part.take(part.table["attribute"].fill_null(NO_ATTRIBUTE) == name) for part in (fitting, validation)
        )
        if not len(own) or not len(held_out):
            raise BadInput(f"attribute {name!r} has no pairs to fit or none to validate on")
        pairs = PairTensors(own.delta, None), PairTensors(held_out.delta, None)
        model = fit(*pairs, [FitSetting("single", 1)], CEILING_PLAN)[0].mixture
        mine = (attribute == name).to_torch()
        log_odds[mine] = model.margins(delta[mine])[:, 0]
        validated.append(model.margins(held_out.delta)[:, 0])
    return log_odds, torch.cat(validated)
