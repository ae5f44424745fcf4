"""ARMO: ridge and correlations against scikit-learn and scipy, the debiased rewards in use, the gate's gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import Ridge

from micropref.cache.errors import BadInput
from micropref.heads.evaluation.metrics import accuracy
from micropref.heads.methods import armo
from micropref.heads.methods.adam import Recipe
from micropref.heads.methods.armo import PENALTIES, Armo, ArmoModel, attribute_heads, spearman, verbosity_penalties
from micropref.heads.methods.base import MethodOptions, RatedResponses
from micropref.heads.methods.bradley_terry import Single
from micropref.heads.methods.ridge import ALPHAS, chosen_ridge, ridge_path

OPTIONS = MethodOptions(device="cpu")


def rated(rows: int = 60, width: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and three ratings with gaps; the first and the last column have the same gaps."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(rows, width, generator=generator)
    ratings = embedding @ torch.randn(width, 3, generator=generator) + torch.randn(rows, 3, generator=generator)
    ratings[torch.rand(rows, generator=generator) < 0.3, 1] = torch.nan
    ratings[: rows // 4, 0] = ratings[: rows // 4, 2] = torch.nan
    return embedding, ratings


@pytest.mark.parametrize("rows", [60, 8])  # 8: fewer rated rows than the width
def test_ridge_is_that_of_scikit_learn(rows: int) -> None:
    embedding, ratings = rated(rows)
    path = ridge_path(embedding, ratings, ALPHAS)
    for alpha, weights in zip(ALPHAS, path, strict=True):
        for attribute in range(3):
            known = ~ratings[:, attribute].isnan()
            model = Ridge(alpha=alpha, fit_intercept=False, solver="svd")
            model.fit(embedding[known].double().numpy(), ratings[known, attribute].double().numpy())
            np.testing.assert_allclose(weights[attribute].numpy(), model.coef_, rtol=1e-6, atol=1e-8)


def test_alpha_has_the_least_squared_error_on_held_out_ratings() -> None:
    embedding, ratings = rated(40, 20)
    held_out = rated(50, 20, seed=0)[0] + 0.5, rated(50, 20, seed=0)[1]
    weights, alphas = chosen_ridge((embedding, ratings), held_out)
    path = ridge_path(embedding, ratings, ALPHAS)
    for attribute in range(3):
        known = ~held_out[1][:, attribute].isnan()
        errors = [
            float(((held_out[0][known].double() @ path[a, attribute] - held_out[1][known, attribute]) ** 2).mean())
            for a in range(len(ALPHAS))
        ]
        assert alphas[attribute] == ALPHAS[int(np.argmin(errors))]
        assert torch.equal(weights[attribute], path[int(np.argmin(errors)), attribute])


def test_an_attribute_nobody_rated_among_the_held_out_is_shrunk_most() -> None:
    embedding, ratings = rated()
    _, alphas = chosen_ridge((embedding, ratings), (embedding, torch.where(torch.arange(3) == 1, torch.nan, ratings)))
    assert alphas[1] == ALPHAS[-1]
    assert alphas[0] < ALPHAS[-1]


def test_rank_correlation_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 50).astype(float), rng.normal(size=50)
    assert spearman(first, second) == pytest.approx(scipy.stats.spearmanr(first, second)[0])
    assert spearman(np.ones(50), second) == 0


def test_the_penalty_is_the_first_that_frees_a_reward_of_verbosity() -> None:
    assert PENALTIES[:9] == (0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2)
    assert PENALTIES[-1] == 0.95
    assert len(PENALTIES) == 24
    generator = torch.Generator().manual_seed(1)
    length = torch.randn(400, generator=generator)
    own = torch.randn(400, 4, generator=generator)
    rewards = torch.stack([own[:, 0], 0.3 * own[:, 1] + 0.4 * length, length, length * 3, 0.1 * own[:, 3] - length], 1)
    found = verbosity_penalties(rewards, verbosity=2)
    assert found[2] == 0
    assert found[3] == 1
    assert found[4] == 0
    for attribute in (0, 1):
        slow = [
            scipy.stats.spearmanr(rewards[:, attribute] - penalty * length, length)[0] <= 0.03 for penalty in PENALTIES
        ]
        assert found[attribute].item() == pytest.approx(PENALTIES[slow.index(True)])
    assert 0.3 < found[1] < 0.5


@pytest.fixture(scope="module")
def people(population: Callable[..., Any]) -> Any:
    return population(group_in_prompt=True)


def quickly(data: Any, steps: int, gate: Literal["paper", "small"] = "small", seeds: int = 1) -> list[ArmoModel]:
    """Fit with fewer steps than published."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(armo, "RECIPE", Recipe(lr=3e-3, steps=steps, batch=256))
        return Armo().fit(data, MethodOptions(device="cpu", gate=gate), range(seeds))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def fitted(people: Any) -> list[ArmoModel]:
    return quickly(people.data, steps=400, seeds=2)


