"""The ceiling of a comparison: a single reward for each attribute, fitted on that attribute's own training pairs.

It knows the attribute of every pair, which no compared method does. n scored pairs, V validation pairs of their
attributes, D embedding width.
"""

from __future__ import annotations

import polars as pl
import torch

from micropref.cache.errors import BadInput
from micropref.cache.vectors.groups import prompt_clusters
from micropref.cache.vectors.pair_features import PairFeatures
from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.settings import FitPlan, FitSetting, PairTensors
from micropref.pipeline.comparison.prediction import Prediction

NO_ATTRIBUTE = "(none)"
"""Group of pairs without an attribute."""
CEILING_PLAN = FitPlan(solver="scikit-learn")


def ceiling(fitting: PairFeatures, validation: PairFeatures, delta: torch.Tensor, attribute: pl.Series) -> Prediction:
    """Return what each attribute's reward says of its scored pairs [n] and its validation pairs [V].

    `delta` [n, D] and `attribute` [n] are of the scored pairs. Raises BadInput where an attribute among them has no
    pairs to fit, or none to validate on.
    """
    scored, validated = torch.empty(len(delta)), torch.empty(len(validation))
    judged = torch.zeros(len(validation), dtype=torch.bool)
    for name in attribute.unique().sort():
        of_name = [part.table["attribute"].fill_null(NO_ATTRIBUTE) == name for part in (fitting, validation)]
        own, held_out = fitting.take(of_name[0]), validation.take(of_name[1])
        if not len(own) or not len(held_out):
            raise BadInput(f"attribute {name!r} has no pairs to fit or none to validate on")
        pairs = PairTensors(own.delta, None), PairTensors(held_out.delta, None)
        model = fit(*pairs, [FitSetting("single", 1)], CEILING_PLAN)[0].mixture
        mine = (attribute == name).to_torch()
        scored[mine] = model.margins(delta[mine])[:, 0]
        validated[of_name[1].to_torch()] = model.margins(held_out.delta)[:, 0]
        judged |= of_name[1].to_torch()
    return Prediction(scored, validated[judged], prompt_clusters(validation.table)[judged])
