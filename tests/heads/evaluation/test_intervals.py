"""Intervals against plain loops over dense matrices, textbook formulas and numbers worked by hand; their coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from micropref.heads.evaluation.cluster_variance import Residuals, cluster_variance
from micropref.heads.evaluation.intervals import fewest, holm, limits, mean_intervals, standard_error
from tests.support.coverage import ONE_WAY, TWO_WAY, Cell, coverage

Z2 = 1.959963984540054**2


def drawn(count: int, seed: int, **sides: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return two columns of zeros and ones, and the clusters of sides of so many at most."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(count, 2, generator=generator) < 0.7).double()
    return values, {name: torch.randint(size, (count,), generator=generator) for name, size in sides.items()}


def dense(values: torch.Tensor, cluster: torch.Tensor, groups: torch.Tensor) -> tuple[float, float]:
    """Return V and its degrees of freedom with matrices of N × N, and ρ by solving its equation as it is written."""
    y, ids, kinds = values.numpy(), cluster.numpy(), groups.numpy()
    count, names = len(y), np.unique(kinds)
    weights = np.array([count / (len(names) * (kinds == kind).sum()) for kind in kinds])
    centring = np.eye(count)
    for kind in names:
        own = (kinds == kind).astype(float)
        centring -= np.outer(own, own) / own.sum()
    weighed = np.diag(weights) @ centring
    together = (ids[:, None] == ids[None, :]).astype(float)
    members = np.stack([ids == name for name in np.unique(ids)]).astype(float)
    error = weighed @ y

    def expected(rho: float) -> tuple[float, float]:
        covariance = weighed @ ((1 - rho) * np.eye(count) + rho * together) @ weighed.T
        return np.trace(members @ covariance @ members.T), np.trace(covariance)

    (sums0, pairs0), (sums1, pairs1) = expected(0.0), expected(1.0)
    ratio = ((members @ error) ** 2).sum() / (error**2).sum()
    slope = (sums1 - sums0) - ratio * (pairs1 - pairs0)
    rho = float(np.clip((ratio * pairs0 - sums0) / slope, 0, 1)) if abs(slope) > 1e-9 else 0.0
    model = (1 - rho) * np.eye(count) + rho * together
    known = np.diag(members @ np.diag(weights) @ model @ np.diag(weights) @ members.T)
    fitted = members @ weighed @ model @ weighed.T @ members.T
    scale = known / np.diag(fitted)
    spread = (np.outer(scale, scale) * fitted**2).sum()
    return float(((members @ error) ** 2 * scale).sum()), float(known.sum() ** 2 / spread)


def residuals_of(values: torch.Tensor, groups: torch.Tensor) -> Residuals:
    sizes = torch.bincount(groups).double()
    means = torch.stack([values[groups == kind].mean(0) for kind in range(len(sizes))])
    weights = len(values) / (len(sizes) * sizes)
    return Residuals((values - means[groups]) * weights[groups][:, None], groups, sizes)


@pytest.mark.parametrize(("clusters", "kinds"), [(3, 1), (12, 1), (12, 3), (40, 2)])
def test_a_variance_and_its_freedom_are_those_of_dense_matrices(clusters: int, kinds: int) -> None:
    values, sides = drawn(90, clusters, prompts=clusters, groups=kinds)
    # A taste of each prompt: without one the correlation is often cut off at 0.
    values[:, 1] = (values[:, 1] + (sides["prompts"] % 3 == 0).double()).clamp_max(1)
    cluster = torch.unique(sides["prompts"] // (1 + sides["prompts"] % 2), return_inverse=True)[1]
    found = cluster_variance(residuals_of(values, sides["groups"]), cluster)
    for column in range(2):
        variance, freedom = dense(values[:, column], cluster, sides["groups"])
        assert found.variance[column].item() == pytest.approx(variance)
        assert found.freedom[column].item() == pytest.approx(freedom)


def test_equal_clusters_have_the_textbook_interval() -> None:
    """The interval of a mean of so many independent cluster means: Student's."""
    values = torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prompts = torch.arange(60) % 12
    found = mean_intervals(values, {"prompts": prompts})
    means = torch.stack([values[prompts == name].mean(0) for name in range(12)])
    error = means.std(0) / math.sqrt(12)
    margin = stats.t.ppf(0.975, 11) * error
    torch.testing.assert_close(found.error, error)
    torch.testing.assert_close(torch.stack([found.low, found.high]), torch.stack([-margin, margin]) + values.mean(0))
    p_value = [stats.ttest_1samp(column, 0).pvalue for column in means.T.numpy()]
    assert found.p_value.tolist() == pytest.approx(p_value)
    assert found.clusters == {"prompts": 12}


