"""Router inputs that pairs share: computed once, and equal to what every pair with its own row would give."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from micropref.cache.errors import BadInput
from micropref.heads.fitting.fit import FitPlan, FitSetting, PairTensors, fit, mean_nll
from micropref.heads.fitting.minibatches import LEAST_RUNS, SIDE_BY_SIDE, Feed, sharing_runs
from micropref.heads.fitting.pair_source import score
from micropref.heads.fitting.projection import principal_components
from micropref.heads.fitting.scales import training_scales
from micropref.heads.fitting.segments import ROUND, Segments
from micropref.heads.methods.base import Pairs
from micropref.heads.methods.bradley_terry import MixtureModel
from micropref.heads.mixture import Mixture, Router
from tests.support.populations import dense

CPU = torch.device("cpu")
WHOLE = FitPlan(epochs=5, batch=300, dtype="float64", device="cpu", patience=0, anneal=False)
SETTINGS = [
    FitSetting("mixture", 3, hidden=8, lr=1e-2, seed=3),
    FitSetting("mixture", 2, hidden=0, lam=0.3, prior="batch", lr=1e-2, seed=1),
    FitSetting("static", 4, seed=2, lr=1e-2),
]


def sharing(pairs: int, inputs: int, seed: int) -> PairTensors:
    """Pairs that each read one of a few rows, some of which many pairs read and the last nobody."""
    generator = torch.Generator().manual_seed(seed)
    delta, router = torch.randn(pairs, 12, generator=generator), torch.randn(inputs + 1, 9, generator=generator)
    rows = (inputs * torch.rand(pairs, generator=generator).square()).long()
    reward = delta[:, :4].sum(1) * router[rows, 0].sign() + delta[:, 5]
    prefers = torch.rand(pairs, generator=generator) < torch.sigmoid(reward)
    signs = 2 * prefers.float() - 1
    units = torch.randint(40, (pairs,), generator=generator)
    return PairTensors(5 * delta * signs[:, None], 0.1 * router, units, rows)


TRAIN, VALIDATION = sharing(300, 60, 0), sharing(90, 20, 1)


@pytest.mark.parametrize("latent", ["pair", "user"])
def test_a_fit_is_that_of_a_row_for_every_pair(latent: str) -> None:
    settings = [replace(one, latent=latent) for one in SETTINGS]  # type: ignore[arg-type]
    shared, own = fit(TRAIN, VALIDATION, settings, WHOLE), fit(dense(TRAIN), dense(VALIDATION), settings, WHOLE)
    for one, other in zip(shared, own, strict=True):
        for name, part in one.mixture.state().items():
            torch.testing.assert_close(part, other.mixture.state()[name], rtol=1e-5, atol=1e-6)
        assert one.train_history == pytest.approx(other.train_history, abs=1e-9)
        assert one.validation_history == pytest.approx(other.validation_history, abs=1e-9)
        assert mean_nll(one.mixture, VALIDATION) == pytest.approx(mean_nll(one.mixture, dense(VALIDATION)), abs=1e-6)


def test_lbfgs_reads_shared_rows_too() -> None:
    plan = replace(WHOLE, solver="lbfgs", epochs=3)
    one, other = (fit(*parts, SETTINGS[:1], plan)[0] for parts in ((TRAIN, VALIDATION), (dense(TRAIN), VALIDATION)))
    assert one.validation_nll == pytest.approx(other.validation_nll, abs=1e-6)


def test_minibatches_have_every_pair_once_and_each_its_own_row() -> None:
    feed, expected = Feed(TRAIN, True, 70, torch.float32, CPU), dense(TRAIN)
    number = {row.numpy().tobytes(): place for place, row in enumerate(TRAIN.delta)}
    assert expected.router is not None
    orders = []
    for generator in (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)):
        seen: list[int] = []
        for batch in feed.shuffled(generator):
            assert batch.router is not None
            assert batch.readers is not None
            index = [number[row.numpy().tobytes()] for row in batch.delta]
            assert len(index) == 70
            assert torch.equal(batch.router[batch.readers.place], expected.router[index])
            assert torch.bincount(batch.readers.place, minlength=len(batch.router)).equal(batch.readers.sizes)
            assert len(batch.router) % ROUND == 0
            seen += index
        assert len(set(seen)) == len(seen) == 280
        orders.append(seen)
    assert orders[0] != orders[1]


def test_pairs_of_one_row_lie_side_by_side_in_runs_that_are_not_long() -> None:
    assert TRAIN.router_rows is not None
    runs = sharing_runs(TRAIN.router_rows, 2048)
    assert sharing_runs(TRAIN.router_rows, 4 * LEAST_RUNS).sizes.max() == 4
    assert sharing_runs(TRAIN.router_rows, LEAST_RUNS - 1).sizes.max() == 1, "the pairs of few should differ"
    visits = torch.randperm(len(runs.sizes), generator=torch.Generator().manual_seed(0))
    entries, place = runs.taken(visits)
    assert entries.sort().values.equal(torch.arange(300))
    readers = Counter(TRAIN.router_rows.tolist())
    assert max(readers.values()) > SIDE_BY_SIDE, "some row should have more readers than a run takes"
    for run in range(len(visits)):
        rows = TRAIN.router_rows[entries[place == run]].tolist()
        assert len(set(rows)) == 1
        assert len(rows) <= SIDE_BY_SIDE
        assert len(rows) >= min(readers[rows[0]], SIDE_BY_SIDE // 2), "runs of one row are near-equal"


def test_sums_in_any_order_equal_a_loop() -> None:
    place, values = torch.tensor([2, 0, 2, 2, 0, 1]), torch.randn(2, 3, 6, dtype=torch.float64)
    segments = Segments.of_readers(place, torch.tensor([2, 1, 3]))
    sums = segments.sums(values)
    assert sums.shape == (2, 3, ROUND)
    for number in range(ROUND):
        torch.testing.assert_close(sums[..., number], values[..., place == number].sum(2))
    torch.testing.assert_close(segments.spread(sums)[..., 1], values[..., 1] + values[..., 4])


def test_scales_scores_and_components_are_those_of_a_row_for_every_pair() -> None:
    own = dense(TRAIN)
    one, other = training_scales(TRAIN), training_scales(own)
    assert (one.delta, one.router) == pytest.approx((other.delta, other.router), rel=1e-6)
    mixture = Mixture(torch.randn(3, 12), Router(None, None, torch.randn(3, 9), torch.zeros(3)))
    for shared, whole in zip(score(mixture, TRAIN), score(mixture, own), strict=True):
        torch.testing.assert_close(shared, whole)
    projections = [principal_components(part, 5).projection(5) for part in (TRAIN, own)]
    assert projections[0].router is not None
    assert projections[1].router is not None
    torch.testing.assert_close(projections[0].router, projections[1].router, rtol=1e-3, atol=1e-3)
    shared_rows, rows = (projections[0].project(part) for part in (TRAIN, own))
    assert TRAIN.router_rows is not None
    assert shared_rows.router_rows is not None
    assert shared_rows.router is not None
    assert rows.router is not None
    assert shared_rows.router_rows.equal(TRAIN.router_rows)
    torch.testing.assert_close(shared_rows.router[shared_rows.router_rows], rows.router)
    torch.testing.assert_close(shared_rows.delta, rows.delta)


def test_a_methods_pairs_keep_their_rows() -> None:
    assert TRAIN.router is not None
    pairs = Pairs(TRAIN.delta, TRAIN.router, torch.arange(300), router_rows=TRAIN.router_rows)
    some = pairs.take(torch.tensor([5, 250, 7]))
    assert torch.equal(some.router_inputs(), pairs.router_inputs()[[5, 250, 7]])
    model = MixtureModel(Mixture(torch.randn(2, 12), Router(None, None, torch.randn(2, 9), torch.zeros(2))))
    torch.testing.assert_close(model.scores(some).log_weights, model.scores(pairs).log_weights[[5, 250, 7]])
    assert len(some.router) <= 3, "rows that no pair reads any more are left behind"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([0, 3], "router rows go from 0 to 3: expected 0 to 2"),
        ([-1, 0], "router rows go from -1 to 0: expected 0 to 2"),
        ([0, 1, 2], r"router rows are torch.int64 of shape \[3\]: expected an int64 for each of the 2 pairs"),
        ([], r"of shape \[0\]"),
        ([0.0, 1.0], "router rows are torch.float32"),
    ],
)
def test_rows_that_are_not_there_are_named(rows: list[float], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        PairTensors(torch.ones(2, 4), torch.ones(3, 4), router_rows=torch.tensor(rows))
    with pytest.raises(BadInput, match="router rows without a router input"):
        PairTensors(torch.ones(2, 4), None, router_rows=torch.tensor(rows))
