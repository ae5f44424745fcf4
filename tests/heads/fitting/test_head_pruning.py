"""Dead and duplicate heads, and pruning, on mixtures whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from micropref.heads.fitting.head_pruning import inspect_heads, prediction_correlation, prune
from micropref.heads.mixture import Mixture, Router

PAIRS, WIDTH = 400, 6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


DELTA, CONTEXT = normal(PAIRS, WIDTH), normal(PAIRS, WIDTH, seed=1)
HEADS = normal(3, WIDTH, seed=2)


def test_correlation_counts_every_pair_in_both_orders() -> None:
    margins = DELTA @ HEADS.T + 1
    both = torch.sigmoid(torch.cat([margins, -margins]).double()).numpy()
    np.testing.assert_allclose(prediction_correlation(margins).numpy(), np.corrcoef(both.T), atol=1e-12)


def test_duplicates_and_dead_heads_are_named() -> None:
    heads = torch.stack([HEADS[0], HEADS[1], HEADS[0] * 1.1, HEADS[2]])
    logits = torch.cat([CONTEXT[:, :3], torch.full((PAIRS, 1), -9.0)], 1)
    found = inspect_heads(DELTA @ heads.T, torch.log_softmax(logits, 1))
    assert found.dead == (3,)
    assert [(first, second) for first, second, _ in found.duplicates] == [(0, 2)]
    assert found.duplicates[0][2] > 0.99


def test_a_light_head_that_is_some_pairs_favourite_is_not_dead() -> None:
    weights = torch.tensor([[0.999, 0.001]]).repeat(PAIRS, 1)
    weights[0] = torch.tensor([0.2, 0.8])
    assert inspect_heads(DELTA @ HEADS[:2].T, weights.log()).dead == ()


def test_static_duplicates_merge_without_a_change() -> None:
    static = torch.log_softmax(torch.tensor([0.3, 0.1, -0.2, 0.5]), 0)
    mixture = Mixture(torch.stack([HEADS[0], HEADS[1], HEADS[0], HEADS[2]]), static=static)
    pruned, removed = prune(mixture, mixture.margins(DELTA), mixture.log_weights(None, len(DELTA)), 0.95)
    assert removed == [2], "the one of less weight goes"
    torch.testing.assert_close(pruned.log_probability(DELTA, None), mixture.log_probability(DELTA, None))


def test_the_heir_takes_over_the_weight_of_a_pruned_head() -> None:
    router = Router(None, None, normal(4, WIDTH, seed=3), normal(4, seed=4))
    mixture = Mixture(torch.cat([HEADS, HEADS[:1]]), router)
    before = mixture.log_weights(CONTEXT, PAIRS).exp()
    pruned, removed = prune(mixture, mixture.margins(DELTA), mixture.log_weights(CONTEXT, len(DELTA)), 0.95)
    assert len(removed) == 1
    after = pruned.log_weights(CONTEXT, PAIRS).exp()
    kept = [head for head in range(4) if head not in removed]
    gained = {0: 3, 3: 0}
    for place, head in enumerate(kept):
        expected = before[:, head] + (before[:, gained[head]] if head in gained else 0)
        assert after[:, place].mean().item() == pytest.approx(expected.mean().item(), abs=0.06)
    nlls = [-one.log_probability(DELTA, CONTEXT).mean().item() for one in (mixture, pruned)]
    assert nlls[1] == pytest.approx(nlls[0], abs=0.02)


def test_nothing_alike_nothing_pruned_and_all_alike_leaves_one() -> None:
    mixture = Mixture(HEADS)
    assert prune(mixture, mixture.margins(DELTA), mixture.log_weights(None, len(DELTA)), 0.95) == (mixture, [])
    same = Mixture(HEADS[:1].repeat(3, 1))
    pruned, removed = prune(same, same.margins(DELTA), same.log_weights(None, len(DELTA)), 0.95)
    assert (pruned.k, removed) == (1, [1, 2])
    torch.testing.assert_close(pruned.log_probability(DELTA, None), same.log_probability(DELTA, None))
