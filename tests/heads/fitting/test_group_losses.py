"""One group for all pairs of a unit: exact where it has to equal simpler losses, autograd elsewhere, people found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from micropref.cache.errors import BadInput
from micropref.heads.choices import Weight
from micropref.heads.evaluation.metrics import correct
from micropref.heads.evaluation.selection import agreeing_share
from micropref.heads.fitting.fit import FitPlan, FitSetting, Fitted, PairTensors, fit
from micropref.heads.fitting.group_losses import Visits, annealed, unit_losses
from micropref.heads.fitting.losses import ABSENT_LOGIT, Penalty, mixture_losses
from micropref.heads.fitting.segments import ROUND, Segments
from micropref.heads.fitting.settings import GROUPED_STEPS, LEAST_BATCH
from micropref.heads.fitting.unit_minibatches import LONGEST, UnitFeed
from micropref.heads.fitting.validation import REMEMBERED, Known, known_weights
from micropref.heads.mixture import Mixture, pair_log_probability

CPU = torch.device("cpu")
EXACT = FitPlan(epochs=4, batch=64, dtype="float64", device="cpu", patience=0, anneal=False)
SETTINGS = [
    FitSetting("mixture", 3, hidden=8, lr=1e-2, seed=3),
    FitSetting("mixture", 2, hidden=0, lam=0.3, prior="batch", seed=1),
    FitSetting("static", 4, lam=0.0, l2=0.2, seed=2),
    FitSetting("single", 1, lr=3e-2),
]


def made(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def segments(sizes: torch.Tensor) -> Segments:
    return Segments(sizes, torch.arange(len(sizes)).repeat_interleave(sizes))


def visits_of(sizes: list[int], weight: torch.Tensor, share: torch.Tensor) -> Visits:
    lengths = torch.tensor(sizes)
    return Visits(segments(lengths), weight.double(), share.double())


def penalty_of(settings: int, heads: int, prior: str) -> Penalty:
    lam = torch.linspace(0.1, 0.5, settings).double().view(-1, 1, 1)
    return Penalty(lam, torch.full((settings, 1, 1), prior == "batch"), torch.full((settings,), heads).double().log())


@pytest.mark.parametrize("prior", ["example", "batch"])
def test_units_of_one_pair_are_the_pairs_mixture(prior: str) -> None:
    margins, logits = 2 * made(3, 4, 7), made(3, 4, 7, seed=1)
    logits[1, 3:] = ABSENT_LOGIT
    margins[1, 3:] = 0
    ones = visits_of([1] * 7, torch.full((7,), 1 / 7), torch.ones(7))
    pairs, units = (
        mixture_losses(margins, logits, penalty_of(3, 4, prior)),
        unit_losses(margins, logits, penalty_of(3, 4, prior), ones, 1.0),
    )
    for name in ("nll", "kl", "d_margins", "d_logits"):
        torch.testing.assert_close(getattr(units, name), getattr(pairs, name), rtol=1e-6, atol=1e-8)


def test_one_head_is_bradley_terry_whoever_chose() -> None:
    margins = made(2, 1, 9)
    visits = visits_of([4, 2, 3], torch.full((3,), 1 / 9), torch.ones(3))
    found = unit_losses(margins, made(2, 1, 9, seed=1), penalty_of(2, 1, "example"), visits, 0.3)
    torch.testing.assert_close(found.nll, F.softplus(-margins).mean((1, 2)))
    torch.testing.assert_close(found.d_margins, -torch.sigmoid(-margins) / 9)
    assert found.d_logits.abs().max() == 0


@pytest.mark.parametrize("prior", ["example", "batch"])
def test_gradients_of_whole_units_are_those_of_the_formula(prior: str) -> None:
    sizes, weight = [3, 1, 5, 2], torch.tensor([0.2, 0.1, 0.4, 0.3])
    margins, logits = ((2 * made(2, 3, 11, seed=seed)).requires_grad_() for seed in (0, 1))
    penalty = penalty_of(2, 3, prior)
    found = unit_losses(
        margins.detach(), logits.detach(), penalty, visits_of(sizes, weight, torch.ones(4)), exponent=1.0
    )
    for g in range(2):
        nll, weights, start = torch.zeros(()).double(), [], 0
        for size, count in zip(sizes, weight.tolist(), strict=True):
            mine = slice(start, start + size)
            weights.append(torch.softmax(logits[g, :, mine].mean(1), 0))
            likelihood = torch.sigmoid(margins[g, :, mine]).prod(1)
            nll = nll - round(count, 6) * (weights[-1] * likelihood).sum().log()
            start += size
        mean = torch.stack(weights).mean(0)
        terms = [mean] if prior == "batch" else weights
        kl = sum((one * one.log()).sum() for one in terms) / len(terms) + math.log(3)
        assert found.nll[g].item() == pytest.approx(nll.item(), rel=1e-6)
        assert found.kl[g].item() == pytest.approx(kl.item(), rel=1e-9)
        d_margins, d_logits = torch.autograd.grad(nll + penalty.lam[g].squeeze() * kl, [margins, logits])
        torch.testing.assert_close(found.d_margins[g], d_margins[g], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.d_logits[g], d_logits[g], rtol=1e-6, atol=1e-9)


def test_annealed_visits_lower_the_bound_at_their_own_posterior() -> None:
    """Of a unit in several visits: −Σ ρ S + KL(ρ ‖ π) / visits, with ρ held where the exponent has it."""
    sizes, share = [3, 4], torch.tensor([0.5, 0.25])
    margins, logits = ((2 * made(1, 3, 7, seed=seed)).requires_grad_() for seed in (0, 1))
    visits = visits_of(sizes, torch.tensor([0.25, 0.5]), share)
    found = unit_losses(margins.detach(), logits.detach(), penalty_of(1, 3, "example"), visits, exponent=0.4)
    total = torch.zeros(()).double()
    for place, mine in enumerate((slice(0, 3), slice(3, 7))):
        evidence = F.logsigmoid(margins[0, :, mine]).sum(1)
        log_weights = torch.log_softmax(logits[0, :, mine].mean(1), 0)
        rho = torch.softmax(log_weights + 0.4 * evidence, 0).detach()
        total = total - visits.weight[place] * ((rho * evidence).sum() + share[place] * (rho * log_weights).sum())
        share_of_kl = share[place] / share.sum()
        total = total + 0.1 * share_of_kl * (log_weights.exp() * log_weights).sum()
    d_margins, d_logits = torch.autograd.grad(total, [margins, logits])
    torch.testing.assert_close(found.d_margins, d_margins, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.d_logits, d_logits, rtol=1e-6, atol=1e-9)


def test_sums_of_neighbours_equal_a_loop() -> None:
    values, sizes = made(2, 3, 9), torch.tensor([2, 1, 6])
    slow = torch.stack([values[..., a:b].sum(2) for a, b in ((0, 2), (2, 3), (3, 9))], 2)
    torch.testing.assert_close(segments(sizes).sums(values), slow)


def test_the_exponent_rises_over_half_the_steps() -> None:
    exponents = [annealed(step, 40) for step in range(40)]
    assert exponents[0] == pytest.approx(0.05)
    assert exponents[10] == pytest.approx(0.05 + 0.95 / 2)
    assert exponents[19] < 1
    assert exponents[20:] == [1.0] * 20


def choices(pairs: int, seed: int, units: torch.Tensor | None = None) -> PairTensors:
    delta, router = made(2, pairs, 12, seed=seed).float()
    return PairTensors(5 * delta, router, torch.arange(pairs) if units is None else units)


def test_a_fit_of_units_of_one_pair_is_that_of_pairs() -> None:
    train, validation = choices(300, 0), choices(90, 1, torch.arange(1000, 1090))
    by_unit = fit(train, validation, [replace(one, latent="user") for one in SETTINGS], EXACT)
    for pair, unit in zip(fit(train, validation, SETTINGS, EXACT), by_unit, strict=True):
        assert unit.validation_nll == pytest.approx(pair.validation_nll, abs=1e-6)
        assert unit.train_history == pytest.approx(pair.train_history, abs=1e-6)
        for name, part in pair.mixture.state().items():
            torch.testing.assert_close(unit.mixture.state()[name], part, rtol=1e-5, atol=1e-6)


def test_one_head_is_fitted_as_if_nobody_were_named() -> None:
    train, validation = choices(300, 0, torch.arange(300) % 40), choices(90, 1, torch.arange(90) % 50)
    plan = replace(EXACT, batch=300, epochs=GROUPED_STEPS, anneal=True)
    setting = FitSetting("single", 1, lr=3e-2)
    pair, unit = fit(train, validation, [setting, replace(setting, latent="user")], plan)
    torch.testing.assert_close(unit.mixture.heads, pair.mixture.heads, rtol=1e-5, atol=1e-6)
    assert unit.validation_nll == pytest.approx(pair.validation_nll, abs=1e-6)


def test_settings_of_units_and_pairs_do_not_change_one_another() -> None:
    train, validation = choices(300, 0, torch.arange(300) % 40), choices(90, 1, torch.arange(90) % 50)
    wanted = [replace(one, latent=latent) for one in SETTINGS for latent in ("user", "pair")]
    wanted.append(replace(SETTINGS[0], latent="user", weight="user"))
    plan = replace(EXACT, anneal=True, patience=1)
    together = fit(train, validation, wanted, plan)
    assert len({one.validation_nll for one in together}) == len(wanted)
    for setting, fitted in zip(wanted, together, strict=True):
        assert fitted.setting == setting
        alone = fit(train, validation, [setting], plan)[0]
        assert alone.validation_history == pytest.approx(fitted.validation_history, abs=1e-7)
        assert fitted.epochs_run >= (2 + 1 if setting.latent == "user" else 1)


def test_few_pairs_are_fitted_in_smaller_minibatches_of_whole_units() -> None:
    plan = FitPlan(epochs=20, batch=2048)
    assert [plan.minibatch(pairs, "user") for pairs in (300, 4800, 24_000)] == [LEAST_BATCH, 400, 2048]
    assert [plan.minibatch(pairs, "pair") for pairs in (300, 4800)] == [2048, 2048]
    assert replace(plan, epochs=120).minibatch(4800, "user") == 2048
    assert replace(plan, batch=16).minibatch(300, "user") == 16
    train, validation = choices(600, 0, torch.arange(600) % 40), choices(90, 1, torch.arange(90) % 50)
    wanted = [replace(SETTINGS[2], latent=latent) for latent in ("user", "pair")]
    by_user, by_pair = fit(train, validation, wanted, replace(EXACT, epochs=40, batch=300))
    assert (by_user.execution.batch, by_pair.execution.batch) == (100, 300)


def feed_of(units: torch.Tensor, batch: int, weight: Weight = "pair") -> UnitFeed:
    count = len(units)
    numbers = torch.arange(count, dtype=torch.float64)[:, None]
    return UnitFeed(PairTensors(numbers, None, units), False, batch, weight, torch.float64, CPU)


@pytest.mark.parametrize("weight", ["pair", "user"])
def test_an_epoch_takes_units_whole_and_long_ones_in_near_equal_visits(weight: Weight) -> None:
    sizes = torch.tensor([1, 2 * LONGEST + 1, 5, LONGEST, 8, 7, 9, 10])
    units = torch.arange(8).repeat_interleave(sizes)[torch.randperm(int(sizes.sum()))]
    feed, generator = feed_of(units, 300, weight), torch.Generator().manual_seed(0)
    assert feed.steps == 1
    seen = []
    for _ in range(2):
        (batch,) = feed.shuffled(generator)
        assert batch.visits is not None
        counted, idle = len(units), int(batch.visits.pairs.sizes[-1])
        assert len(batch.delta) == counted + idle
        assert len(batch.delta) % ROUND == 0
        assert batch.visits.weight[-1] == batch.visits.share[-1] == 0
        rows = batch.delta.flatten().long()[:counted]
        assert rows.sort().values.equal(torch.arange(len(units)))
        visited = units[rows].split(batch.visits.pairs.sizes[:-1].tolist())  # type: ignore[no-untyped-call]
        assert all(len(one.unique()) == 1 for one in visited)
        assert sorted(map(len, visited)) == sorted([1, 21 + 1, 22, 21, 5, 32, 8, 7, 9, 10])
        unit = torch.stack([one[0] for one in visited])
        assert batch.visits.share[:-1].tolist() == pytest.approx([1 / 3 if u == 1 else 1 for u in unit])
        one_each = [1 / len(units)] * 8 if weight == "pair" else (1 / (8 * sizes)).tolist()
        assert batch.visits.weight[:-1].tolist() == pytest.approx([one_each[u] for u in unit])
        assert batch.visits.pairs.place.bincount().equal(batch.visits.pairs.sizes)
        seen.append(rows)
    assert not seen[0].equal(seen[1]), "a long unit's visits should change"


def test_minibatches_have_equally_many_visits_and_estimate_the_whole_loss() -> None:
    units = torch.arange(2000) // 4
    feed = feed_of(units, 128)
    batches = list(feed.shuffled(torch.Generator().manual_seed(0)))
    assert len(batches) == feed.steps == 16
    assert {len(one.visits.pairs.sizes) for one in batches if one.visits is not None} == {500 // 16 + 1}
    for one in batches:
        assert one.visits is not None
        assert (one.visits.weight * one.visits.pairs.sizes).sum().item() == pytest.approx(1)


def test_known_units_are_weighed_by_their_first_training_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    units = torch.randint(6, (150,), generator=generator)
    train, held_out = choices(150, 2, units), choices(8, 3, torch.tensor([5, 0, 9, 3, 3, 7, 1, 0]))
    mixture = Mixture(torch.randn(3, 12, generator=generator) / 20, static=torch.tensor([0.5, 0.2, 0.3]).log())
    prior = mixture.log_weights(None, 8)
    (found,) = known_weights([mixture], train, held_out)
    for row, unit in enumerate([5, 0, 9, 3, 3, 7, 1, 0]):
        mine = train.delta[units == unit][:REMEMBERED]
        evidence = F.logsigmoid(mine @ mixture.heads.T).sum(0)
        torch.testing.assert_close(found[row], torch.log_softmax(prior[row] + evidence, 0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[[2, 5]], prior[[2, 5]])


def test_the_history_is_of_known_units_too() -> None:
    train, validation = choices(300, 0, torch.arange(300) % 10), choices(90, 1, torch.arange(90) % 12)
    for fitted in fit(train, validation, [replace(one, latent="user") for one in SETTINGS], replace(EXACT, batch=40)):
        (known,) = known_weights([fitted.mixture], train, validation)
        assert fitted.known is not None
        torch.testing.assert_close(fitted.known, known)
        log_p = pair_log_probability(fitted.mixture.margins(validation.delta), known)
        assert fitted.validation_nll == pytest.approx(-log_p.mean().item(), abs=1e-6)
        assert fitted.validation_history[-1] == pytest.approx(fitted.validation_nll, abs=1e-5)


def test_rows_of_units_without_validation_pairs_are_left_out() -> None:
    known = Known.of(torch.tensor([4, 4, 2, 8, 2]), torch.tensor([2, 3, 2, 9]))
    assert known.rows.tolist() == [2, 4]
    assert known.unit.tolist() == [0, 0]
    assert known.of_pair.tolist() == [0, 1, 0, 2]


def heads_by_group(people: Any, fitted: Fitted) -> float:
    """Accuracy on test pairs of the head that is best for each group's validation pairs."""
    right = [correct(F.logsigmoid(fitted.mixture.margins(part.delta))) for part in (people.validation, people.test)]
    best = torch.stack([right[0][people.group[0] == group].mean(0).argmax() for group in range(4)])
    return right[1].gather(1, best[people.group[1]][:, None]).mean().item()


