"""Metrics against slow loops and numbers worked by hand."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch.nn import functional as F

from micropref.heads.evaluation.metrics import (
    accuracy,
    cluster_intervals,
    correct,
    effective_heads,
    nll,
    permutation_agreement,
    standard_error,
)
from micropref.heads.mixture import pair_log_probability


def clustered(clusters: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two columns of correctness whose rows share their cluster's luck, clusters of 1 to 6 rows."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 7, (clusters,), generator=generator)
    ids = torch.arange(clusters).repeat_interleave(sizes) * 3 - 50
    luck = (torch.rand(clusters, 2, generator=generator) * 0.8 + 0.2).repeat_interleave(sizes, 0)
    values = (torch.rand(len(ids), 2, generator=generator) < luck).double()
    order = torch.randperm(len(ids), generator=generator)
    return values[order], ids[order]


def test_exactly_one_half_counts_one_half() -> None:
    margins = torch.tensor([[0.0, 0.0, 0.0], [1e-4, 0.0, 0.0], [-1e-4, 0.0, 0.0]])
    log_weights = torch.log_softmax(torch.tensor([0.3, -2.0, 1.1]), 0).expand(3, 3)
    log_p = pair_log_probability(margins, log_weights)
    assert correct(log_p).tolist() == [0.5, 1.0, 0.0]
    assert accuracy(log_p) == 0.5
    assert correct(F.logsigmoid(torch.tensor([[0.0, 2.0], [-0.1, -30.0]]))).tolist() == [[0.5, 1.0], [0.0, 0.0]]


def test_nll_by_hand() -> None:
    assert nll(torch.tensor([0.5, 0.25]).log()) == pytest.approx(1.5 * math.log(2))


def test_intervals_equal_a_slow_bootstrap() -> None:
    values, ids = clustered(40, seed=0)
    low, high = cluster_intervals(values, ids, seed=1, resamples=4000)
    rows: dict[int, list[list[float]]] = {}
    for cluster, row in zip(ids.tolist(), values.tolist(), strict=True):
        rows.setdefault(cluster, []).append(row)
    rng = random.Random(0)
    means = []
    for _ in range(4000):
        drawn = [row for cluster in rng.choices(list(rows), k=len(rows)) for row in rows[cluster]]
        means.append([sum(column) / len(drawn) for column in zip(*drawn, strict=True)])
    for c, column in enumerate(zip(*means, strict=True)):
        ordered = sorted(column)
        assert low[c].item() == pytest.approx(ordered[100], abs=0.015)
        assert high[c].item() == pytest.approx(ordered[3900], abs=0.015)
        mean = sum(column) / len(column)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in column) / len(column))
        assert standard_error(values, ids)[c].item() == pytest.approx(deviation, rel=0.08)


def test_intervals_cover_where_rows_of_a_cluster_agree() -> None:
    """Rows of a cluster are copies: a row bootstrap would cover far too rarely."""
    covered, by_row = 0, 0
    generator = torch.Generator().manual_seed(0)
    for seed in range(200):
        values = (torch.rand(60, 1, generator=generator) < 0.7).double().repeat_interleave(4, 0)
        for count_rows in (False, True):
            ids = torch.arange(240) if count_rows else torch.arange(60).repeat_interleave(4)
            low, high = cluster_intervals(values, ids, seed=seed, resamples=400)
            hit = bool(low[0] <= 0.7 <= high[0])
            covered, by_row = covered + (hit and not count_rows), by_row + (hit and count_rows)
    assert 180 <= covered <= 198
    assert by_row < 150


def test_intervals_are_the_seeds_and_ignore_row_order_and_ids() -> None:
    values, ids = clustered(30, seed=3)
    first = cluster_intervals(values, ids, seed=5, resamples=200)
    again = cluster_intervals(values.flip(0), ids.flip(0) * 2 + 7, seed=5, resamples=200)
    torch.testing.assert_close(torch.stack(first), torch.stack(again))
    same = cluster_intervals(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64), seed=0)
    assert [bound.tolist() for bound in same] == [[1.0], [1.0]]
    assert math.isinf(standard_error(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64)).item())


def test_standard_error_of_single_row_clusters_is_the_textbook_one() -> None:
    values = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(standard_error(values, torch.arange(50)), values.std(0) / math.sqrt(50))


def test_effective_heads() -> None:
    one_hot = torch.eye(4)[[0, 1, 0, 1]].clamp_min(1e-30).log()
    assert effective_heads(one_hot) == pytest.approx(2.0)
    assert effective_heads(torch.zeros(3, 5) - math.log(5)) == pytest.approx(5.0)


def test_permutation_agreement_equals_trying_all_permutations() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(4, (2, 60), generator=generator)
    best = max((torch.tensor(p)[a] == b).double().mean().item() for p in itertools.permutations(range(4)))
    assert permutation_agreement(a, b, 4) == pytest.approx(best)
    assert permutation_agreement(a, (a + 1) % 4, 4) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: cluster_intervals(torch.ones(3), torch.zeros(3), 0),
        lambda: standard_error(torch.ones(3, 1), torch.zeros(2)),
        lambda: standard_error(torch.ones(0, 1), torch.zeros(0)),
        lambda: permutation_agreement(torch.zeros(2), torch.zeros(3), 2),
    ],
)
def test_wrong_shapes_raise(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"expected|are not"):
        wrong()  # type: ignore[operator]