def test_single_pairs_have_the_textbook_error() -> None:
    values = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(standard_error(values, torch.arange(50)), values.std(0) / math.sqrt(50))
    assert math.isinf(standard_error(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64)).item())


@pytest.mark.parametrize("names", [("users", "prompts"), ("users", "prompts", "wordings")])
def test_sides_add_up_by_inclusion_and_exclusion(names: tuple[str, ...]) -> None:
    values, sides = drawn(300, 4, users=15, prompts=25, wordings=8)
    values = (values + (sides["users"] % 2)[:, None] + (sides["prompts"] % 2)[:, None]).clamp_max(1)
    sides = {name: sides[name] for name in names}
    found = mean_intervals(values, sides)
    for column in range(2):
        total, doubt = 0.0, 0.0
        for many in range(1, len(names) + 1):
            for several in itertools.combinations(names, many):
                rows = list(zip(*(sides[name].tolist() for name in several), strict=True))
                cluster = torch.tensor([sorted(set(rows)).index(row) for row in rows])
                variance, freedom = dense(values[:, column], cluster, torch.zeros(300, dtype=torch.int64))
                total += variance if many % 2 else -variance
                doubt += variance**2 / freedom if many == 1 else 0
        margin = stats.t.ppf(0.975, total**2 / doubt) * math.sqrt(total) / 300
        assert found.error[column].item() == pytest.approx(math.sqrt(total) / 300)
        assert found.high[column].item() == pytest.approx(values[:, column].mean().item() + margin)


def test_two_sides_by_hand() -> None:
    """Four pairs of two people on two prompts, all crossed: residuals 1, 0, 0, -1 (by person and prompt)."""
    values = torch.tensor([[2.0], [1.0], [1.0], [0.0]])
    people, prompts = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    # Sums of people are 1 and -1, as are those of prompts: each side Σ s² = 2, times 2 for two equal clusters: 4.
    # Pairs by themselves: Σ e² = 2, times 4/3. So V = 4 + 4 - 8/3, over 4² pairs.
    found = mean_intervals(values, {"users": people, "prompts": prompts})
    assert found.error.item() == pytest.approx(math.sqrt(16 / 3) / 4)


def test_a_nested_side_adds_nothing() -> None:
    values, sides = drawn(200, 5, users=40)
    prompts = sides["users"] // 4  # each person chose on one prompt
    pairs = torch.arange(200)
    alone = mean_intervals(values, {"prompts": prompts})
    for nested in ({"users": sides["users"]}, {"users": pairs}, {"users": prompts}):
        found = mean_intervals(values, {**nested, "prompts": prompts})
        assert found.clusters == {"prompts": 10}
        assert torch.equal(found.low, alone.low)
    assert mean_intervals(values, {"prompts": sides["users"], "users": prompts}).clusters == {"users": 10}


def test_a_negative_variance_gives_way_to_the_larger_side() -> None:
    """People and prompts whose pairs are opposite: each side's sums are smaller than the pairs' own."""
    values = torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0], [1.0]])
    users, prompts = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 1, 2, 3])
    sides = {"users": users, "prompts": prompts}
    sums = [standard_error(values, sides[name]).item() for name in sides]
    pairs = standard_error(values, torch.arange(6)).item()
    assert sums[0] ** 2 + sums[1] ** 2 < pairs**2
    assert mean_intervals(values, sides).error.item() == pytest.approx(max(sums))


