"""The batched fit against plain torch.optim.AdamW, scikit-learn, and itself in other company."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from micropref.cache.errors import BadInput, Failure
from micropref.heads.fitting.fit import FitPlan, FitProgress, FitSetting, Fitted, PairTensors, fit, mean_nll
from micropref.heads.fitting.initial_weights import as_mixture, initial_weights
from micropref.heads.fitting.minibatches import batch_indices, batch_size
from micropref.heads.fitting.scales import training_scales
from micropref.heads.fitting.solvers import learning_rate_factor
from micropref.heads.mixture import Mixture

EXACT = FitPlan(epochs=4, batch=64, dtype="float64", device="cpu", patience=0)
SETTINGS = [
    FitSetting("mixture", 3, hidden=8, lr=1e-2, seed=3),
    FitSetting("single", 1, lr=3e-2, weight_decay=0.1, l2=0.5),
    FitSetting("mixture", 2, hidden=0, lam=0.3, prior="batch", seed=1),
    FitSetting("static", 4, lam=0.0, seed=2),
    FitSetting("mixture", 5, hidden=16, lam=0.0, lr=5e-2, weight_decay=0.0, seed=4),
    FitSetting("mixture", 1, seed=6),
    FitSetting("ensemble", 3, lr=2e-2, weight_decay=0.2, l2=0.3, seed=7),
]


def noisy_pairs(pairs: int, seed: int, width: int = 12) -> PairTensors:
    """Pairs whose choices follow a linear reward that turns round with the first router entry's sign."""
    generator = torch.Generator().manual_seed(seed)
    delta, router = (torch.randn(pairs, width, generator=generator) for _ in range(2))
    reward = delta[:, :4].sum(1) * router[:, 0].sign() + delta[:, 5]
    prefers = torch.rand(pairs, generator=generator) < torch.sigmoid(reward)
    return PairTensors(5 * delta * (2 * prefers.float() - 1)[:, None], 0.1 * router)


TRAIN, VALIDATION = noisy_pairs(300, 0), noisy_pairs(90, 1)


def plain_adamw(setting: FitSetting, plan: FitPlan) -> Mixture:
    """One setting by autograd, torch.optim.AdamW and a LambdaLR, in float64."""
    scales = training_scales(TRAIN)
    assert TRAIN.router is not None
    delta, router = TRAIN.delta.double() / scales.delta, (TRAIN.router.double() - scales.centre) / scales.router
    parts = initial_weights(setting, delta.shape[1], router.shape[1], torch.float64)
    frozen = ("v2", "b1", "prior") if setting.hidden == 0 else ("prior",)
    learned = {name: part.requires_grad_() for name, part in parts.items() if name not in frozen}
    decays = {"heads": setting.weight_decay, "v1": setting.weight_decay, "v2": setting.weight_decay}
    groups = [{"params": [part], "weight_decay": decays.get(name, 0.0)} for name, part in learned.items()]
    optimizer = torch.optim.AdamW(groups, lr=setting.lr)
    steps = plan.epochs * (300 // batch_size(300, plan.batch))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, plan.warmup) if step < steps else 0.0
    )
    order = torch.Generator().manual_seed(plan.data_seed)
    for _ in range(plan.epochs):
        for index in batch_indices(300, plan.batch, order):
            margins = delta[index] @ (parts["heads"] + parts.get("prior", 0.0)).T
            logits = parts["b2"].expand(len(index), -1)
            if setting.routed:
                hidden = router[index] @ parts["v1"].T + parts["b1"]
                logits = logits + (hidden.relu() if setting.hidden else hidden) @ parts["v2"].T
            weights = torch.softmax(logits, 1)
            mean = weights.mean(0) if setting.prior == "batch" else weights
            if setting.method == "ensemble":
                loss = sum(-torch.sigmoid(margin).log().mean() for margin in margins.T) / setting.k
            else:
                loss = -(weights * torch.sigmoid(margins)).sum(1).log().mean()
                loss = loss + setting.lam * (mean * mean.log()).sum(-1).mean()
            loss = loss + setting.l2 / 600 * (parts["heads"] / scales.delta).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return as_mixture(setting, {name: part.detach() for name, part in parts.items()}, scales)


def assert_same(first: Mixture, second: Mixture, relative: float) -> None:
    """Compare all tensors of two mixtures."""
    assert first.state().keys() == second.state().keys()
    for name, part in first.state().items():
        torch.testing.assert_close(part, second.state()[name], rtol=relative, atol=relative * part.abs().max().item())


