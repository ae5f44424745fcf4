"""Principal components against a full eigendecomposition, and folding against the projected fit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from heads.fit import FitPlan, FitSetting, PairTensors, fit, mean_nll
from heads.projection import fit_projection, speed

WIDTH, SIGNAL = 48, 6
PLAN = FitPlan(epochs=6, batch=128, dtype="float32", device="cpu")


def pairs_of(count: int, seed: int) -> PairTensors:
    """Pairs whose signal lies in SIGNAL directions of the width, the router's input off the origin."""
    shape = torch.Generator().manual_seed(99)
    basis = torch.linalg.qr(torch.randn(WIDTH, SIGNAL, generator=shape)).Q
    taste = torch.randn(SIGNAL, generator=shape)
    generator = torch.Generator().manual_seed(seed)
    signal, context = (torch.randn(count, SIGNAL, generator=generator) for _ in range(2))
    noise = 0.02 * torch.randn(2, count, WIDTH, generator=generator)
    margin = 2 * signal @ taste * context[:, 0].sign()
    prefers = torch.rand(count, generator=generator) < torch.sigmoid(margin)
    delta = (signal @ basis.T + noise[0]) * (2 * prefers.float() - 1)[:, None]
    return PairTensors(7 * delta, context @ basis.T + noise[1] + 0.5)


TRAIN, VALIDATION = pairs_of(3000, 0), pairs_of(600, 1)


def test_components_are_those_of_an_eigendecomposition() -> None:
    projection = fit_projection(TRAIN, 8)
    for rows, basis in ((TRAIN.delta, projection.delta), (TRAIN.router, projection.router)):
        assert rows is not None
        assert basis is not None
        torch.testing.assert_close(basis.T @ basis, torch.eye(8), atol=1e-5, rtol=0)
        energy = torch.linalg.eigvalsh(rows.double().T @ rows.double()).flip(0)[:8].sqrt()
        found = (rows.double() @ basis.double()).square().sum(0).sqrt()
        torch.testing.assert_close(found[:SIGNAL], energy[:SIGNAL], rtol=1e-4, atol=0)
        torch.testing.assert_close(found, energy, rtol=2e-2, atol=0)  # noise directions hardly differ


def test_half_precision_rows_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_projection(TRAIN, SIGNAL).delta
    monkeypatch.setattr("heads.projection.BLOCK", 700)
    in_blocks = fit_projection(TRAIN, SIGNAL).delta
    stored = fit_projection(PairTensors(TRAIN.delta.half(), None), SIGNAL)
    assert whole is not None
    assert in_blocks is not None
    assert stored.delta is not None
    assert stored.router is None
    for basis in (in_blocks, stored.delta):
        shared = torch.linalg.svdvals(whole.T @ basis)
        torch.testing.assert_close(shared, torch.ones(SIGNAL), atol=1e-4, rtol=0)


@pytest.mark.parametrize("setting", [FitSetting("mixture", 3, lr=1e-2, hidden=8), FitSetting("mixture", 2, hidden=0),
                                     FitSetting("static", 3), FitSetting("single", 1)])  # fmt: skip
def test_folded_weights_predict_the_same_from_the_embeddings(setting: FitSetting) -> None:
    projection = fit_projection(TRAIN, 10)
    fitted = fit(projection.project(TRAIN), projection.project(VALIDATION), [setting], PLAN)[0]
    folded = projection.fold(fitted.mixture)
    assert folded.heads.shape == (setting.k, WIDTH)
    assert mean_nll(folded, VALIDATION) == pytest.approx(fitted.validation_nll, abs=1e-5)


def test_components_that_hold_the_signal_lose_nothing_and_fewer_do() -> None:
    settings = [FitSetting("mixture", 2, lam=0.03, lr=5e-3, hidden=16, seed=seed) for seed in range(4)]
    best = {}
    for width in (2, 8):
        projection = fit_projection(TRAIN, width)
        train = projection.project(TRAIN)
        scaled = [replace(one, lr=one.lr * speed(TRAIN.delta) / speed(train.delta)) for one in settings]
        fitted = fit(train, projection.project(VALIDATION), scaled, PLAN)
        best[width] = min(one.validation_nll for one in fitted)
    full = min(one.validation_nll for one in fit(TRAIN, VALIDATION, settings, PLAN))
    assert best[8] < full + 0.01
    assert best[2] > full + 0.05
    assert full < math.log(2) - 0.1


def test_narrowed_components_are_the_first() -> None:
    wide, narrow = fit_projection(TRAIN, 6), fit_projection(TRAIN, 6).narrowed(3)
    assert wide.delta is not None
    assert narrow.delta is not None
    assert torch.equal(wide.delta[:, :3], narrow.delta)


def test_an_input_no_wider_than_that_stays_as_it_is() -> None:
    projection = fit_projection(PairTensors(TRAIN.delta, TRAIN.router[:, :5] if TRAIN.router is not None else None), 8)
    assert projection.router is None
    assert projection.delta is not None
    mixed = projection.project(PairTensors(TRAIN.delta, TRAIN.router))
    assert mixed.router is TRAIN.router


def test_speed_is_the_sum_of_sizes_in_units_of_the_rms() -> None:
    assert speed(torch.tensor([[3.0, -3.0, 3.0]])) == pytest.approx(3)
    assert speed(torch.tensor([[2.0, 0.0, 0.0, 0.0]])) == pytest.approx(2)
