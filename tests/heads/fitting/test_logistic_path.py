"""One head by scikit-learn's path, against scikit-learn itself on Δ and −Δ."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from micropref.cache.errors import BadInput
from micropref.heads.fitting.fit import FitPlan, FitSetting, PairTensors, fit, mean_nll
from micropref.heads.fitting.logistic_path import POWERS
from micropref.heads.fitting.settings import FitProgress, Fitted

SINGLE, PLAN = FitSetting("single", 1), FitPlan(solver="scikit-learn")
WIDTH = 12


def made(pairs: int, seed: int, signal: float = 1.0, width: int = WIDTH, size: float = 7.0) -> PairTensors:
    """Return pairs of one taste, their features of rms `size`."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(pairs, width, generator=generator)
    likes = torch.rand(pairs, generator=generator) < torch.sigmoid(signal * delta[:, :3].sum(1))
    return PairTensors(size * torch.where(likes[:, None], delta, -delta), None)


def fitted(train: PairTensors, validation: PairTensors, l2: float = 0.0) -> Fitted:
    return fit(train, validation, [replace(SINGLE, l2=l2)], PLAN)[0]


def both_ways(pairs: PairTensors, c: float) -> torch.Tensor:
    """Return scikit-learn's head where every pair is there twice, Δ with label 1 and −Δ with label 0, each half."""
    rows = pairs.delta.double().numpy()
    model = LogisticRegression(C=c / 2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    return torch.from_numpy(model.fit(np.concatenate([rows, -rows]), np.repeat([1, 0], len(rows))).coef_[0])


@pytest.mark.parametrize(("pairs", "width"), [(300, WIDTH), (60, 80), (1, WIDTH)], ids=["newton", "lbfgs", "one pair"])
def test_a_given_l2_is_scikit_learns_c(pairs: int, width: int) -> None:
    train = made(pairs, 0, width=width)
    found = fitted(train, made(50, 1, width=width), l2=4.0)
    expected = both_ways(train, 1 / 4)
    assert float((found.mixture.heads[0] - expected).abs().max()) < 2e-4 * float(expected.abs().max())
    assert (found.c, found.path, found.best_epoch, found.epochs_run) == (0.25, (0.25,), 1, 1)


def test_c_is_the_one_of_the_lowest_validation_nll() -> None:
    train, validation = made(60, 2, 0.5), made(300, 3, 0.5)
    found = fitted(train, validation)
    rms = float(train.delta.double().square().mean().sqrt())
    path = [10**power / WIDTH / rms**2 for power in POWERS]
    assert list(found.path) == pytest.approx(path[: len(found.path)])
    margins = [validation.delta.double() @ both_ways(train, c) for c in path]
    losses = [float(torch.nn.functional.softplus(-one).mean()) for one in margins]
    assert found.validation_history == pytest.approx(losses[: len(found.path)], abs=1e-4)
    best = int(np.argmin(losses))
    assert 0 < best < len(path) - 1
    assert found.c == pytest.approx(path[best])
    assert found.best_epoch == best + 1
    assert found.validation_nll == pytest.approx(losses[best], abs=1e-5)
    assert mean_nll(found.mixture, validation) == pytest.approx(found.validation_nll, abs=1e-5)


def test_no_training_is_chosen_where_validation_contradicts() -> None:
    train = made(300, 4)
    found = fitted(train, PairTensors(-made(100, 5).delta, None))
    assert (found.c, found.best_epoch) == (0.0, 0)
    assert found.mixture.heads.abs().max() == 0
    assert found.validation_nll == pytest.approx(math.log(2))
    assert len(found.path) < len(POWERS)  # a path that loses so much ends


def test_scaling_the_features_scales_the_head() -> None:
    small, large = (fitted(made(200, 6, size=size), made(90, 7, size=size)) for size in (0.01, 100.0))
    torch.testing.assert_close(small.mixture.heads / 1e4, large.mixture.heads, rtol=1e-3, atol=1e-7)


def test_seeds_and_runs_agree_to_the_bit() -> None:
    train, validation = made(200, 8), made(90, 9)
    first, second = fit(train, validation, [SINGLE, replace(SINGLE, seed=3)], PLAN)
    assert torch.equal(first.mixture.heads, second.mixture.heads)


def test_progress_is_told() -> None:
    told: list[FitProgress] = []
    found = fit(made(80, 1), made(80, 2), [SINGLE], PLAN, told.append)[0]
    assert [one.epoch for one in told] == list(range(1, found.epochs_run + 1))
    assert told[-1].best_validation_nll == pytest.approx(min(found.validation_history))


@pytest.mark.parametrize("setting", [FitSetting("static", 2), FitSetting("ensemble", 3)])
def test_other_methods_are_refused(setting: FitSetting) -> None:
    with pytest.raises(BadInput, match=f"solver scikit-learn with method {setting.method}: it fits one head"):
        fit(made(9, 0), made(9, 1), [setting], PLAN)


def test_one_head_is_the_same_whatever_has_a_group() -> None:
    train, validation = (replace(made(80, seed), units=torch.arange(80) % 9) for seed in (1, 2))
    alone, grouped = (fit(train, validation, [replace(SINGLE, latent=latent)], PLAN)[0] for latent in ("pair", "user"))
    assert torch.equal(alone.mixture.heads, grouped.mixture.heads)
    assert alone.known is None
    assert torch.equal(grouped.known, torch.zeros(80, 1))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="solver scikit-learn with weight user"):
        fit(train, validation, [replace(SINGLE, latent="user", weight="user")], PLAN)