def test_one_batched_fit_equals_plain_adamw_per_setting() -> None:
    for fitted in fit(TRAIN, VALIDATION, SETTINGS, EXACT):
        assert_same(fitted.mixture, plain_adamw(fitted.setting, EXACT), 1e-6)
        assert fitted.best_epoch == fitted.epochs_run == 4
        assert len(fitted.train_history) == len(fitted.validation_history) == 4


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_setting_alone_and_among_others_agrees(dtype: str) -> None:
    plan = FitPlan(epochs=12, batch=64, dtype=dtype, device="cpu", patience=2)  # type: ignore[arg-type]
    together = fit(TRAIN, VALIDATION, SETTINGS, plan)
    assert len({fitted.epochs_run for fitted in together}) > 1, "some settings should stop before others"
    for setting, fitted in zip(SETTINGS, together, strict=True):
        alone = fit(TRAIN, VALIDATION, [setting], plan)[0]
        assert fitted.setting == setting
        assert abs(fitted.validation_nll - alone.validation_nll) < (1e-3 if dtype == "bfloat16" else 1e-5)
        if dtype == "float64":
            assert_same(fitted.mixture, alone.mixture, 1e-6)
            assert (fitted.best_epoch, fitted.epochs_run) == (alone.best_epoch, alone.epochs_run)


def test_two_runs_are_equal_to_the_bit() -> None:
    plan = FitPlan(epochs=5, batch=64, patience=2)
    for first, second in zip(*(fit(TRAIN, VALIDATION, SETTINGS, plan) for _ in range(2)), strict=True):
        for name, part in first.mixture.state().items():
            assert torch.equal(part, second.mixture.state()[name])
        assert replace(first, mixture=second.mixture) == second


def test_seeds_change_the_start_and_the_order() -> None:
    setting = SETTINGS[0]
    base, other = fit(TRAIN, VALIDATION, [setting, replace(setting, seed=9)], EXACT)
    reordered = fit(TRAIN, VALIDATION, [setting], replace(EXACT, data_seed=1))[0]
    assert len({fitted.validation_nll for fitted in (base, other, reordered)}) == 3


@pytest.mark.parametrize("c", [1.0, 0.05, 20.0])
def test_one_head_equals_scikit_learn(c: float) -> None:
    train = noisy_pairs(700, 2, width=30)
    plan = FitPlan(epochs=30, device="cpu", patience=0, solver="lbfgs")
    fitted = fit(train, VALIDATION_30, [FitSetting("single", 1, l2=1 / c)], plan)[0]
    flips = np.where(np.random.default_rng(0).random(700) < 0.5, -1.0, 1.0)
    rows = train.delta.double().numpy() * flips[:, None]
    reference = LogisticRegression(C=c, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(rows, flips)
    expected = torch.from_numpy(reference.coef_).float()
    assert (fitted.mixture.heads - expected).abs().max() < 1e-5 * expected.abs().max()
    assert fitted.execution.dtype == "float64"
    assert fitted.epochs_run < 30, "it should stop when converged"


def test_one_head_equals_scikit_learn_on_features_of_condition_1000() -> None:
    """Along flat directions the loss says nothing below its rounding, the gradient does."""
    generator = torch.Generator().manual_seed(5)
    sizes = torch.logspace(0, -3, 128)
    rows = torch.randn(4000, 128, generator=generator) * sizes
    margin = rows @ (torch.randn(128, generator=generator) / sizes) * 2 / 128**0.5
    signs = torch.where(torch.rand(4000, generator=generator) < torch.sigmoid(margin), 1.0, -1.0)
    pairs = PairTensors(rows * signs[:, None], None)
    plan = FitPlan(epochs=60, device="cpu", patience=0, solver="lbfgs")
    ours = fit(pairs, pairs, [FitSetting("single", 1, l2=1.0)], plan)[0].mixture.heads[0].double().numpy()
    flips = np.where(np.random.default_rng(0).random(4000) < 0.5, -1.0, 1.0)
    reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, solver="newton-cholesky")
    theirs = reference.fit(pairs.delta.double().numpy() * flips[:, None], flips).coef_[0]
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


VALIDATION_30 = noisy_pairs(90, 3, width=30)


def test_adamw_reaches_the_same_optimum_as_lbfgs() -> None:
    setting = FitSetting("single", 1, l2=30.0, lr=3e-2, weight_decay=0.0)
    results = [
        fit(TRAIN, VALIDATION, [setting], plan)[0].mixture.heads
        for plan in (
            FitPlan(epochs=600, batch=300, dtype="float32", device="cpu", patience=0),
            FitPlan(epochs=30, device="cpu", patience=0, solver="lbfgs"),
        )
    ]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4 * results[1].abs().max().item())


