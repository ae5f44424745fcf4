"""The closed-form losses and gradients against a slow loop and against autograd."""

from __future__ import annotations

import math

import pytest
import torch

from micropref.heads.fitting.initial_weights import Parts, initial_weights
from micropref.heads.fitting.losses import ABSENT_LOGIT, Penalty, by_autograd, ensemble_formula, mixture_losses
from micropref.heads.fitting.minibatches import Batch
from micropref.heads.fitting.scales import Scales
from micropref.heads.fitting.settings import FitSetting
from micropref.heads.fitting.stacked_weights import Stack

PAIRS = 7


def slow_loss(margins: list[list[float]], logits: list[list[float]], lam: float, prior: str) -> tuple[float, float]:
    """NLL and loss of one setting from [pairs][heads] lists, term by term."""
    nll, per_pair, mean = 0.0, 0.0, [0.0] * len(margins[0])
    for m, z in zip(margins, logits, strict=True):
        total = sum(math.exp(value) for value in z)
        weights = [math.exp(value) / total for value in z]
        nll -= math.log(sum(w / (1 + math.exp(-value)) for w, value in zip(weights, m, strict=True)))
        per_pair += sum(w * math.log(w) for w in weights)
        mean = [a + w / len(margins) for a, w in zip(mean, weights, strict=True)]
    of_mean = sum(w * math.log(w) for w in mean)
    kl = math.log(len(mean)) + (of_mean if prior == "batch" else per_pair / len(margins))
    return nll / len(margins), nll / len(margins) + lam * kl


@pytest.mark.parametrize("prior", ["example", "batch"])
def test_losses_equal_a_slow_loop_for_mixed_numbers_of_heads(prior: str) -> None:
    generator = torch.Generator().manual_seed(0)
    counts, lams = [1, 3, 4], [0.5, 0.1, 0.3]
    margins, logits = (torch.randn(3, 4, PAIRS, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
    for g, k in enumerate(counts):
        logits[g, k:] = ABSENT_LOGIT
    penalty = Penalty(
        torch.tensor(lams, dtype=torch.float64).view(-1, 1, 1),
        torch.full((3, 1, 1), prior == "batch"),
        torch.tensor(counts).double().log(),
    )
    result = mixture_losses(margins, logits, penalty)
    for g, k in enumerate(counts):
        nll, loss = slow_loss(margins[g, :k].T.tolist(), logits[g, :k].T.tolist(), lams[g], prior)
        assert result.nll[g].item() == pytest.approx(nll, abs=1e-12)
        assert (result.nll + penalty.lam.flatten() * result.kl)[g].item() == pytest.approx(loss, abs=1e-12)
        assert result.d_margins[g, k:].abs().sum() == 0
        assert result.d_logits[g, k:].abs().sum() == 0


def test_uniform_and_one_hot_weights_bound_the_kl() -> None:
    logits = torch.stack([torch.zeros(4, PAIRS), torch.tensor([60.0, 0, 0, 0]).view(4, 1).expand(4, PAIRS)])
    penalty = Penalty(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1, dtype=torch.bool), torch.full((2,), math.log(4)))
    result = mixture_losses(torch.zeros(2, 4, PAIRS), logits, penalty)
    torch.testing.assert_close(result.kl, torch.tensor([0.0, math.log(4)]), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.nll, torch.full((2,), math.log(2)))


def test_the_batch_prior_leaves_a_confident_but_balanced_router_free() -> None:
    logits = 60 * torch.eye(2).repeat(1, 3)[None].expand(2, 2, 6)
    penalty = Penalty(torch.ones(2, 1, 1), torch.tensor([False, True]).view(2, 1, 1), torch.full((2,), math.log(2)))
    kl = mixture_losses(torch.zeros(2, 2, 6), logits, penalty).kl
    torch.testing.assert_close(kl, torch.tensor([math.log(2), 0.0]), atol=1e-6, rtol=0)


def test_extreme_margins_and_logits_stay_finite() -> None:
    margins = torch.tensor([-1e4, 1e4, 0.0]).expand(1, 2, 3)
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])[None]
    penalty = Penalty(torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool), torch.full((1,), math.log(2)))
    result = mixture_losses(margins, logits, penalty)
    for part in (result.nll, result.kl, result.d_margins, result.d_logits):
        assert torch.isfinite(part).all()
    assert result.nll.item() == pytest.approx((1e4 + math.log(2)) / 3)


def mixture_formula(margins: torch.Tensor, logits: torch.Tensor, penalty: Penalty) -> tuple[torch.Tensor, torch.Tensor]:
    """The mixture's NLL and KL as the formulas say them, for autograd."""
    log_weights = torch.log_softmax(logits, 1)
    weights = log_weights.exp()
    log_mean = weights.mean(2, keepdim=True).clamp_min(1e-300).log()
    kl = (weights * torch.where(penalty.of_batch, log_mean, log_weights)).sum(1).mean(1)
    return -(weights * torch.sigmoid(margins)).sum(1).log().mean(1), kl + penalty.log_k


def test_the_autograd_objective_of_the_mixture_equals_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    margins, logits = (torch.randn(4, 3, PAIRS, generator=generator, dtype=torch.float64) for _ in range(2))
    margins[3, 2:], logits[3, 2:] = 0, ABSENT_LOGIT
    penalty = Penalty(
        torch.tensor([0.0, 0.1, 0.5, 0.3], dtype=torch.float64).view(-1, 1, 1),
        torch.tensor([False, False, True, True]).view(-1, 1, 1),
        torch.tensor([3, 3, 3, 2]).double().log(),
    )
    closed, derived = (
        objective(margins, logits, penalty) for objective in (mixture_losses, by_autograd(mixture_formula))
    )
    for name in ("nll", "kl", "d_margins", "d_logits"):
        torch.testing.assert_close(getattr(derived, name), getattr(closed, name), atol=1e-12, rtol=1e-9)


