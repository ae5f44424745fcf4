"""The mixture as plain tensors: hand-worked numbers, saving and loading, shapes refused."""

from __future__ import annotations

import math

import pytest
import torch

from micropref.heads.mixture import Mixture, Router, linear_margin, pair_log_probability

HEADS = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
MLP = Router(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0.5, 0.0]), torch.eye(2), torch.tensor([0.0, 1.0]))
LINEAR = Router(None, None, torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.zeros(2))
MIXTURES = [
    Mixture(HEADS),
    Mixture(HEADS, static=torch.tensor([0.25, 0.75]).log()),
    Mixture(HEADS, MLP),
    Mixture(HEADS, LINEAR),
]


def test_margins_and_probability_by_hand() -> None:
    mixture = Mixture(HEADS, static=torch.tensor([0.25, 0.75]).log())
    margins = mixture.margins(torch.tensor([[math.log(3), 0.0], [0.0, math.log(2)]]))
    torch.testing.assert_close(margins, torch.tensor([[math.log(3), 0.0], [0.0, -2 * math.log(2)]]))
    log_weights = mixture.log_weights(None, 2)
    expected = torch.tensor([0.25 * 0.75 + 0.75 * 0.5, 0.25 * 0.5 + 0.75 * 0.2])
    torch.testing.assert_close(pair_log_probability(margins, log_weights).exp(), expected)
    torch.testing.assert_close(
        linear_margin(margins, log_weights), torch.tensor([0.25 * math.log(3), -1.5 * math.log(2)])
    )


def test_pair_probability_and_linear_reward_may_disagree() -> None:
    margins, log_weights = torch.tensor([[9.0, -1.0, -1.0]]), torch.full((1, 3), 1 / 3).log()
    assert linear_margin(margins, log_weights).item() > 0
    assert pair_log_probability(margins, log_weights).item() > math.log(0.5)
    margins = torch.tensor([[9.0, -2.0, -2.0]])
    assert linear_margin(margins, log_weights).item() > 0
    assert pair_log_probability(margins, log_weights).item() < math.log(0.5)


def test_router_logits_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    torch.testing.assert_close(MLP.logits(rows), torch.tensor([[1.5, 1.0], [0.0, 3.0]]))
    torch.testing.assert_close(LINEAR.logits(rows.flip(1)), torch.tensor([[1.0, -1.0], [-2.0, 2.0]]))


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_state_round_trip_and_features_of_any_dtype(mixture: Mixture, dtype: torch.dtype) -> None:
    again = Mixture.from_state(mixture.state()).to("cpu")
    delta, rows = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    log_p = mixture.log_probability(delta, rows)
    assert torch.equal(again.log_probability(delta, rows), log_p)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(mixture.log_weights(rows, 5).exp().sum(1), torch.ones(5))


def test_extreme_margins_have_finite_log_probabilities() -> None:
    log_p = pair_log_probability(torch.tensor([[-1e5, -1e5], [1e5, 1e5]]), torch.zeros(2, 2) - math.log(2))
    torch.testing.assert_close(log_p, torch.tensor([-1e5, 0.0]))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Mixture(torch.zeros(3)), "expected \\[K, D\\]"),
        (lambda: Mixture(HEADS, MLP, torch.zeros(2)), "not both"),
        (lambda: Mixture(torch.zeros(3, 2), MLP), "weighs 2 heads, there are 3"),
        (lambda: Mixture(HEADS, static=torch.zeros(3)), "expected \\[2\\]"),
        (lambda: Router(None, torch.zeros(2), torch.eye(2), torch.zeros(2)), "both v1 and b1"),
        (lambda: Router(torch.zeros(3, 2), torch.zeros(3), torch.eye(2), torch.zeros(2)), "do not fit"),
        (lambda: Mixture.from_state({"head": HEADS}), "expected heads"),
        (lambda: Mixture.from_state({"heads": HEADS, "router.v2": torch.eye(2)}), "router.b2"),
        (lambda: Mixture(HEADS, MLP).log_weights(None, 4), "each of the 4 pairs"),
    ],
)
def test_wrong_shapes_are_named(build: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()  # type: ignore[operator]
