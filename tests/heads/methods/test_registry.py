"""Every compared method behind the one interface, and the simple ones against independent references."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from micropref.cache.errors import BadInput
from micropref.heads.choices import PER_UNIT, SHARED_TENSORS
from micropref.heads.evaluation.metrics import accuracy, nll
from micropref.heads.methods import armo, dpl, lore, pal
from micropref.heads.methods.base import NO_UNIT, MethodOptions, Pairs, RatedResponses, Scores, TrainingData
from micropref.heads.methods.drm import Drm, principal_components
from micropref.heads.methods.maxmin import Clusters, MaxMin
from micropref.heads.methods.registry import methods

WIDTH, USERS = 8, 10


def planted(pairs: int, seed: int, spread: float = 4.0) -> Pairs:
    """Return pairs of ten users: those with even numbers like what the others dislike."""
    generator = torch.Generator().manual_seed(seed)
    taste = torch.nn.functional.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(99)), dim=0)
    first, second = torch.randn(2, pairs, WIDTH, generator=generator)
    units = torch.randint(USERS, (pairs,), generator=generator)
    sign = 1 - 2 * (units % 2).float()
    likes_first = torch.rand(pairs, generator=generator) < torch.sigmoid(spread * sign * ((first - second) @ taste))
    chosen = torch.where(likes_first[:, None], first, second)
    rejected = torch.where(likes_first[:, None], second, first)
    router = torch.randn(pairs, WIDTH, generator=generator) + 2 * sign[:, None]
    return Pairs(chosen - rejected, router, torch.arange(pairs) // 3, chosen, rejected, units)


def training(pairs: int = 400) -> TrainingData:
    fitting = planted(pairs, 0)
    assert fitting.chosen is not None
    ratings = torch.stack([fitting.chosen[:, 0], fitting.chosen[:, 1]], 1)
    ratings[::5, 1] = math.nan
    return TrainingData(
        fitting,
        planted(90, 1),
        units=tuple(f"u{number}" for number in range(USERS)),
        unit_kind="user",
        rated=RatedResponses(fitting.chosen, ratings, fitting.clusters, ("grace", "verbosity")),
        reward_head=torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(3)),
    )


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the recipes short: what is fitted is tested elsewhere."""
    for module in (armo, dpl, lore, pal):
        monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, steps=12))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", methods())
def test_every_method_is_the_same_after_a_round_trip(name: str) -> None:
    method, data, test = methods()[name], training(), planted(60, 2)
    assert method.name == name
    models = method.fit(data, MethodOptions(k=3), [0, 1])
    assert len(models) == 2
    for model in models:
        scores = model.scores(test)
        assert scores.margins.shape == scores.log_weights.shape == (60, scores.margins.shape[1])
        torch.testing.assert_close(scores.log_weights.exp().sum(1), torch.ones(60))
        assert scores.log_probability().isfinite().all()
        state = load(save({key: tensor.contiguous() for key, tensor in model.state().items()}))
        again = method.restore(state).scores(test)
        assert again.combine == scores.combine
        assert torch.equal(again.margins, scores.margins)
        assert torch.equal(again.log_weights, scores.log_weights)
        assert state.keys() <= SHARED_TENSORS | PER_UNIT  # no row of a person is shared under another name
        if "units" in method.needs:
            assert {key for key, tensor in state.items() if tensor.shape[0] == USERS} == PER_UNIT & state.keys()
    with pytest.raises(ValueError, match="found"):
        method.restore({"nonsense": torch.zeros(2)})


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", methods())
def test_a_seed_gives_the_same_model_in_any_company(name: str) -> None:
    method, data, test = methods()[name], training(), planted(60, 2)
    together, alone = method.fit(data, MethodOptions(k=2), [0, 1])[1], method.fit(data, MethodOptions(k=2), [1])[0]
    torch.testing.assert_close(
        together.scores(test).log_probability(), alone.scores(test).log_probability(), atol=2e-3, rtol=0
    )


def test_the_two_ways_of_combining_heads() -> None:
    scores = Scores(torch.tensor([[2.0, -1.0]]), torch.tensor([[0.25, 0.75]]).log(), "probability")
    expected = 0.25 / (1 + math.exp(-2)) + 0.75 / (1 + math.e)
    assert scores.log_probability().item() == pytest.approx(math.log(expected))
    linear = replace(scores, combine="linear")
    assert linear.log_probability().item() == pytest.approx(-math.log(1 + math.exp(0.25)))
    excluded = replace(scores, log_weights=torch.tensor([[0.0, -math.inf]]))
    assert excluded.log_probability().item() == pytest.approx(-math.log(1 + math.exp(-2)))


def test_drm_heads_are_the_principal_components_of_scikit_learn() -> None:
    data = training()
    delta = data.fitting.delta + 0.5  # a mean that centring takes away
    reference = PCA(5, svd_solver="full").fit(delta.double().numpy())
    mean, components = principal_components(delta, 5)
    signs = np.sign(reference.components_[np.arange(5), np.abs(reference.components_).argmax(1)])
    np.testing.assert_allclose(components.numpy(), reference.components_ * signs[:, None], atol=1e-5)
    np.testing.assert_allclose(mean.numpy(), reference.mean_, atol=1e-5)


