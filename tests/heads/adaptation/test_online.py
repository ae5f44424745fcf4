"""Forecasters round by round, in float64 loops; every bound on a thousand random sequences, for its own loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from micropref.heads.adaptation.online import FORECASTERS, Forecaster, best_sequences, replay, unlearned

STILL = [name for name in FORECASTERS if name != "fixed-share"]


def loop(margins: list[list[float]], forecaster: Forecaster) -> tuple[list[float], list[float], list[float]]:
    """Return log-probabilities, losses and last weights, one round at a time."""
    rounds, k = len(margins), len(margins[0])
    totals = [0.0] * k
    log_p, losses = [], []

    def weights(t: int) -> list[float]:
        rates = {"log-loss": 1.0, "linear": math.sqrt(8 * math.log(k) / rounds)}
        eta = rates.get(forecaster, math.sqrt(8 * math.log(k) / t))
        raw = [math.exp(-eta * (total - min(totals))) for total in totals]
        return [value / sum(raw) for value in raw]

    for t, row in enumerate(margins, start=1):
        p = [1 / (1 + math.exp(-m)) for m in row]
        w = weights(t)
        mixed = sum(a * b for a, b in zip(w, p, strict=True))
        log_p.append(math.log(mixed))
        losses.append(-math.log(mixed) if forecaster == "log-loss" else 1 - mixed)
        totals = [a + (-math.log(b) if forecaster == "log-loss" else 1 - b) for a, b in zip(totals, p, strict=True)]
    return log_p, losses, weights(rounds)


@pytest.mark.parametrize("forecaster", STILL)
@pytest.mark.parametrize("rounds", [1, 2, 37])
def test_replay_is_a_loop_over_rounds(forecaster: Forecaster, rounds: int) -> None:
    margins = torch.randn(rounds, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(rounds)) * 2
    found = replay(margins, forecaster)
    log_p, losses, last = loop(margins.tolist(), forecaster)
    assert found.log_probability.tolist() == pytest.approx(log_p, abs=1e-10)
    assert found.losses.tolist() == pytest.approx(losses, abs=1e-10)
    assert found.final.exp().tolist() == pytest.approx(last, abs=1e-10)


def test_two_rounds_by_hand() -> None:
    """Heads say (.8, .4), then (.1, .9): p_1 = .6; weights (2/3, 1/3), so p_2 = .1·2/3 + .9/3 = 11/30."""
    p = torch.tensor([[0.8, 0.4], [0.1, 0.9]], dtype=torch.float64)
    found = replay(torch.logit(p), "log-loss")
    assert found.log_probability.exp().tolist() == pytest.approx([0.6, 11 / 30])
    assert found.best_head == 1
    assert found.regret == pytest.approx(math.log(0.36 / (0.6 * 11 / 30)))
    assert found.bound == pytest.approx(math.log(2))
    assert found.final.exp().tolist() == pytest.approx([0.08 / 0.44, 0.36 / 0.44])
    # η = sqrt(8 ln 2 / 2) = 1.6651; losses (.2, .6) leave weights (.6606, .3394): played .4, then .9 - .8·.3394.
    linear = replay(torch.logit(p), "linear")
    first = 1 / (1 + math.exp(-math.sqrt(4 * math.log(2)) * 0.4))
    assert linear.losses.tolist() == pytest.approx([0.4, 0.9 * first + 0.1 * (1 - first)])
    assert linear.regret == pytest.approx(float(linear.losses.sum()) - 0.7)
    assert linear.bound == pytest.approx(math.sqrt(math.log(2)))
    assert replay(torch.logit(p), "linear-anytime").bound == pytest.approx(
        2 * math.sqrt(math.log(2)) + math.sqrt(math.log(2) / 8)
    )


def sequence(seed: int) -> torch.Tensor:
    """Return margins [T, K] of one of four kinds: noise, one good head, a switch, heads that take turns."""
    generator = torch.Generator().manual_seed(seed)
    rounds, k = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 200), (2, 9)))
    margins = torch.randn(rounds, k, dtype=torch.float64, generator=generator) * float(
        torch.rand((), generator=generator) * 20
    )
    kind = seed % 4
    if kind == 1:
        margins[:, 0] = margins[:, 0].abs()
    elif kind == 2:
        margins[: rounds // 2, 0], margins[rounds // 2 :, 0] = 15, -15
    elif kind == 3:
        turn = torch.arange(rounds)[:, None] % k == torch.arange(k)
        margins = torch.where(turn, -margins.abs(), margins.abs())
    return margins


@pytest.mark.slow
@pytest.mark.parametrize("forecaster", STILL)
def test_each_bound_holds_for_its_loss_on_a_thousand_sequences(forecaster: Forecaster) -> None:
    tightest = 0.0
    for seed in range(1000):
        found = replay(sequence(seed), forecaster)
        assert found.bound is not None
        assert found.regret <= found.bound + 1e-9, seed
        tightest = max(tightest, found.regret / found.bound)
    assert tightest > {"log-loss": 0.999, "linear": 0.7, "linear-anytime": 0.3}[forecaster]


@pytest.mark.parametrize("rounds", [1, 2, 9])
def test_fixed_share_is_a_loop_over_rounds(rounds: int) -> None:
    margins = torch.randn(rounds, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(rounds)) * 2
    found = replay(margins, "fixed-share", switches=2)
    alpha = min(min(2, rounds - 1) / max(rounds - 1, 1), 2 / 3)
    weights, log_p = [1 / 3] * 3, []
    for row in margins.tolist():
        p = [1 / (1 + math.exp(-m)) for m in row]
        mixed = sum(a * b for a, b in zip(weights, p, strict=True))
        log_p.append(math.log(mixed))
        learned = [a * b / mixed for a, b in zip(weights, p, strict=True)]
        weights = [(1 - alpha) * a + alpha / 2 * (1 - a) for a in learned]
    assert found.log_probability.tolist() == pytest.approx(log_p)
    assert found.final.exp().tolist() == pytest.approx(learned)


@pytest.mark.parametrize("switches", [0, 1, 2, 4])
def test_the_best_sequence_is_the_best_of_all_sequences(switches: int) -> None:
    losses = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(switches))
    least = [math.inf] * 3
    for sequence in itertools.product(range(3), repeat=5):
        if sum(a != b for a, b in itertools.pairwise(sequence)) <= switches:
            loss = sum(float(losses[t, k]) for t, k in enumerate(sequence))
            least[sequence[-1]] = min(least[sequence[-1]], loss)
    assert best_sequences(losses, switches).tolist() == pytest.approx(least)


@pytest.mark.slow
def test_the_bound_against_switches_holds_on_a_thousand_sequences() -> None:
    tightest = 0.0
    for seed in range(1000):
        margins, switches = sequence(seed)[:60], 1 + seed % 3
        found = replay(margins, "fixed-share", switches)
        (rounds, k), s = margins.shape, found.switches
        assert s == min(switches, rounds - 1)
        assert found.bound is not None
        if rounds > 1 and s / (rounds - 1) <= (k - 1) / k:
            share = s / (rounds - 1)
            entropy = -sum(p * math.log(p) for p in (share, 1 - share) if p)
            assert found.bound == pytest.approx(math.log(k) + s * math.log(k - 1) + (rounds - 1) * entropy)
        else:
            assert found.bound == pytest.approx(rounds * math.log(k))
        assert found.regret <= found.bound + 1e-9, seed
        tightest = max(tightest, found.regret / found.bound)
    assert tightest > 0.6


def test_a_planted_switch_is_followed() -> None:
    """Head 0 is right for 60 rounds, then head 1: shared weights turn in a few rounds, Bayes' rule after 60 more."""
    margins = torch.full((120, 2), -2.0)
    margins[:60, 0] = margins[60:, 1] = 2.0
    drifting, still = replay(margins, "fixed-share"), replay(margins, "log-loss")
    assert (drifting.log_probability[66:] > math.log(0.8)).all()
    assert still.log_probability[66:100].exp().max() < 0.2
    assert drifting.best_loss == pytest.approx(120 * math.log1p(math.exp(-2)))
    assert (drifting.best_head, drifting.switches) == (1, 1)
    assert drifting.bound is not None
    assert drifting.regret < drifting.bound < still.losses.sum() - drifting.best_loss


def test_the_square_root_bound_is_no_bound_on_log_loss() -> None:
    """One round, one head right and one wrong: uniform weights lose log 2 nats, more than sqrt(log 2 / 2)."""
    margins = torch.tensor([[40.0, -40.0]])
    bayes, linear = replay(margins, "log-loss"), replay(margins, "linear")
    assert linear.bound is not None
    assert linear.regret == pytest.approx(0.5)
    assert linear.regret <= linear.bound < bayes.regret == pytest.approx(math.log(2))


def test_weights_given_beforehand_learn_nothing_and_promise_nothing() -> None:
    margins = sequence(8)
    log_weights = torch.log_softmax(torch.zeros_like(margins), 1)
    found = unlearned(margins, log_weights)
    expected = (torch.sigmoid(margins).mean(1)).log()
    assert torch.allclose(found.log_probability, expected)
    assert found.bound is None
    assert torch.equal(found.losses, -found.log_probability)
