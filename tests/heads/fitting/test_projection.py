"""Principal components against a full eigendecomposition, and folding against the projected fit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from micropref.heads.fitting.fit import FitPlan, FitSetting, PairTensors, fit, mean_nll
from micropref.heads.fitting.projection import fit_projection, principal_components, rate_factor

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
    components = principal_components(TRAIN, 8)
    for rows, basis in ((TRAIN.delta, components.delta), (TRAIN.router, components.router)):
        assert rows is not None
        assert basis is not None
        torch.testing.assert_close(basis.T @ basis, torch.eye(8), atol=1e-5, rtol=0)
        energy = torch.linalg.eigvalsh(rows.double().T @ rows.double()).flip(0)[:8].sqrt()
        found = (rows.double() @ basis.double()).square().sum(0).sqrt()
        torch.testing.assert_close(found[:SIGNAL], energy[:SIGNAL], rtol=1e-4, atol=0)
        torch.testing.assert_close(found, energy, rtol=2e-2, atol=0)  # noise directions hardly differ


def test_half_precision_rows_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_projection(TRAIN, SIGNAL).delta
    monkeypatch.setattr("micropref.heads.fitting.pair_source.SCORED_ROWS", 700)
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
        scaled = [replace(one, lr=one.lr * rate_factor(TRAIN, train)) for one in settings]
        fitted = fit(train, projection.project(VALIDATION), scaled, PLAN)
        best[width] = min(one.validation_nll for one in fitted)
    full = min(one.validation_nll for one in fit(TRAIN, VALIDATION, settings, PLAN))
    assert best[8] < full + 0.01
    assert best[2] > full + 0.05
    assert full < math.log(2) - 0.1


def test_a_projection_spans_the_first_components_and_spreads_their_energy_evenly() -> None:
    wide, projection = principal_components(TRAIN, 12), fit_projection(TRAIN, 6)
    assert wide.delta is not None
    for basis in (projection.delta, wide.projection(6).delta):
        assert basis is not None
        torch.testing.assert_close(basis.T @ basis, torch.eye(6), atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.linalg.svdvals(wide.delta[:, :6].T @ basis), torch.ones(6), atol=1e-4, rtol=0)
    both = principal_components(TRAIN, 40).projection(40).delta
    assert both is not None
    energy = (TRAIN.delta @ both).square().mean(0)
    assert energy.max() < 100 * energy.min(), "signal and noise should share every axis"


def test_an_input_no_wider_than_that_stays_as_it_is() -> None:
    projection = fit_projection(PairTensors(TRAIN.delta, TRAIN.router[:, :5] if TRAIN.router is not None else None), 8)
    assert projection.router is None
    assert projection.delta is not None
    mixed = projection.project(PairTensors(TRAIN.delta, TRAIN.router))
    assert TRAIN.router is not None
    assert mixed.router is not None
    assert torch.equal(mixed.router, TRAIN.router)


def test_rates_rise_so_that_a_step_goes_as_far() -> None:
    even, uneven = torch.tensor([[3.0, -3.0, 3.0]]), torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    assert rate_factor(PairTensors(even, None), PairTensors(uneven, None)) == pytest.approx(3 / 2)
    # The fit itself takes 384 / 768 of the rate in full width.
    assert rate_factor(PairTensors(torch.ones(2, 768), None), PairTensors(torch.ones(2, 96), None)) == pytest.approx(4)
