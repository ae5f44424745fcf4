"""Planted groups come back: held-out loss and routing against the truth that made the choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from micropref.heads.evaluation.metrics import permutation_agreement
from micropref.heads.evaluation.selection import agreeing_share
from micropref.heads.fitting.fit import FitPlan, FitSetting, Fitted, PairTensors, fit, mean_nll
from micropref.heads.fitting.projection import fit_projection, rate_factor
from micropref.heads.mixture import Mixture

K = 4
SETTINGS = [FitSetting("mixture", K, lam=0.03, seed=seed) for seed in range(8)]
PLAN = FitPlan(device="cpu")


@pytest.fixture(scope="module")
def groups(planted: Callable[..., Any]) -> Any:
    """K groups, 384 dimensions."""
    return planted(24_000, 4_000, 384, 0)


@pytest.fixture(scope="module")
def mixtures(groups: Any) -> list[Fitted]:
    """Restarts in full width, best first."""
    return sorted(fit(groups.fit, groups.validation, SETTINGS, PLAN), key=lambda one: one.validation_nll)


def favourite(mixture: Mixture, pairs: PairTensors) -> torch.Tensor:
    """The head with the largest weight, per pair."""
    return mixture.log_weights(pairs.router, len(pairs.delta)).argmax(1)


def test_the_best_of_eight_restarts_finds_the_planted_groups(groups: Any, mixtures: list[Fitted]) -> None:
    single = fit(groups.fit, groups.validation, [FitSetting("single", 1)], PLAN)[0]
    found = mean_nll(mixtures[0].mixture, groups.test)
    assert found < mean_nll(groups.truth, groups.test) + 0.03
    assert mean_nll(single.mixture, groups.test) > found + 0.1
    favourites = [favourite(one, groups.test) for one in (groups.truth, *(fitted.mixture for fitted in mixtures[:3]))]
    assert permutation_agreement(favourites[0], favourites[1], K) >= 0.9
    assert agreeing_share(favourites[1:], K) == 1


@pytest.mark.slow
def test_half_the_width_in_principal_components_loses_nothing(groups: Any, mixtures: list[Fitted]) -> None:
    projection = fit_projection(groups.fit, 192)
    train, validation = projection.project(groups.fit), projection.project(groups.validation)
    scaled = [replace(one, lr=one.lr * rate_factor(groups.fit, train)) for one in SETTINGS]
    best = min(fit(train, validation, scaled, PLAN), key=lambda one: one.validation_nll)
    full, narrow = (mean_nll(one, groups.test) for one in (mixtures[0].mixture, projection.fold(best.mixture)))
    assert narrow < full + 0.005