def test_repeated_choices_tell_groups_that_single_ones_do_not(planted_people: Callable[..., Any]) -> None:
    people = planted_people(400, 12, 32, 0)
    settings = [
        FitSetting("static", 4, lr=2e-2, seed=seed, latent=latent) for latent in ("user", "pair") for seed in range(6)
    ]
    plan = FitPlan(device="cpu", batch=256, dtype="float32")
    fitted = fit(people.fit, people.validation, settings, plan)
    by_user, by_pair = (sorted(part, key=lambda one: one.validation_nll) for part in (fitted[:6], fitted[6:]))
    truth = Mixture(people.truth).margins(people.test.delta)
    ceiling = correct(F.logsigmoid(truth)).gather(1, people.group[1][:, None]).mean().item()
    assert heads_by_group(people, by_user[0]) > ceiling - 0.03
    assert heads_by_group(people, by_pair[0]) < ceiling - 0.1
    assert agreeing_share([one.known.argmax(1) for one in by_user if one.known is not None], 4) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: FitSetting("mixture", 2, latent="person"), "latent is 'person': expected one of pair, user, context"),  # type: ignore[arg-type]
        (lambda: FitSetting("mixture", 2, weight="user"), "weight user with latent pair"),
        (lambda: FitSetting("ensemble", 2, latent="user"), "method ensemble with latent user"),
        (lambda: run(PairTensors(torch.ones(4, 3), None)), "latent user: expected one of them, and every pair's"),
        (lambda: run(choices(9, 0), "context"), "latent context and user: expected one of them"),
        (lambda: run(choices(9, 0), plan=FitPlan(solver="lbfgs")), "solver lbfgs with latent user"),
        (lambda: PairTensors(torch.ones(4, 3), None, torch.zeros(3)), "one for each of the 4 pairs"),
    ],
)
def test_what_cannot_be_fitted_is_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        call()


def run(pairs: PairTensors, other: Any = "user", plan: FitPlan = EXACT) -> list[Fitted]:
    settings = [FitSetting("static", 2, latent="user"), FitSetting("static", 2, latent=other)]
    return fit(pairs, pairs, settings, plan)
