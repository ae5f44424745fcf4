"""The wordings benchmark on made-up vectors: what a draw holds out, the figures, the rule, and the refitted router."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from micropref.heads.fitting.settings import FitSetting
from micropref.heads.mixture import Mixture, Router
from tests.benchmarks.wordings_draws import Draw, Shape, Sizes, draw
from tests.benchmarks.wordings_measures import interval
from tests.benchmarks.wordings_recipes import read_input
from tests.benchmarks.wordings_refit import refit_on_wordings
from tests.benchmarks.wordings_rule import decide
from tests.benchmarks.wordings_vectors import GROUPS, STYLES, Vectors, Wordings, read_wordings

TEXTS = json.loads(Path(__file__).with_name("wordings.json").read_text(encoding="utf-8"))
DEMO = json.loads((Path(__file__).parents[2] / "pipeline" / "demo" / "texts.json").read_text(encoding="utf-8"))
PROMPTS, EACH, WIDTH = 60, 4, 16


@pytest.fixture(scope="module")
def wordings() -> Wordings:
    return read_wordings(PROMPTS, "stated")


@pytest.fixture(scope="module")
def vectors(wordings: Wordings) -> Vectors:
    """Return vectors where a context's place tells its group, a prompt's its topic and an answer's its style."""
    made = torch.Generator().manual_seed(0)

    def near(codes: torch.Tensor) -> torch.Tensor:
        return codes + 0.1 * torch.randn(codes.shape, generator=made)

    contexts, topics = (near(torch.eye(WIDTH)[part]) for part in (wordings.group, wordings.topic))
    answers = near(torch.eye(len(STYLES)).expand(PROMPTS, -1, -1))
    return Vectors({"alone": contexts}, topics, answers, contexts[:, None] + topics)


def made(wordings: Wordings, shape: Shape) -> Draw:
    return draw(wordings, 1, EACH, shape, Sizes(2400, 400, 400), PROMPTS)


def test_there_are_enough_wordings_and_none_is_the_demos() -> None:
    shipped = {text for splits in DEMO["contexts"].values() for texts in splits.values() for text in texts}
    for pool in ("stated", "oblique"):
        assert set(TEXTS[pool]) == set(GROUPS)
        texts = [text for group in TEXTS[pool].values() for text in group]
        assert min(len(group) for group in TEXTS[pool].values()) >= 20
        assert len(set(texts)) == len(texts)
        assert not shipped & set(texts)
    assert len(set(TEXTS["reference_prompts"])) == 16


def test_test_pairs_have_prompts_and_wordings_of_their_own(wordings: Wordings) -> None:
    found = made(wordings, "demo")
    for part in (found.fit, found.validation):
        assert not set(part.prompt.tolist()) & set(found.test.prompt.tolist())
        assert not set(part.context.tolist()) & set(found.test.context.tolist())
    assert not set(found.fit.prompt.tolist()) & set(found.validation.prompt.tolist())
    assert torch.unique(found.fit.context).numel() == EACH * len(GROUPS)
    assert torch.equal(wordings.group[found.test.context], found.test.group)


def test_groups_choose_as_they_rank_the_styles(wordings: Wordings) -> None:
    found = made(wordings, "demo").fit
    brief = found.group == GROUPS.index("brevity")
    extreme = brief & (torch.stack([found.chosen, found.rejected]).sort(0).values == torch.tensor([[0], [5]])).all(0)
    assert (found.chosen[extreme] == 0).double().mean() > 0.95


def test_an_interaction_turns_the_taste_on_every_second_topic(wordings: Wordings) -> None:
    found = made(wordings, "interaction").fit
    brief = found.group == GROUPS.index("brevity")
    shorter = (found.chosen < found.rejected).double()
    for odd, low, high in ((0, 0.8, 1.0), (1, 0.0, 0.2)):
        assert low < shorter[brief & (wordings.topic[found.prompt] % 2 == odd)].mean() < high


def test_unique_contexts_are_all_different(wordings: Wordings, vectors: Vectors) -> None:
    found = made(wordings, "unique")
    rows = read_input("alone", found, vectors)
    assert torch.unique(rows.rows[rows.fit], dim=0).shape[0] > 0.99 * len(found.fit.context)
    assert (found.fit.context != found.fit.other).all()
    assert torch.equal(wordings.group[found.fit.other], found.fit.group)


def test_an_interval_over_draws_and_wordings_is_wider_than_over_pairs() -> None:
    right = torch.zeros(5, 20, dtype=torch.float64)
    right[:, :14] = 100
    low, high = interval(right, torch.full_like(right, 100))
    assert low < 0.55 < 0.7 < 0.85 < high


@pytest.mark.parametrize(("shape", "choice"), [("demo", "alone"), ("interaction", "both")])
def test_the_rule_reads_the_prompt_only_where_it_matters(
    wordings: Wordings, vectors: Vectors, shape: Shape, choice: str
) -> None:
    setting = FitSetting("mixture", 4, lam=0.03, hidden=32, lr=2e-2)
    assert decide(made(wordings, shape), vectors, setting, 3).choice == choice


def test_a_refitted_router_finds_new_contexts_and_says_the_same_for_all_where_they_tell_nothing() -> None:
    made = torch.Generator().manual_seed(0)
    mixture = Mixture(torch.eye(2) * 4, Router(None, None, torch.zeros(2, 6), torch.zeros(2)))
    rows = torch.arange(1200) % 12
    group = rows % 2
    delta = torch.nn.functional.one_hot(group, 2) * 2.0 - 1
    contexts = torch.randn(24, 6, generator=made)
    told = contexts + 4 * torch.tensor([1.0, -1.0])[torch.arange(24) % 2][:, None]
    found = refit_on_wordings(mixture, delta, told[:12], rows)
    assert (found.router.logits(told[12:]).argmax(1) == torch.arange(24)[12:] % 2).all()
    blind = refit_on_wordings(mixture, delta, contexts[:12] * 1e-3 + torch.eye(12, 6)[torch.arange(12) // 2], rows)
    assert blind.strength == math.inf
    assert blind.router.logits(contexts).std(0).max() == pytest.approx(0, abs=1e-6)