def test_lbfgs_lowers_a_mixture_at_least_as_far_as_adamw() -> None:
    setting = FitSetting("mixture", 2, hidden=0, seed=1, l2=1.0, weight_decay=0.0, lr=1e-2)
    adamw = fit(TRAIN, VALIDATION, [setting], replace(EXACT, epochs=60))[0]
    lbfgs = fit(TRAIN, VALIDATION, [setting], FitPlan(epochs=30, device="cpu", patience=0, solver="lbfgs"))[0]
    assert mean_nll(lbfgs.mixture, TRAIN) < mean_nll(adamw.mixture, TRAIN) + 1e-3


def test_the_best_epoch_is_returned_in_the_features_units() -> None:
    fitted = fit(TRAIN, VALIDATION, SETTINGS, FitPlan(epochs=30, batch=64, dtype="float32", patience=3))
    for result in fitted:
        history = result.validation_history
        assert result.best_epoch == 1 + int(np.argmin(history))
        assert result.epochs_run == len(history) == min(30, result.best_epoch + 3)
        assert result.validation_nll == pytest.approx(min(history), abs=1e-5)
        log_p = result.mixture.log_probability(VALIDATION.delta, VALIDATION.router)
        assert result.validation_nll == pytest.approx(-log_p.double().mean().item(), abs=1e-6)