def test_ratings_and_a_gate_serve_two_groups_that_one_reward_cannot(people: Any, fitted: list[ArmoModel]) -> None:
    (single,) = Single().fit(people.data, OPTIONS, [0])
    assert accuracy(single.scores(people.test).log_probability()) < 0.6
    assert Recipe(lr=1e-3, steps=2000, batch=1024) == armo.RECIPE
    for model in fitted:
        assert accuracy(model.scores(people.test).log_probability()) > 0.95 * people.bayes


def test_what_is_scored_is_the_debiased_reward(people: Any) -> None:
    wordy = people.data.rated
    ratings = wordy.ratings + torch.tensor([1.0, 0.0, 0.0]) * wordy.ratings[:, 2:]
    biased = replace(people.data, rated=replace(wordy, ratings=ratings))
    (model,) = quickly(biased, steps=20)
    raw, penalties = attribute_heads(biased.rated), model.state()["penalties"]
    assert penalties[0] > 0.4
    assert penalties[2] == 0
    rewards = wordy.embedding.double() @ model.state()["heads"].T.double()
    correlations = [scipy.stats.spearmanr(rewards[:, a], rewards[:, 2])[0] for a in range(2)]
    assert max(correlations) <= 0.03 + 1e-3
    ratio = model.state()["heads"] / (raw - penalties[:, None] * raw[2])
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-2, atol=0)
    scores = model.scores(people.test)
    torch.testing.assert_close(scores.margins, people.test.delta @ model.state()["heads"].T)
    assert scores.combine == "linear"


def test_without_rated_verbosity_nothing_is_subtracted(people: Any) -> None:
    ratings = people.data.rated
    plain = replace(people.data, rated=replace(ratings, attributes=("warm", "cold", "length")))
    (model,) = quickly(plain, steps=2)
    assert torch.equal(model.state()["penalties"], torch.zeros(3))


def test_the_published_gate_has_three_layers_of_1024(people: Any) -> None:
    (model,) = quickly(people.data, steps=2, gate="paper")
    shapes = {name: list(part.shape) for name, part in model.state().items() if name.startswith("v")}
    assert shapes == {"v0": [1024, 24], "v1": [1024, 1024], "v2": [1024, 1024], "v3": [3, 1024]}
    again = Armo().restore(model.state())
    assert torch.equal(again.scores(people.test).log_weights, model.scores(people.test).log_weights)


def test_ratings_that_are_not_there_are_asked_for(people: Any) -> None:
    rated = people.data.rated
    with pytest.raises(BadInput, match="ARMO learns from ratings"):
        Armo().fit(replace(people.data, rated=None), OPTIONS, [0])
    one = RatedResponses(rated.embedding, rated.ratings, torch.zeros_like(rated.clusters), rated.attributes)
    with pytest.raises(BadInput, match="all of one prompt"):
        Armo().fit(replace(people.data, rated=one), OPTIONS, [0])
