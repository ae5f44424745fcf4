"""Distributional preference learning: likelihoods against scipy and double loops, and what they can and cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch

from micropref.heads.evaluation.metrics import accuracy, nll
from micropref.heads.evaluation.scale import choose_scale, scaled_log_probability
from micropref.heads.methods.base import MethodOptions, Pairs
from micropref.heads.methods.bradley_terry import Single
from micropref.heads.methods.dpl import (
    FLOOR,
    DplCategorical,
    DplMeanVariance,
    DplModel,
    log_above,
    log_phi,
    negative_entropy,
)

OPTIONS = MethodOptions(device="cpu")
BOTH = [DplMeanVariance, DplCategorical]


def test_phi_is_that_of_scipy_far_into_the_tails() -> None:
    chosen = torch.tensor([[1.0, 0.3], [-4.0, -2.0], [90.0, -3.0], [-90.0, 1.0]], dtype=torch.float64)
    rejected = torch.tensor([[0.2, 1.0], [5.0, -1.0], [0.0, -3.0], [0.0, 1.0]], dtype=torch.float64)
    for c, r, found in zip(chosen.tolist(), rejected.tolist(), log_phi(chosen, rejected).tolist(), strict=True):
        spread = [math.log1p(math.exp(part[1])) + FLOOR for part in (c, r)]
        z = (c[0] - r[0]) / math.sqrt(spread[0] ** 2 + spread[1] ** 2)
        assert found == pytest.approx(scipy.stats.norm.logcdf(z), rel=1e-10)


def test_atoms_are_compared_pair_by_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    for c, r, found in zip(chosen, rejected, log_above(chosen, rejected), strict=True):
        probability = 0.0
        for i in range(4):
            for j in range(4):
                share = float(torch.softmax(c, 0)[i] * torch.softmax(r, 0)[j])
                probability += share * (1.0 if i > j else 0.5 if i == j else 0.0)
        assert found.item() == pytest.approx(math.log(probability))
    both = log_above(chosen, rejected).exp() + log_above(rejected, chosen).exp()
    torch.testing.assert_close(both, torch.ones(6, dtype=torch.float64))
    certain = log_above(torch.tensor([0.0, 900.0]), torch.tensor([900.0, 0.0]))
    assert certain.item() == pytest.approx(0.0, abs=1e-6)


def test_the_entropy_is_that_of_all_responses_mean() -> None:
    chosen, rejected = torch.randn(2, 3, 5, 10, generator=torch.Generator().manual_seed(1))
    for seed, found in enumerate(negative_entropy(chosen, rejected).tolist()):
        mean = torch.cat([torch.softmax(part[seed].double(), 1) for part in (chosen, rejected)]).mean(0)
        assert found == pytest.approx(-scipy.stats.entropy(mean.numpy()), rel=1e-5)


@pytest.mark.parametrize("method", BOTH)
def test_one_taste_is_learned_as_well_as_by_a_single_reward(method: Any, population: Callable[..., Any]) -> None:
    people = population(opposed=False)
    (single,) = Single().fit(people.data, OPTIONS, [0])
    (model,) = method().fit(people.data, OPTIONS, [0])
    found, reference = (one.scores(people.test).log_probability() for one in (model, single))
    assert accuracy(found) > accuracy(reference) - 0.015
    # Atoms on [0, 1] in even use cannot be as sure as a reward without bounds.
    assert nll(found) < nll(reference) + (0.02 if method is DplMeanVariance else 0.04)


@pytest.fixture(scope="module")
def divided(population: Callable[..., Any]) -> Any:
    return population()


@pytest.fixture(scope="module", params=BOTH, ids=["mean-variance", "categorical"])
def fitted(request: pytest.FixtureRequest, divided: Any) -> list[DplModel]:
    return request.param().fit(divided.data, OPTIONS, [0, 1])  # type: ignore[no-any-return]


def test_opposite_tastes_leave_only_a_coin(fitted: list[DplModel], divided: Any) -> None:
    for model in fitted:
        found = model.scores(divided.test).log_probability()
        assert abs(accuracy(found) - 0.5) < 0.05
        assert nll(found) == pytest.approx(math.log(2), abs=0.02)


def test_scores_are_the_logit_of_the_likelihood(fitted: list[DplModel], divided: Any) -> None:
    for model in fitted:
        weight, bias = (model.state()[name].double() for name in ("v0", "b0"))
        chosen, rejected = (part.double() @ weight.T + bias for part in divided.test.responses())
        found = model.scores(divided.test).log_probability().double()
        torch.testing.assert_close(found, model.log_p(chosen, rejected), atol=1e-5, rtol=1e-5)


def test_what_people_disagree_about_has_a_larger_spread(population: Callable[..., Any]) -> None:
    """Responses along a third direction are preferred at random: their reward's deviation has to be the larger one."""
    people = population(opposed=False)
    data = people.data
    generator = torch.Generator().manual_seed(9)
    responses = torch.stack(data.fitting.responses())
    flag = torch.rand(len(data.fitting), generator=generator) < 0.5
    swap = flag & (torch.rand(len(flag), generator=generator) < 0.5)
    responses = torch.where(swap[:, None], responses.flip(0), responses)
    responses = torch.cat([responses, 3 * flag[:, None].float().expand(2, -1, 1)], 2)

    def part(rows: slice) -> Any:
        chosen, rejected = responses[:, rows]
        return type(data.fitting)(chosen - rejected, chosen, data.fitting.clusters[rows], chosen, rejected)

    contested = type(data)(part(slice(0, 3000)), part(slice(3000, 3500)))
    (model,) = DplMeanVariance().fit(contested, OPTIONS, [0])
    assert model.state()["v0"][1, -1] > 0.1