def test_units_of_the_features_do_not_matter() -> None:
    assert TRAIN.router is not None
    assert VALIDATION.router is not None
    scaled = [
        PairTensors(1000 * part.delta, part.router / 64) for part in (TRAIN, VALIDATION) if part.router is not None
    ]
    settings = [replace(setting, l2=0.0) for setting in SETTINGS]
    for one, two in zip(fit(TRAIN, VALIDATION, settings, EXACT), fit(*scaled, settings, EXACT), strict=True):
        assert one.validation_nll == pytest.approx(two.validation_nll, abs=1e-6)
        torch.testing.assert_close(one.mixture.heads, two.mixture.heads * 1000, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_half_precision_features_are_read_as_they_are(dtype: torch.dtype) -> None:
    assert TRAIN.router is not None
    stored = PairTensors(TRAIN.delta.to(dtype), TRAIN.router.to(dtype))
    plan = replace(EXACT, dtype="float32")
    rounded = PairTensors(stored.delta.float(), TRAIN.router.to(dtype).float())
    for one, two in zip(fit(stored, VALIDATION, SETTINGS, plan), fit(rounded, VALIDATION, SETTINGS, plan), strict=True):
        assert_same(one.mixture, two.mixture, 1e-6)


def test_chunks_are_even_and_progress_is_reported() -> None:
    reports: list[FitProgress] = []
    settings = [FitSetting("single", 1, seed=seed) for seed in range(17)]
    fitted = fit(TRAIN, VALIDATION, settings, replace(EXACT, epochs=2), reports.append)
    assert sorted(result.execution.chunk for result in fitted) == [8] * 8 + [9] * 9
    assert [(where.chunk, where.chunks, where.epoch) for where in reports] == [
        (1, 2, 1),
        (1, 2, 2),
        (2, 2, 1),
        (2, 2, 2),
    ]
    assert fitted[0].execution.batch == 60


def test_minibatches_have_one_size_and_lose_few_rows() -> None:
    seen = list(batch_indices(1001, 100, torch.Generator().manual_seed(0)))
    assert [len(index) for index in seen] == [91] * 11
    assert len(torch.cat(seen).unique()) == 1001
    assert batch_size(5, 100) == 5
    assert batch_size(2049, 2048) == 1024


def test_wide_embeddings_take_smaller_steps() -> None:
    first = noisy_pairs(64, 4, width=768)
    plan = replace(EXACT, epochs=1, warmup=0.0)
    setting = FitSetting("single", 1, lr=1e-2, weight_decay=0.0)
    start = as_mixture(setting, initial_weights(setting, 768, 768, torch.float64), training_scales(first)).heads
    fitted = fit(first, first, [setting], plan)[0]
    moved = fitted.mixture.heads - start
    assert fitted.execution.lr == 1e-2 / 2
    # One step of AdamW moves every weight by its learning rate.
    expected = torch.full_like(moved, 1e-2 / 2 / training_scales(first).delta)
    torch.testing.assert_close(moved.abs(), expected, rtol=1e-2, atol=0)


def test_learning_rate_rises_then_falls() -> None:
    factors = [learning_rate_factor(step, 40, 0.05) for step in range(40)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[21] == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[-1] > 0
    assert learning_rate_factor(0, 40, 0.0) == 1.0


def run(
    train: PairTensors = TRAIN, validation: PairTensors = VALIDATION, plan: FitPlan = EXACT, **setting: object
) -> list[Fitted]:
    """Fit one mixture, with some of the arguments wrong."""
    return fit(train, validation, [FitSetting(**({"method": "mixture", "k": 2} | setting))], plan)  # type: ignore[arg-type]


BROKEN = torch.ones(5000, 3)
BROKEN[4321, 1] = math.nan


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: run(method="mixed"), "method is 'mixed': expected one of mixture, static, single, ensemble"),
        (lambda: run(k=0), "k is 0: expected at least 1"),
        (lambda: run(lam=-0.1), "lam is -0.1"),
        (lambda: run(lam=math.nan), "lam is nan"),
        (lambda: run(lr=0.0), "lr is 0.0"),
        (lambda: run(hidden=-1), "hidden is -1"),
        (lambda: run(prior="both"), "prior is 'both'"),
        (lambda: run(method="single"), "method single with k = 2"),
        (lambda: FitPlan(epochs=0), "epochs is 0"),
        (lambda: FitPlan(warmup=1.0), "warmup is 1.0"),
        (lambda: FitPlan(solver="sgd"), "solver is 'sgd'"),  # type: ignore[arg-type]
        (lambda: run(plan=replace(EXACT, device="tpu9")), "device is 'tpu9'"),
        (lambda: fit(TRAIN, VALIDATION, [], EXACT), "no setting"),
        (lambda: run(train=PairTensors(TRAIN.delta, None)), "needs the router's input"),
        (lambda: run(validation=VALIDATION_30), "embed them alike"),
        (lambda: PairTensors(torch.zeros(0, 3), None), r"shape \[0, 3\]"),
        (lambda: PairTensors(torch.zeros(4, 3), torch.zeros(3, 3)), "each of the 4 pairs"),
        (lambda: training_scales(PairTensors(BROKEN, None)), "not finite in row 4321"),
        (lambda: training_scales(PairTensors(torch.zeros(4, 3), None)), "zero in all 4 rows"),
    ],
)
def test_what_cannot_be_fitted_is_named(call: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        call()  # type: ignore[operator]


def test_a_loss_that_is_never_finite_is_a_failure() -> None:
    with pytest.raises(Failure, match="never finite"):
        run(lr=1e300)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_vectors_side_by_side_are_divided_each_by_its_own_rms(dtype: str) -> None:
    """The same as a fit on rows that were centred and divided beforehand; the saved weights read rows as given."""
    plan = FitPlan(epochs=4, batch=64, dtype=dtype, device="cpu", patience=0)  # type: ignore[arg-type]
    settings = [FitSetting("mixture", 3, hidden=8, lr=1e-2, seed=3), FitSetting("mixture", 2, hidden=0, lr=1e-2)]
    parts, means, sizes = (5, 7), [], []
    uneven = [
        PairTensors(one.delta, one.router * torch.tensor([40.0] * 5 + [1.0] * 7) + 2, router_parts=parts)
        for one in (TRAIN, VALIDATION)
        if one.router is not None
    ]
    assert uneven[0].router is not None
    for block in torch.split(uneven[0].router.double(), list(parts), 1):
        means.append(block.mean(0))
        sizes.append((block - block.mean(0)).square().mean().sqrt().expand(block.shape[1]))
    mean, size = torch.cat(means), torch.cat(sizes)
    even = [
        PairTensors(one.delta, ((one.router.double() - mean) / size).float())
        for one in uneven
        if one.router is not None
    ]
    for one, two in zip(fit(*uneven, settings, plan), fit(*even, settings, plan), strict=True):
        assert one.validation_nll == pytest.approx(two.validation_nll, abs=1e-4)
        assert one.mixture.router is not None
        assert two.mixture.router is not None
        assert even[1].router is not None
        torch.testing.assert_close(
            one.mixture.router.logits(uneven[1].router), two.mixture.router.logits(even[1].router), rtol=0.01, atol=0.01
        )
    with pytest.raises(BadInput, match=r"router parts are \[5, 8\] wide"):
        replace(uneven[0], router_parts=(5, 8))


def test_taken_pairs_are_those_of_a_mask() -> None:
    rows = torch.arange(300) % 7
    shared = PairTensors(TRAIN.delta, TRAIN.router[:7] if TRAIN.router is not None else None, rows, rows, (5, 7))
    mask = (rows > 2) & (torch.arange(300) < 60)
    taken = shared.take(mask)
    assert taken.router is not None
    assert shared.router is not None
    assert len(taken.router) == 4
    assert torch.equal(taken.delta, TRAIN.delta[mask])
    assert torch.equal(taken.router[taken.router_rows], shared.router[rows[mask]])
    assert taken.units is not None
    assert torch.equal(taken.units, rows[mask])
    assert taken.router_parts == (5, 7)
