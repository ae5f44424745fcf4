"""Routers of contexts: centred inputs, and pairs without a context."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from micropref.heads.fitting.fit import FitPlan, FitSetting, PairTensors, fit
from micropref.heads.fitting.no_context import PRIOR_PAIRS, with_no_context
from micropref.heads.fitting.projection import fit_projection
from micropref.heads.mixture import Mixture, Router

PLAN = FitPlan(epochs=30, batch=100, device="cpu", dtype="float32")


def groups(seed: int, bare: int = 0, shift: float = 0.0) -> PairTensors:
    """400 pairs of two contexts with opposite tastes and `bare` pairs without one, nine in ten of the first taste."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(400 + bare, 6, generator=generator)
    taste = torch.cat([torch.arange(400) % 2, (torch.rand(bare, generator=generator) > 0.9).long()])
    sign = torch.sign(delta[:, 0]) * (1 - 2 * taste)
    contexts = torch.randn(2, 8, generator=torch.Generator().manual_seed(5)) + shift
    inputs = torch.cat([contexts, torch.full((1, 8), torch.nan)])[: 3 if bare else 2]
    rows = torch.cat([torch.arange(400) % 2, torch.full((bare,), 2)])
    return PairTensors(delta * sign[:, None], inputs, router_rows=rows)


@pytest.mark.parametrize("hidden", [0, 16])
def test_what_all_inputs_share_changes_nothing(hidden: int) -> None:
    setting = FitSetting("mixture", 2, hidden=hidden, lr=0.02)
    plain, moved = (fit(groups(0, shift=shift), groups(1, shift=shift), [setting], PLAN)[0] for shift in (0.0, 30.0))
    assert moved.validation_nll == pytest.approx(plain.validation_nll, abs=1e-3)
    assert plain.validation_nll < 0.45
    read = groups(2, shift=30.0)
    log_p = moved.mixture.log_probability(read.delta, read.router, read.router_rows)
    assert (log_p.exp() > 0.5).double().mean() > 0.9, "the saved weights read inputs as they are"


def test_one_context_for_all_is_fitted_without_a_word() -> None:
    train, held = (replace(groups(seed), router_rows=torch.zeros(400, dtype=torch.int64)) for seed in (0, 1))
    assert fit(train, held, [FitSetting("mixture", 2)], PLAN)[0].validation_nll < 0.75


def test_pairs_without_a_context_get_weights_of_their_own() -> None:
    train, held = groups(0, bare=120), groups(1, bare=120)
    fitted = fit(train, held, [FitSetting("mixture", 2, lr=0.02)], PLAN)[0]
    mixture = fitted.mixture
    assert mixture.no_context is not None
    again = Mixture.from_state(mixture.state())
    log_p = again.log_probability(held.delta, held.router, held.router_rows)
    assert -log_p.mean().item() == pytest.approx(fitted.validation_nll, abs=1e-5)
    bare = slice(400, None)
    margins = mixture.margins(train.delta[bare])
    mean = mixture.log_weights(train.router[:2], 2).exp().mean(0)  # type: ignore[index]

    def loss(weights: torch.Tensor) -> float:
        fits = torch.log((weights * torch.sigmoid(margins)).sum(1)).sum()
        return -float(fits + PRIOR_PAIRS * (mean * weights.log()).sum())

    found = loss(mixture.no_context.exp())
    grid = [torch.tensor([share, 1 - share]) for share in torch.linspace(0.001, 0.999, 999).tolist()]
    assert found == pytest.approx(min(map(loss, grid)), abs=1e-3)
    favourite = int(mixture.log_weights(train.router[:1], 1).argmax())  # type: ignore[index]
    assert mixture.no_context.exp()[favourite] > 0.75


def test_without_such_pairs_to_fit_they_have_the_mean_weights() -> None:
    train = groups(0)
    mixture = fit(train, groups(1), [FitSetting("mixture", 2, lr=0.02)], PLAN)[0].mixture
    assert mixture.no_context is None
    complete = with_no_context(mixture, train)
    mean = mixture.log_weights(train.router, 400, train.router_rows).exp().mean(0)
    assert complete.no_context is not None
    torch.testing.assert_close(complete.no_context.exp(), mean)
    missing = torch.full((3, 8), torch.nan)
    torch.testing.assert_close(complete.log_weights(missing, 3).exp(), mean.expand(3, 2))
    with pytest.raises(ValueError, match="some pairs have no context"):
        mixture.log_weights(missing, 3)


def test_a_projected_fit_keeps_them() -> None:
    train, held = groups(0, bare=60), groups(1, bare=60)
    projection = fit_projection(train, 4)
    narrow = [projection.project(part) for part in (train, held)]
    fitted = fit(narrow[0], narrow[1], [FitSetting("mixture", 2, lr=0.02)], PLAN)[0]
    whole = projection.fold(fitted.mixture)
    log_p = whole.log_probability(held.delta, held.router, held.router_rows)
    assert -log_p.mean().item() == pytest.approx(fitted.validation_nll, abs=1e-4)


def test_shapes_of_such_weights_are_checked() -> None:
    router = Router(None, None, torch.zeros(2, 8), torch.zeros(2))
    with pytest.raises(ValueError, match="no_context weights have shape"):
        Mixture(torch.zeros(2, 6), router, no_context=torch.zeros(3))
