"""How a router's re-fit went: figures after every round of labels, from before the first one on.

M pairs of the budget, N pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from micropref.cache.vectors.pair_features import PairFeatures
from micropref.heads.adaptation.routing_budget import Budget
from micropref.heads.evaluation.metrics import accuracy, nll
from micropref.heads.mixture import Mixture, pair_log_probability


def history(
    rounds: Iterable[Mixture], budget: Budget, validation: PairFeatures, scored: PairFeatures
) -> list[dict[str, Any]]:
    """Return rows of the view `history`, one for each mixture that the re-fit went through, its start as epoch 0.

    train_nll is of the budget, test_accuracy of the scored pairs; those of validation are None where there are none.
    """
    return [
        {
            "epoch": epoch,
            "train_nll": nll(torch.logsumexp(mixture.log_weights(budget.router, len(budget)) - budget.losses, 1)),
            **_validated(mixture, validation),
            "test_accuracy": accuracy(_log_probability(mixture, scored)),
        }
        for epoch, mixture in enumerate(rounds)
    ]


def _validated(mixture: Mixture, pairs: PairFeatures) -> dict[str, float | None]:
    if not len(pairs):
        return {"validation_nll": None, "validation_accuracy": None}
    found = _log_probability(mixture, pairs)
    return {"validation_nll": nll(found), "validation_accuracy": accuracy(found)}


def _log_probability(mixture: Mixture, pairs: PairFeatures) -> torch.Tensor:
    log_weights = mixture.log_weights(pairs.router_inputs, len(pairs), pairs.router_rows)
    return pair_log_probability(mixture.margins(pairs.delta), log_weights)