def test_drm_without_shots_is_its_mean_head() -> None:
    data, test = training(), planted(60, 2)
    model = Drm().fit(data, MethodOptions(), [0])[0]
    scores = model.scores(test)
    assert scores.margins.shape == (60, 2 * WIDTH + 1)  # no more components than D
    torch.testing.assert_close(scores.margins[:, :WIDTH], -scores.margins[:, WIDTH:-1])
    mean = data.fitting.delta.double().mean(0).float()
    torch.testing.assert_close(scores.margins[:, -1], test.delta @ (mean / mean.norm()))
    assert accuracy(scores.log_probability()) == ((scores.margins[:, -1] > 0).double().mean()).item()
    # The components with equal weights say nothing.
    torch.testing.assert_close(scores.margins[:, :-1].mean(1), torch.zeros(60), atol=1e-6, rtol=0)


def slow_hard_em(pairs: Pairs, rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return heads [2, D] and the users' clusters by whole refits with scikit-learn."""
    assert pairs.units is not None
    delta, units = pairs.delta.double().numpy(), pairs.units.numpy()
    heads = np.random.default_rng(seed).normal(size=(2, WIDTH))
    for _ in range(rounds):
        cluster = np.zeros(USERS, int)
        for user in range(USERS):
            explained = [sum(-math.log1p(math.exp(-head @ row)) for row in delta[units == user]) for head in heads]
            cluster[user] = int(np.argmax(explained))
        for number in range(2):
            own = delta[cluster[units] == number]
            if len(own):
                both = np.concatenate([own, -own])
                labels = np.repeat([1, 0], len(own))
                heads[number] = LogisticRegression(fit_intercept=False).fit(both, labels).coef_[0]
    return heads, cluster


def test_maxmin_finds_the_clusters_of_a_slow_loop() -> None:
    data, test = training(), planted(300, 2)
    found = MaxMin().fit(data, MethodOptions(k=2), [0])[0]
    heads, cluster = slow_hard_em(data.fitting, 10, seed=0)
    order = [0, 1] if cluster[0] == int(found.cluster[0]) else [1, 0]
    assert found.cluster.tolist() == [order[number] for number in cluster]
    assert cluster.tolist() in ([0, 1] * 5, [1, 0] * 5)
    for number in range(2):
        slow = torch.from_numpy(heads[number]).float()
        assert torch.cosine_similarity(found.heads[order[number]], slow, dim=0) > 0.97
    share = (found.cluster[data.fitting.units] == 0).float().mean()
    assert found.shares[0].item() == pytest.approx(share.item())
    assert accuracy(found.scores(test).log_probability()) > 0.8


def test_maxmin_predicts_unknown_units_by_the_clusters_shares() -> None:
    model = Clusters(torch.tensor([[1.0], [-1.0]]), torch.tensor([0.75, 0.25]), torch.tensor([0, 1]))
    pairs = Pairs(torch.full((3, 1), 2.0), torch.zeros(3, 1), torch.arange(3), units=torch.tensor([0, 1, NO_UNIT]))
    likes, dislikes = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))
    expected = [likes, dislikes, 0.75 * likes + 0.25 * dislikes]
    assert model.scores(pairs).log_probability().exp().tolist() == pytest.approx(expected)
    unknown = model.scores(replace(pairs, units=None)).log_probability().exp()
    assert unknown.tolist() == pytest.approx([expected[2]] * 3)


def test_maxmin_takes_every_pair_for_itself_where_nobody_is_named() -> None:
    data = training()
    by_attribute = replace(data, unit_kind="attribute")
    found = MaxMin().fit(by_attribute, MethodOptions(k=2), [0])[0]
    assert len(found.cluster) == 0
    assert found.shares.sum().item() == pytest.approx(1)
    margins = found.scores(data.fitting).margins
    share = (margins.argmax(1) == 0).float().mean()
    assert found.shares[0].item() == pytest.approx(share.item(), abs=0.02)


def like_minded(pairs: int, seed: int, width: int = 128) -> Pairs:
    """Return pairs of people with one taste."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(pairs, width, generator=generator)
    likes_first = torch.rand(pairs, generator=generator) < torch.sigmoid(delta.sum(1) / 5)
    return Pairs(torch.where(likes_first[:, None], delta, -delta), delta.abs(), torch.arange(pairs))


def test_with_one_head_the_methods_coincide() -> None:
    data, test = TrainingData(like_minded(6000, 0), like_minded(500, 1)), like_minded(500, 2)
    scores = {
        name: methods()[name].fit(data, MethodOptions(k=1), [0])[0].scores(test)
        for name in ("single", "static", "mixture", "maxmin", "ensemble")
    }
    static = scores["static"].log_probability()
    torch.testing.assert_close(scores["mixture"].log_probability(), static, atol=1e-4, rtol=0)
    # Other steps on the way to the same optimum, single has an L2 term, and an ensemble's head has its prior.
    for name in ("single", "maxmin", "ensemble"):
        margins = torch.stack([scores[name].margins[:, 0], scores["static"].margins[:, 0]])
        assert torch.corrcoef(margins)[0, 1] > 0.95, name
        assert abs(nll(scores[name].log_probability()) - nll(static)) < 0.03, name


def test_a_backbone_without_a_head_is_said_to_have_none() -> None:
    with pytest.raises(BadInput, match="own-head: the backbone of these features has no reward head"):
        methods()["own-head"].fit(replace(training(), reward_head=None), MethodOptions(), [0])
    with pytest.raises(BadInput, match="k is 0"):
        MethodOptions(k=0)