def test_saved_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="found 3 outputs, expected 10"):
        DplCategorical().restore({"v0": torch.zeros(3, 4), "b0": torch.zeros(3)})
    model = DplCategorical().restore({"v0": torch.zeros(10, 4), "b0": torch.zeros(10)})
    with pytest.raises(ValueError, match="without their responses"):
        model.scores(Pairs(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2)))


def plain_fit(people: Any, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-odds of validation and test pairs under the authors' loss, in the plainest PyTorch, stopped early.

    The loss softplus(−√(2π) z) is −log σ(√(2π) z).
    """
    torch.manual_seed(seed)
    parts = [part.responses() for part in (people.data.fitting, people.data.validation, people.test)]
    model = torch.nn.Linear(parts[0][0].shape[1], 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)

    def log_odds(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        first, second = model(chosen), model(rejected)
        spread = torch.nn.functional.softplus(first[:, 1]) ** 2 + torch.nn.functional.softplus(second[:, 1]) ** 2
        return math.sqrt(2 * math.pi) * (first[:, 0] - second[:, 0]) / spread.sqrt()

    lowest, found = math.inf, parts[0]
    for _ in range(30):
        for rows in torch.randperm(len(parts[0][0])).split(256):
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.softplus(-log_odds(*(one[rows] for one in parts[0]))).mean())
            optimizer.step()
        with torch.no_grad():
            validated = log_odds(*parts[1])
            if (loss := float(torch.nn.functional.softplus(-validated).mean())) < lowest:
                lowest, found = loss, (validated, log_odds(*parts[2]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("opposed", [False, True])
def test_mean_variance_reaches_the_nll_of_a_plain_fit_of_the_authors_loss(
    population: Callable[..., Any], opposed: bool
) -> None:
    people = population(opposed=opposed)
    prompts = people.data.validation.clusters

    def loss(validated: torch.Tensor, tested: torch.Tensor) -> float:
        return nll(scaled_log_probability(tested, choose_scale(validated, prompts)))

    models = DplMeanVariance().fit(people.data, OPTIONS, [0, 1])
    ours = [loss(*(one.scores(part).log_odds() for part in (people.data.validation, people.test))) for one in models]
    theirs = [loss(*plain_fit(people, seed)) for seed in (0, 1)]
    assert sum(ours) / 2 < sum(theirs) / 2 + 0.002
    assert sum(ours) / 2 < math.log(2) + 0.002
