"""Few-shot weights against loops in plain Python, autograd and numbers worked by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch

from micropref.heads.adaptation.few_shot import (
    ADAPT_METHODS,
    FIT_LR,
    FIT_STEPS,
    GRIDS,
    Shots,
    adapt_groups,
    by_drm,
    by_fit,
    by_hedge,
    by_hyre,
    by_shrunk,
    by_tempered,
)
from micropref.heads.choices import AdaptMethod
from micropref.heads.methods.base import Scores

G, N, K = 3, 5, 4


def shots(seed: int = 0, groups: int = G, n: int = N, k: int = K) -> Shots:
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = torch.randn(2, groups, n, k, dtype=torch.float64, generator=generator)
    return Shots(chosen - rejected, chosen)


def own(pairs: int = 6, k: int = K, seed: int = 1) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    margins, logits = torch.randn(2, pairs, k, dtype=torch.float64, generator=generator)
    return Scores(margins, torch.log_softmax(logits, 1), "probability")


def test_hedge_by_hand() -> None:
    """Two heads, prior (.8, .2); one choice with σ(m) = (.2, .6): w ∝ (.16, .12), so (4/7, 3/7)."""
    margin = torch.tensor([[[math.log(0.25), math.log(1.5)]]], dtype=torch.float64)
    run = Scores(margin[0], torch.tensor([[0.8, 0.2]], dtype=torch.float64).log(), "probability")
    scores = by_hedge(Shots(margin), 1.0).scores(run, torch.tensor([0]))
    assert scores.log_weights.exp().tolist() == [[pytest.approx(4 / 7), pytest.approx(3 / 7)]]
    assert scores.log_probability().exp().item() == pytest.approx(4 / 7 * 0.2 + 3 / 7 * 0.6)
    cold = by_hedge(Shots(margin), 1e9).scores(run, torch.tensor([0]))
    assert cold.log_weights.exp().tolist() == [[pytest.approx(0.8), pytest.approx(0.2)]]


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_hedge_is_a_loop_over_pairs_groups_and_shots(tau: float) -> None:
    few, run = shots(), own()
    group = torch.tensor([2, 0, 1, 1, 0, 2])
    found = by_hedge(few, tau).scores(run, group)
    for pair, of in enumerate(group.tolist()):
        weights = []
        for k in range(K):
            likelihood = 1.0
            for margin in few.margins[of, :, k].tolist():
                likelihood *= (1 / (1 + math.exp(-margin))) ** (1 / tau)
            weights.append(math.exp(run.log_weights[pair, k].item()) * likelihood)
        expected = np.array(weights) / sum(weights)
        assert found.log_weights[pair].exp().numpy() == pytest.approx(expected, abs=1e-12)
        probability = sum(w / (1 + math.exp(-m)) for w, m in zip(expected, run.margins[pair].tolist(), strict=True))
        assert found.log_probability()[pair].exp().item() == pytest.approx(probability, abs=1e-12)


def test_hyre_is_hedge_at_temperature_one_from_uniform_weights() -> None:
    run = own()
    uniform = Scores(run.margins, torch.full_like(run.log_weights, -math.log(K)), "probability")
    group = torch.tensor([0, 1, 2, 0, 1, 2])
    hedge, hyre = by_hedge(shots(), 1.0).scores(uniform, group), by_hyre(shots()).scores(run, group)
    assert torch.allclose(hedge.log_weights, hyre.log_weights, atol=1e-12)
    assert torch.equal(adapt_groups("hyre", shots(), 7.0).log_weights, by_hyre(shots()).log_weights)


def test_drm_is_its_recipe_in_plain_python() -> None:
    few, run = shots(), own()
    adapted = by_drm(few)
    assert few.chosen is not None
    for group in range(G):
        scales, losses = [], []
        for k in range(K):
            chosen, margins = few.chosen[group, :, k].tolist(), few.margins[group, :, k].tolist()
            rewards = chosen + [c - m for c, m in zip(chosen, margins, strict=True)]
            scales.append(statistics.stdev(rewards))
            losses.append(sum(math.log1p(math.exp(-m / scales[-1])) for m in margins))
        weights = np.exp(-np.array(losses)) / np.exp(-np.array(losses)).sum()
        assert adapted.log_weights[group].exp().numpy() == pytest.approx(weights, abs=1e-12)
        logit = sum(w * m / s for w, m, s in zip(weights, run.margins[0].tolist(), scales, strict=True))
        scores = adapted.scores(run, torch.full((6,), group))
        assert scores.log_probability()[0].exp().item() == pytest.approx(1 / (1 + math.exp(-logit)))


def test_drm_leaves_a_head_without_spread_as_it_is_and_needs_rewards() -> None:
    few = shots()
    assert few.chosen is not None
    flat = Shots(few.margins * torch.tensor([0.0, 1, 1, 1]), few.chosen * torch.tensor([0.0, 1, 1, 1]))
    assert by_drm(flat).scale is not None
    assert (by_drm(flat).scale[:, 0] == 1).all()  # type: ignore[index]
    with pytest.raises(ValueError, match="rewards of responses"):
        by_drm(Shots(few.margins))


def test_fit_follows_autograd_and_groups_do_not_touch() -> None:
    few = shots()
    log_right = torch.nn.functional.logsigmoid(few.margins)
    for group in range(G):
        logits = torch.zeros(K, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([logits], lr=FIT_LR)
        for _ in range(FIT_STEPS):
            adam.zero_grad()
            weights = torch.softmax(logits, 0)
            (-(weights * log_right[group].exp()).sum(1).log().mean()).backward()
            adam.step()
        expected = torch.softmax(logits.detach(), 0)
        assert torch.allclose(by_fit(few).log_weights[group].exp(), expected, atol=1e-6)


def test_fit_finds_the_least_loss() -> None:
    few = shots(seed=3, groups=1, n=12, k=2)
    right = torch.sigmoid(few.margins[0])
    share = torch.linspace(1e-4, 1 - 1e-4, 2001, dtype=torch.float64)
    losses = -(share[:, None] * right[:, 0] + (1 - share[:, None]) * right[:, 1]).log().mean(1)
    assert by_fit(few).log_weights[0, 0].exp().item() == pytest.approx(share[losses.argmin()].item(), abs=5e-3)


def test_tempered_is_hedge_at_the_reciprocal_and_bayes_at_one() -> None:
    assert torch.equal(by_tempered(shots(), 0.25).log_weights, by_hedge(shots(), 4.0).log_weights)
    assert torch.equal(adapt_groups("bayes", shots()).log_weights, by_hedge(shots(), 1.0).log_weights)
    run = own()
    unmoved = by_tempered(shots(), 0.0).scores(run, torch.zeros(6, dtype=torch.long))
    assert torch.allclose(unmoved.log_weights, run.log_weights, atol=1e-12)


@pytest.mark.parametrize("variance", [0.05, 1.0])
def test_shrunk_is_the_minimum_scipy_finds(variance: float) -> None:
    few = shots()
    prior = torch.log_softmax(torch.randn(G, N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(5)), 2)
    found = by_shrunk(Shots(few.margins, log_prior=prior), variance)
    for group in range(G):
        margins, logits = few.margins[group].numpy(), prior[group].numpy()

        def loss(b: np.ndarray, margins: np.ndarray = margins, logits: np.ndarray = logits) -> float:
            weights = scipy.special.softmax(logits + b, 1)
            return float(np.logaddexp(0, -(weights * margins).sum(1)).sum() + b @ b / (2 * variance))

        best = scipy.optimize.minimize(loss, np.zeros(K), tol=1e-10)
        assert scipy.special.log_softmax(best.x) == pytest.approx(found.log_weights[group].numpy(), abs=1e-4)
    scores = found.scores(own(), torch.zeros(6, dtype=torch.long))
    weights = torch.softmax(own().log_weights + found.log_weights[0], 1)
    assert torch.allclose(scores.log_probability(), torch.nn.functional.logsigmoid((weights * own().margins).sum(1)))


def blends(people: int, pairs: int, seed: int) -> torch.Tensor:
    """Return margins [G, n, K] of people whose reward is a blend of all heads, chosen less rejected."""
    generator = torch.Generator().manual_seed(seed)
    gamma = torch.distributions.Exponential(1.0)
    share = gamma.icdf(torch.rand(people, 1, 5, dtype=torch.float64, generator=generator))
    margins = 2.5 * torch.randn(people, pairs, 5, dtype=torch.float64, generator=generator)
    reward = (share / share.sum(2, keepdim=True) * margins).sum(2, keepdim=True)
    prefers = torch.rand(reward.shape, dtype=torch.float64, generator=generator) < torch.sigmoid(reward)
    return torch.where(prefers, margins, -margins)


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 32])
def test_blends_want_shrunken_or_tempered_weights(count: int) -> None:
    """Held-out NLL of people who are no single head; β and s² are chosen on other people."""

    def held_out(method: AdaptMethod, margins: torch.Tensor, strength: float = 1.0) -> float:
        adapted = adapt_groups(method, Shots(margins[:, :count]), strength)
        rest = margins[:, count:]
        flat = Scores(rest.reshape(-1, 5), torch.full((rest.shape[0] * rest.shape[1], 5), -math.log(5)), "probability")
        people = torch.arange(len(rest)).repeat_interleave(rest.shape[1])
        return -float(adapted.scores(flat, people).log_probability().mean())

    validation, test = blends(60, count + 40, 1), blends(120, count + 40, 2)
    chosen = {
        method: held_out(method, test, min(GRIDS[method], key=lambda one: held_out(method, validation, one)))
        for method in GRIDS
    }
    others = {
        "bayes": held_out("bayes", test),
        "hyre": held_out("hyre", test),
        "unshrunk": held_out("shrunk", test, 1e9),
    }
    assert max(chosen.values()) < min(others.values())
    assert chosen["shrunk"] < chosen["tempered"]


def test_the_first_shots_are_all_that_is_seen_of_a_smaller_number() -> None:
    few, other = shots(), shots(seed=9)
    assert few.chosen is not None
    assert other.chosen is not None
    mixed = Shots(
        torch.cat([few.margins[:, :2], other.margins[:, 2:]], 1), torch.cat([few.chosen[:, :2], other.chosen[:, 2:]], 1)
    )
    for method in ADAPT_METHODS:
        first, second = (adapt_groups(method, one.first(2), 1.0) for one in (few, mixed))
        assert torch.equal(first.log_weights, second.log_weights)
        assert not torch.equal(first.log_weights, adapt_groups(method, few, 1.0).log_weights)


def test_weights_sum_to_one_and_are_saved_as_they_are() -> None:
    for method in ADAPT_METHODS:
        adapted = adapt_groups(method, shots(), 1.0)
        state = adapted.state()
        assert torch.allclose(state["weights"].sum(1), torch.ones(G))
        assert set(state) == ({"weights", "scale"} if method == "drm" else {"weights"})


def test_a_group_s_head_of_no_weight_stays_out_under_a_router_that_is_sure() -> None:
    margins = torch.zeros(1, K, dtype=torch.float64)
    sure = Scores(margins, torch.tensor([[0.0, -math.inf, -math.inf, -math.inf]], dtype=torch.float64), "probability")
    found = by_hedge(shots(), 1.0).scores(sure, torch.tensor([0]))
    assert found.log_weights.exp().tolist() == [[1, 0, 0, 0]]