def test_all_right_or_all_wrong_has_wilsons_interval() -> None:
    values = torch.tensor([[1.0, 0.0, 0.5]]).expand(40, 3)
    found = mean_intervals(values, {"prompts": torch.arange(40) % 10}, "share")
    assert found.low.tolist() == pytest.approx([10 / (10 + Z2), 0, 0.5 - math.sqrt(Z2 / (4 * (10 + Z2)))])
    assert found.high.tolist() == pytest.approx([1, Z2 / (10 + Z2), 0.5 + math.sqrt(Z2 / (4 * (10 + Z2)))])
    unequal = torch.tensor([0] * 30 + [1] * 10)  # 40² / (30² + 10²) = 1.6 clusters
    assert mean_intervals(values, {"prompts": unequal}, "share").low[0].item() == pytest.approx(1.6 / (1.6 + Z2))
    both = mean_intervals(values, {"users": torch.arange(40) % 4, "prompts": torch.arange(40)}, "share")
    assert both.low[0].item() == pytest.approx(4 / (4 + Z2))


def test_differences_without_variance() -> None:
    found = mean_intervals(torch.tensor([[0.0, 1.0]]).expand(20, 2), {"prompts": torch.arange(20)}, "difference")
    assert found.low.tolist() == pytest.approx([-Z2 / (20 + Z2), (20 - Z2) / (20 + Z2)])
    assert found.high.tolist() == pytest.approx([Z2 / (20 + Z2), 1])
    assert found.p_value[0] == 1
    assert found.p_value[1].item() == pytest.approx(2 * stats.norm.sf(math.sqrt(20)))


def test_clusters_that_balance_out_are_not_certain() -> None:
    values = torch.tensor([[1.0], [0.0]]).repeat(8, 1)
    found = mean_intervals(values, {"prompts": torch.arange(16) // 2}, "share")
    assert found.low[0] < 0.3
    assert found.high[0] > 0.7


def test_limits_stay_within_bounds_and_one_cluster_tells_nothing() -> None:
    values = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    found = mean_intervals(values, {"prompts": torch.arange(4)}, "share")
    assert found.high[0] == 1
    one = {"prompts": torch.zeros(4, dtype=torch.int64)}
    assert mean_intervals(values, one, "share").low[0] < 0.3
    free = mean_intervals(values, one)
    assert limits(free.low) == limits(free.high) == [None]
    two = mean_intervals(values, {**one, "users": torch.tensor([0, 0, 1, 1])}, "share")
    assert two.clusters == {"prompts": 1, "users": 2}
    assert fewest([two, found]) == {"prompts": 1, "users": 2}


def test_row_order_and_ids_do_not_matter() -> None:
    values, sides = drawn(150, 6, users=9, prompts=30)
    first = mean_intervals(values, sides, "share")
    again = mean_intervals(values.flip(0), {name: ids.flip(0) * -3 + 7 for name, ids in sides.items()}, "share")
    torch.testing.assert_close(torch.stack([first.low, first.high]), torch.stack([again.low, again.high]))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mean_intervals(torch.ones(3), {"prompts": torch.zeros(3)}),
        lambda: mean_intervals(torch.ones(3, 1), {"prompts": torch.zeros(2)}),
        lambda: mean_intervals(torch.ones(3, 1), {}),
        lambda: standard_error(torch.ones(0, 1), torch.zeros(0)),
    ],
)
def test_wrong_shapes_raise(wrong: object) -> None:
    with pytest.raises(ValueError, match="are not"):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize("cell", [ONE_WAY[1], ONE_WAY[6], TWO_WAY[0]], ids=lambda cell: cell.name)
def test_intervals_cover_in_small(cell: Cell) -> None:
    """400 simulations: four standard errors below the bar, .05, would be a fault of the formula."""
    accuracy, difference, *_ = coverage(cell, 400, seed=1)
    assert cell.target - 0.03 <= min(accuracy, difference)
    assert max(accuracy, difference) < 0.995


@pytest.mark.slow
@pytest.mark.parametrize("cell", [*ONE_WAY, *TWO_WAY], ids=lambda cell: cell.name)
def test_intervals_cover(cell: Cell) -> None:
    accuracy, difference, *_ = coverage(cell, 2000, seed=7)
    assert min(accuracy, difference) >= cell.target