def test_an_ensembles_heads_each_lower_the_single_rewards_loss() -> None:
    margins = torch.randn(2, 3, PAIRS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = torch.zeros_like(margins)
    margins[1, 2:], logits[1, 2:] = 0, ABSENT_LOGIT
    counts = torch.tensor([3.0, 2.0], dtype=torch.float64)
    none = torch.zeros(2, 1, 1)
    result = by_autograd(ensemble_formula)(margins, logits, Penalty(none, none.bool(), counts.log()))
    for g, k in enumerate((3, 2)):
        slow = sum(math.log(1 + math.exp(-m)) for m in margins[g, :k].flatten().tolist()) / (k * PAIRS)
        assert result.nll[g].item() == pytest.approx(slow, abs=1e-12)
        torch.testing.assert_close(result.d_margins[g, :k], -torch.sigmoid(-margins[g, :k]) / (k * PAIRS))
    assert result.d_margins[1, 2].abs().sum() == result.d_logits.abs().sum() == result.kl.abs().sum() == 0


SETTINGS = [
    FitSetting("ensemble", 3, l2=2.0, seed=7),
    FitSetting("single", 1, l2=3.0, seed=1),
    FitSetting("static", 2, lam=0.3, prior="batch", l2=0.5, seed=3),
    FitSetting("static", 4, lam=0.3, seed=2),
    FitSetting("mixture", 3, lam=0.2, hidden=0, seed=4),
    FitSetting("mixture", 5, lam=0.1, hidden=6, seed=5),
    FitSetting("mixture", 2, lam=0.7, prior="batch", hidden=9, l2=2.0, seed=6),
]


def plain_loss(setting: FitSetting, parts: Parts, batch: Batch, scales: Scales, pairs: int) -> torch.Tensor:
    """One setting's objective as the formulas say it, for autograd."""
    margins = batch.delta / scales.delta @ (parts["heads"] + parts.get("prior", 0.0)).T
    penalty = setting.l2 / (2 * pairs) * (parts["heads"] / scales.delta).square().sum()
    if setting.method == "ensemble":
        return -torch.sigmoid(margins).log().mean() + penalty
    logits = parts["b2"].expand(len(margins), -1)
    if setting.routed:
        assert batch.router is not None
        size = scales.router if scales.sizes is None else scales.sizes
        hidden = batch.router / size @ parts["v1"].T + parts["b1"]
        logits = logits + (hidden.relu() if setting.hidden else hidden) @ parts["v2"].T
    weights = torch.softmax(logits, 1)
    mean = weights.mean(0) if setting.prior == "batch" else weights
    kl = (mean * mean.log()).sum(-1).mean() + math.log(setting.k)
    nll = -(weights * torch.sigmoid(margins)).sum(1).log().mean()
    return nll + setting.lam * kl + penalty


SIZES = torch.tensor([0.2, 0.2, 3.0, 3.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("sizes", [None, SIZES])
@pytest.mark.parametrize("members", [range(7), range(4), [0], [4], [5, 6]])
def test_stacked_gradients_equal_autograd(members: list[int], sizes: torch.Tensor | None) -> None:
    settings = [SETTINGS[g] for g in members]
    generator = torch.Generator().manual_seed(0)
    delta, router = (torch.randn(PAIRS, width, generator=generator, dtype=torch.float64) for width in (8, 5))
    batch, scales = Batch(3 * delta, 0.5 * router), Scales(3.0, 0.4 if sizes is None else 1.0, sizes=sizes)
    weights = [initial_weights(setting, 8, 5, torch.float64) for setting in settings]
    for parts in weights:
        parts["b2"] += torch.randn(parts["b2"].shape, generator=generator)
    stack = Stack(settings, weights, scales, 40, torch.float64)
    objective = stack.objective(stack.gradients(batch))
    leaves = [{name: part.clone().requires_grad_() for name, part in parts.items()} for parts in weights]
    for g, setting in enumerate(settings):
        loss = plain_loss(setting, leaves[g], batch, scales, 40)
        loss.backward()
        assert objective[g].item() == pytest.approx(loss.item(), abs=1e-12)
    for block in stack.blocks:
        for name, view in block.parts.items():
            assert view.grad is not None
            for g, row in enumerate(view.grad, block.rows["heads"].start):
                expected = torch.zeros_like(row)
                grad = leaves[g][name].grad
                if grad is not None:
                    expected[tuple(slice(size) for size in grad.shape)] = grad
                torch.testing.assert_close(row, expected, atol=1e-12, rtol=1e-9)
    assert sum(len(block.parts["heads"]) for block in stack.blocks) == len(settings)


def test_bfloat16_gradients_are_close_to_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    delta, router = (torch.randn(64, 32, generator=generator) for _ in range(2))
    grads = []
    for dtype in (torch.float64, torch.bfloat16):
        master = torch.float64 if dtype == torch.float64 else torch.float32
        weights = [initial_weights(setting, 32, 32, master) for setting in SETTINGS]
        stack = Stack(SETTINGS, weights, Scales(1.0, 1.0), 64, dtype)
        stack.gradients(Batch(delta.to(dtype), router.to(dtype)))
        grads.append({name: grad.double() for name, grad in stack.grads.items()})
    for name, exact in grads[0].items():
        assert (grads[1][name] - exact).norm() < 0.02 * exact.norm(), name
