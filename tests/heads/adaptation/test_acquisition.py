"""What an answer tells, against the mutual information of a table; policies against a loop, blind to answers."""

from __future__ import annotations

import math

import pytest
import torch

from micropref.heads.adaptation.acquisition import POLICIES, Policy, asked_in_order, information, uncertainty


def normal(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_information_is_that_of_the_table_of_answers_and_heads() -> None:
    margins, log_weights = normal(50, 4), torch.log_softmax(normal(50, 4, seed=1), 1)
    for found, row, weights in zip(information(margins, log_weights), margins, log_weights.exp(), strict=True):
        joint = torch.stack([weights * torch.sigmoid(row), weights * torch.sigmoid(-row)])
        apart = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
        assert float(found) == pytest.approx(float((joint * (joint / apart).log()).sum()), abs=1e-12)


def test_information_is_how_far_an_answer_of_its_weight_moves_the_heads() -> None:
    margins, log_weights = normal(30, 4), torch.log_softmax(normal(30, 4, seed=1), 1)
    assert torch.equal(information(margins, log_weights, 1.5), information(margins, log_weights, 1.0))
    for beta in (0.0, 0.35, 1.0):
        for found, row, weights in zip(
            information(margins, log_weights, beta), margins, log_weights.exp(), strict=True
        ):
            total = 0.0
            for right in (torch.sigmoid(row), torch.sigmoid(-row)):
                after = weights * right**beta / (weights * right**beta).sum()
                total += float((weights * right).sum() * (after * (after / weights).log()).sum())
            assert float(found) == pytest.approx(total, abs=1e-12)
    assert float(information(margins, log_weights, 0.0).max()) < 1e-12


def test_information_by_hand() -> None:
    """Two heads sure of opposite answers: a bit. Two that say .8 and .2: ln 2 less h(.8). Two unsure: nothing."""
    half = torch.full((3, 2), 0.5, dtype=torch.float64).log()
    p = torch.tensor([[1 - 1e-12, 1e-12], [0.8, 0.2], [0.5, 0.5]], dtype=torch.float64)
    h = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert information(torch.logit(p), half).tolist() == pytest.approx([math.log(2), math.log(2) - h, 0], abs=1e-9)
    assert uncertainty(torch.logit(p), half).tolist() == pytest.approx([math.log(2)] * 3)


def test_the_order_of_responses_does_not_matter_and_known_groups_have_nothing_to_tell() -> None:
    margins, log_weights = normal(20, 3), torch.log_softmax(normal(20, 3, seed=1), 1)
    assert torch.allclose(information(margins, log_weights), information(-margins, log_weights))
    sure = torch.tensor([0.0, -math.inf, -math.inf], dtype=torch.float64).expand(20, 3)
    assert information(margins, sure).tolist() == pytest.approx([0] * 20)
    assert information(normal(20, 1).expand(20, 3), log_weights).tolist() == pytest.approx([0] * 20, abs=1e-12)


@pytest.mark.parametrize("policy", ["ask", "uncertainty"])
def test_policies_are_a_loop_over_people(policy: Policy) -> None:
    margins, log_prior, beta = normal(5, 12, 3), torch.log_softmax(normal(5, 12, 3, seed=1), 2), 0.7
    found = asked_in_order(policy, margins, log_prior, 6, beta, 0)

    def worth(row: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
        return information(row, log_weights, beta) if policy == "ask" else uncertainty(row, log_weights)

    for person in range(5):
        evidence, left, order = torch.zeros(3, dtype=torch.float64), list(range(12)), []
        for _ in range(6):
            values = {
                row: float(worth(margins[person, row], torch.log_softmax(log_prior[person, row] + beta * evidence, 0)))
                for row in left
            }
            order.append(max(left, key=lambda row: values[row]))
            left.remove(order[-1])
            evidence = evidence + torch.sigmoid(margins[person, order[-1]]).log()
        assert found[person].tolist() == order


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_asked_twice_and_no_answer_is_used_before_it_is_given(policy: Policy) -> None:
    """The other response may have been chosen in any question not asked yet: the questions are the same."""
    margins, log_prior = normal(8, 20, 4), torch.zeros(8, 20, 4, dtype=torch.float64)
    found = asked_in_order(policy, margins, log_prior, 20, 1.0, 3)
    assert (found.sort(1).values == torch.arange(20)).all()
    for count in (1, 5, 10):
        flipped = -margins
        rows = torch.arange(8)[:, None], found[:, : count - 1]
        flipped[rows] = margins[rows]
        assert torch.equal(asked_in_order(policy, flipped, log_prior, count, 1.0, 3), found[:, :count])


def test_random_questions_are_those_of_the_seed() -> None:
    margins, log_prior = normal(8, 20, 4), torch.zeros(8, 20, 4, dtype=torch.float64)
    first, again, other = (asked_in_order("random", margins, log_prior, 5, 1.0, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) == 8


def test_asking_finds_the_group_with_fewer_answers() -> None:
    """Eight groups, questions that split them in halves among many on which all are unsure or agreed."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor([[1 if group >> bit & 1 else -1 for group in range(8)] for bit in range(3)])
    dull = torch.cat([torch.zeros(20, 8), torch.full((20, 8), 4.0)])
    pool = torch.cat([dull, 3.0 * sides]).double()
    group = torch.randint(8, (200,), generator=generator)
    chosen = torch.rand(200, 43, generator=generator).double() < torch.sigmoid(pool[:, group].T)
    margins = torch.where(chosen[:, :, None], pool, -pool)
    log_prior = torch.zeros(200, 43, 8, dtype=torch.float64)
    found = {}
    for policy in POLICIES:
        asked = asked_in_order(policy, margins, log_prior, 3, 1.0, 0)
        total = torch.nn.functional.logsigmoid(margins[torch.arange(200)[:, None], asked]).sum(1)
        found[policy] = float((total.argmax(1) == group).double().mean())
    assert found["ask"] > 0.8
    assert max(found["random"], found["uncertainty"]) < 0.4
