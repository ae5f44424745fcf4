"""Correlations of margins with text features, against loops and regressions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from micropref.heads.evaluation.profile import (
    SignedSizes,
    around_zero,
    distinct,
    feature_correlations,
    head_correlations,
)


def made(pairs: int = 400, heads: int = 3) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Return margins, of which head 0 goes with the feature, a feature that a third of the pairs lack, and prompts."""
    draw = torch.Generator().manual_seed(0)
    feature = torch.randn(pairs, generator=draw).double() * (torch.rand(pairs, generator=draw) > 1 / 3)
    margins = torch.randn(pairs, heads, generator=draw).double()
    margins[:, 0] += 2 * feature
    return margins, feature, {"prompts": torch.arange(pairs) // 4}


def ranked(values: torch.Tensor, rows: list[int]) -> np.ndarray:
    """Return signed ranks of a column among some rows by scipy."""
    own = values.numpy()[rows]
    return np.sign(own) * stats.rankdata(abs(own)) / len(rows)


def test_signed_ranks_are_scipys_with_the_sign_kept() -> None:
    values = torch.tensor([[0.0, 1.0], [-2.0, 1.0], [2.0, -3.0], [5.0, 0.5], [2.0, 0.5]])
    for rows in ([0, 1, 2, 3, 4], [4, 1, 3]):
        found = SignedSizes.of(values).ranks(torch.tensor(rows))
        assert found.numpy() == pytest.approx(np.stack([ranked(one, rows) for one in values.T], 1))


def test_a_correlation_is_that_of_the_pairs_that_differ_and_of_no_order() -> None:
    margins, feature, sides = made()
    found = feature_correlations(SignedSizes.of(margins), feature, sides, needed=["prompts"])
    rows = [row for row in range(400) if feature[row] != 0]
    own = ranked(feature, rows)
    for head in range(3):
        m = ranked(margins[:, head], rows)
        assert found.correlation[head].item() == pytest.approx((m @ own) / math.sqrt((m @ m) * (own @ own)))
    assert found.n == len(rows)
    swap = torch.where(torch.arange(400) % 3 == 0, -1.0, 1.0).double()
    again = feature_correlations(SignedSizes.of(margins * swap[:, None]), feature * swap, sides)
    for name in ("correlation", "low", "high", "p_value"):
        assert getattr(again, name).tolist() == pytest.approx(getattr(found, name).tolist())
    assert found.low[0] > 0.4
    assert found.p_value[0] < 1e-10
    assert (found.low <= found.correlation).all()
    assert (found.correlation <= found.high).all()


def test_an_interval_is_about_as_wide_as_leaving_out_prompts_says() -> None:
    margins, feature, sides = made(800)
    found = feature_correlations(SignedSizes.of(margins), feature, sides)
    rows = feature.nonzero()[:, 0]
    prompts = sides["prompts"][rows]
    without = []
    for one in prompts.unique():
        kept = rows[prompts != one].tolist()
        ranks = [torch.as_tensor(ranked(values, kept)) for values in (*margins.T, feature)]
        without.append(around_zero(torch.stack(ranks[:3], 1), ranks[3]).atanh())
    z = torch.stack(without)
    jackknife = ((len(z) - 1) / len(z) * (z - z.mean(0)).square().sum(0)).sqrt()
    half = (found.high.atanh() - found.low.atanh()) / 2
    ratio = (half / (1.97 * jackknife)).tolist()
    assert ratio[1:] == pytest.approx([1.0] * 2, rel=0.03)
    assert ratio[0] == pytest.approx(1.0, rel=0.1)  # a strong correlation: that ranks shift too is left out


def test_what_is_left_without_length_is_the_correlation_of_residuals() -> None:
    margins, feature, sides = made()
    length = feature + torch.randn(400, generator=torch.Generator().manual_seed(1))
    found = feature_correlations(SignedSizes.of(margins), feature, sides, given=SignedSizes.of(length[:, None]))
    rows = feature.nonzero()[:, 0].tolist()
    own, third = ranked(feature, rows), ranked(length, rows)

    def residual(values: np.ndarray) -> np.ndarray:
        return values - third * (values @ third) / (third @ third)

    for head in range(3):
        m, f = residual(ranked(margins[:, head], rows)), residual(own)
        assert found.given[head].item() == pytest.approx((m @ f) / math.sqrt((m @ m) * (f @ f)))
    assert feature_correlations(SignedSizes.of(margins), feature, sides).given.isnan().all()


@pytest.mark.parametrize(("differ", "prompts"), [(29, 29), (60, 9)])
def test_too_few_pairs_or_prompts_say_nothing(differ: int, prompts: int) -> None:
    margins, _, _ = made(100)
    feature = torch.zeros(100).double()
    feature[:differ] = 1.0
    sides = {"prompts": torch.where(torch.arange(100) < differ, torch.arange(100) % prompts, torch.arange(100))}
    found = feature_correlations(SignedSizes.of(margins), feature, sides, needed=["prompts"])
    assert found.n == differ
    for values in (found.correlation, found.low, found.high, found.p_value, found.given):
        assert values.shape == (3,)
        assert values.isnan().all()


def test_a_head_that_is_the_feature_and_one_that_is_nothing() -> None:
    _, feature, sides = made()
    margins = torch.stack([feature**3, -feature, torch.zeros(400).double()], 1)
    found = feature_correlations(SignedSizes.of(margins), feature, sides)
    assert found.correlation.tolist()[:2] == pytest.approx([1.0, -1.0], abs=1e-3)
    assert found.correlation[2].isnan()
    assert (found.low[:2].abs() <= 1).all()
    assert (found.p_value[:2] < 1e-10).all()


def test_heads_next_to_each_other() -> None:
    margins, _, _ = made()
    found = head_correlations(SignedSizes.of(torch.cat([margins, -margins[:, :1]], 1)))
    assert found[0, 3].item() == pytest.approx(-1.0)
    one, other = (ranked(margins[:, head], list(range(400))) for head in (1, 2))
    assert found[1, 2].item() == pytest.approx((one @ other) / math.sqrt((one @ one) * (other @ other)))
    assert torch.allclose(found.T, found)


def test_distinct_numbers_are_counted() -> None:
    assert distinct(torch.tensor([7, 1, 7, 0])) == 3
