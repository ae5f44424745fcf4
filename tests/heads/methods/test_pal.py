"""PAL: distances worked by hand, prototypes by a slow loop, the people it finds, and newcomers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from micropref.cache.errors import BadInput
from micropref.heads.evaluation.metrics import accuracy
from micropref.heads.methods.base import Adaptable, MethodOptions
from micropref.heads.methods.pal import PalA, PalB, PalModel, Problem, margin, mixed, points
from micropref.heads.methods.stacking import run_network

OPTIONS = MethodOptions(k=3, device="cpu")
BOTH = [PalA, PalB]


def test_the_nearer_response_is_preferred() -> None:
    ideal = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    chosen, rejected = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 12.0], [1.0, 3.0]])
    assert margin(ideal, chosen, rejected).tolist() == pytest.approx([7.0, 2.0])


@pytest.mark.parametrize("method", BOTH)
def test_the_loss_is_that_of_a_slow_loop(method: Any) -> None:
    parts = method()._start(5, 4, 3, [7, 8])
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, router = torch.randn(3, 6, 5, generator=generator)
    units = torch.tensor([0, 1, 2, 3, 3, 0])
    problem = Problem(chosen, rejected, router, units, {"f.v0": 2.0})
    found = problem.nll(parts, slice(None))
    for seed in range(2):
        own = {name: part[seed].double() for name, part in parts.items()}

        def network(name: str, x: torch.Tensor, own: dict[str, torch.Tensor] = own) -> torch.Tensor:
            v0, b0, v1, b1 = (own[f"{name[0]}.{part}"] for part in ("v0", "b0", "v1", "b1"))
            if name[0] == "g":
                v0, b0, v1, b1 = (part[int(name[1:])] for part in (v0, b0, v1, b1))
            return v1 @ torch.relu(v0 @ x.double() + b0) + b1

        total = 0.0
        for c, r, x, unit in zip(chosen, rejected, router, units, strict=True):
            weights = torch.softmax(own["units"][unit], 0)
            among = [network(f"g{k}", x) if method is PalB else own["prototypes"][k] for k in range(3)]
            ideal = sum(weight * point for weight, point in zip(weights, among, strict=True))
            near, far = (torch.dist(network("f", part / 2), ideal) for part in (c, r))
            total -= torch.nn.functional.logsigmoid(far - near).item() / 6
        assert found[seed].item() == pytest.approx(total, rel=1e-4)


@pytest.fixture(scope="module")
def people(population: Callable[..., Any]) -> Any:
    return population()


@pytest.fixture(scope="module", params=BOTH, ids=["a", "b"])
def fitted(request: pytest.FixtureRequest, people: Any) -> list[PalModel]:
    return request.param().fit(people.data, OPTIONS, [0, 1])  # type: ignore[no-any-return]


def test_known_people_are_served_nearly_as_well_as_can_be(people: Any, fitted: list[PalModel]) -> None:
    for model in fitted:
        assert accuracy(model.scores(people.test).log_probability()) > 0.95 * people.bayes
        assert accuracy(model.scores(people.without_people()).log_probability()) < 0.6


def test_a_few_choices_tell_newcomers_apart(people: Any, fitted: list[PalModel]) -> None:
    model, test = fitted[0], people.test
    assert isinstance(model, Adaptable)
    shots, rest = test.take(test.clusters % 2 == 0), test.take(test.clusters % 2 == 1)
    adapted = model.adapted(shots)
    assert accuracy(adapted.scores(rest).log_probability()) > 0.9 * people.bayes
    assert adapted.parts is model.parts


def test_a_scored_pair_is_a_difference_of_distances(people: Any, fitted: list[PalModel]) -> None:
    model = fitted[0]
    parts = {name: part[None] for name, part in model.parts.items()}
    chosen, rejected = (run_network(parts, part, "f.")[0] for part in people.test.responses())
    known = model.weights.known.exp()[people.test.units]
    ideal = mixed(known[None], points(parts, people.test.router))[0]
    expected = (rejected - ideal).norm(dim=1) - (chosen - ideal).norm(dim=1)
    torch.testing.assert_close(model.scores(people.test).margins[:, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", BOTH)
def test_without_anybody_named_there_is_nothing_to_learn(method: Any, people: Any) -> None:
    nobody = replace(people.data, fitting=replace(people.data.fitting, units=None))
    with pytest.raises(BadInput, match="no training pair names a user or an attribute"):
        method().fit(nobody, OPTIONS, [0])
