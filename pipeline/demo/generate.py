"""A generated preference data set whose groups of people are known: what `micropref demo` learns from.

Every prompt is answered once in each of six styles. Four groups of annotators rank the styles: `depth` wants
the reverse of `brevity`, `playfulness` the reverse of `formality`. Averaged over the groups each style is worth
the same, so one reward for everybody can hardly beat chance; what a choice means depends on who made it.
Each topic is home to one group, which makes about two thirds of the choices there; the others are made by the
group of opposite taste, so that a reward which reads the topic out of the answers gains little. Every choice
carries a sentence that describes the annotator's group, and the points that every group would give to the two
answers. The test split has prompts and sentences of its own.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.errors import BadInput
from micropref.pipeline.options import SplitName

T = TypeVar("T")

# Styles from the most to the least liked. The two rankings and their reverses are the four groups.
_BREVITY = ("terse", "technical", "playful", "formal", "cautious", "thorough")
_FORMALITY = ("formal", "cautious", "technical", "terse", "thorough", "playful")
TASTES: dict[str, tuple[str, ...]] = {
    "brevity": _BREVITY,
    "depth": _BREVITY[::-1],
    "formality": _FORMALITY,
    "playfulness": _FORMALITY[::-1],
}
OPPOSITE: dict[str, str] = {
    group: other for group in TASTES for other in TASTES if TASTES[other] == TASTES[group][::-1]
}
"""Group → the group that ranks the styles the other way round."""
SHARPNESS = 1.25
"""Bradley-Terry reward of one rank: the better-ranked style wins with σ(1.25 · ranks apart), 90 % on average."""
HOME_SHARE = 2 / 3
"""Share of an annotator's choices made on home topics, and so of a topic's choices made by its home group."""
TEST_SHARE = 0.2
"""Share of every topic's prompts that only the test split has."""
CHOICES: dict[SplitName, int] = {TRAIN: 8, TEST: 2}
"""Choices one annotator makes in each split, all on different prompts."""


@dataclass(frozen=True)
class DemoData:
    """The generated rows, explicit preference rows with `attribute`, `context` and `user`."""

    train: list[dict[str, Any]]
    """Rows of the training prompts, the rows of a prompt together."""
    test: list[dict[str, Any]]
    """Rows of the held-out prompts; their contexts are worded as no training row words them."""
    groups: tuple[str, ...]
    """Names of the groups, the values of `attribute`."""


@dataclass(frozen=True)
class _Texts:
    """The sentences the rows are assembled from."""

    topics: dict[str, list[dict[str, str]]]
    """Topic → subjects, each with its `goal`, `do`, `why`, `then`, `risk` and `term`."""
    questions: list[str]
    """Templates of a prompt about one subject."""
    styles: dict[str, list[str]]
    """Style → templates of a response about one subject."""
    contexts: dict[str, dict[SplitName, list[str]]]
    """Group → split → sentences describing the group."""


@dataclass(frozen=True)
class _Prompt:
    """One question with its answers."""

    position: int
    """Place in the data set, which orders the rows."""
    text: str
    """The question."""
    topic: str
    """What it is about."""
    part: SplitName
    """The split that has it."""
    responses: dict[str, str]
    """Style → answer."""


class _Random:
    """Choices made from `random()` alone, the one method every Python version repeats for a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - simulation, no secret

    def index(self, n: int) -> int:
        """Uniform integer in [0, n)."""
        return int(self._random() * n)

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, uniformly."""
        return items[self.index(len(items))]

    def happens(self, probability: float) -> bool:
        """Decide yes with this probability."""
        return self._random() < probability

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Shuffle in place (Fisher-Yates)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.index(last + 1)
            items[last], items[other] = items[other], items[last]


def generate(seed: int = 0, prompts: int = 600, annotators: int = 1200) -> DemoData:
    """Generate the demo data: ten choices per annotator, eight of them on training prompts.

    `prompts` are spread evenly over the topics, `annotators` over the groups. The same arguments give the same
    rows on every platform. Raises BadInput where the counts are outside what the sentences allow.
    """
    texts = _load_texts()
    _check_counts(prompts, annotators, texts)
    random = _Random(seed)
    groups = tuple(TASTES)
    questions = _pick_prompts(random, texts, prompts)
    members = [groups[number % len(groups)] for number in range(annotators)]
    random.shuffle(members)
    rows: dict[SplitName, list[dict[str, Any]]] = {}
    for part, count in CHOICES.items():
        pools = {group: _pools(questions, part, group, texts) for group in groups}
        placed: list[tuple[int, dict[str, Any]]] = []
        for number, group in enumerate(members, start=1):
            for prompt in _assign(random, *pools[group], count):
                chosen, rejected = _choose(random, group)
                row = {
                    "prompt": prompt.text,
                    "chosen": prompt.responses[chosen],
                    "rejected": prompt.responses[rejected],
                    "attribute": group,
                    "context": random.pick(texts.contexts[group][part]),
                    "user": f"annotator-{number:04d}",
                    "chosen_ratings": _ratings(chosen),
                    "rejected_ratings": _ratings(rejected),
                }
                placed.append((prompt.position, row))
        rows[part] = [row for _, row in sorted(placed, key=lambda item: item[0])]
    return DemoData(train=rows[TRAIN], test=rows[TEST], groups=groups)


def write(data: DemoData, folder: Path) -> tuple[Path, Path]:
    """Write `train.jsonl` and `test.jsonl` (UTF-8, one row per line) into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / "train.jsonl", folder / "test.jsonl")
    for path, rows in zip(paths, (data.train, data.test), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes("".join(lines).encode())  # bytes: no platform's line ends
    return paths


def _load_texts() -> _Texts:
    """Read the sentences packaged with this module."""
    return _Texts(**json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8")))


def _check_counts(prompts: int, annotators: int, texts: _Texts) -> None:
    """Refuse counts that leave a topic without test prompts, or ask for more prompts than there are."""
    topics = len(texts.topics)
    most = topics * len(texts.questions) * min(len(subjects) for subjects in texts.topics.values())
    if not 10 * topics <= prompts <= most:
        raise BadInput(f"demo data: prompts is {prompts}, expected {10 * topics} to {most}")
    if annotators < len(TASTES):
        raise BadInput(f"demo data: annotators is {annotators}, expected at least {len(TASTES)}, one per group")


def _pick_prompts(random: _Random, texts: _Texts, count: int) -> list[_Prompt]:
    """Pick `count` different questions, the topics taking turns, each answered once in every style."""
    pools: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for topic, subjects in texts.topics.items():
        pools[topic] = [(question, subject) for subject in subjects for question in texts.questions]
        random.shuffle(pools[topic])
    names = list(pools)
    prompts = []
    for position in range(count):
        turn, topic = position // len(names), names[position % len(names)]
        question, subject = pools[topic][turn]
        in_topic = len(range(names.index(topic), count, len(names)))
        part: SplitName = TEST if turn < round(TEST_SHARE * in_topic) else TRAIN
        answers = {name: _fill(random.pick(variants), subject) for name, variants in texts.styles.items()}
        prompts.append(_Prompt(position, question.format(**subject), topic, part, answers))
    return prompts


def _fill(template: str, subject: dict[str, str]) -> str:
    """Put a subject's phrases into a template; a slot with a capital letter starts a sentence."""
    capitals = {slot.capitalize(): phrase[0].upper() + phrase[1:] for slot, phrase in subject.items()}
    return template.format(**subject, **capitals)


def _pools(prompts: list[_Prompt], part: SplitName, group: str, texts: _Texts) -> tuple[list[_Prompt], list[_Prompt]]:
    """Prompts of one split on the group's home topics, and on those of its opposite."""
    homes = dict(zip(texts.topics, cycle(TASTES), strict=False))  # the groups take turns
    here = [prompt for prompt in prompts if prompt.part == part]
    return [p for p in here if homes[p.topic] == group], [p for p in here if homes[p.topic] == OPPOSITE[group]]


def _assign(random: _Random, home: list[_Prompt], away: list[_Prompt], count: int) -> list[_Prompt]:
    """Pick `count` different prompts for one annotator."""
    taken: dict[int, _Prompt] = {}
    while len(taken) < count:
        prompt = random.pick(home if random.happens(HOME_SHARE) else away)
        taken.setdefault(prompt.position, prompt)
    return list(taken.values())


def _ratings(style: str) -> dict[str, int]:
    """Return each group's points for a style: 6 for what it likes best, 1 for what it likes least."""
    return {group: len(ranking) - ranking.index(style) for group, ranking in TASTES.items()}


def _choose(random: _Random, group: str) -> tuple[str, str]:
    """Show two different styles to a member of the group; returns (chosen, rejected).

    P(better-ranked style is chosen) = σ(SHARPNESS · ranks apart), the Bradley-Terry model.
    """
    ranking = TASTES[group]
    first = random.index(len(ranking))
    second = (first + 1 + random.index(len(ranking) - 1)) % len(ranking)
    better, worse = min(first, second), max(first, second)
    if not random.happens(1 / (1 + math.exp(-SHARPNESS * (worse - better)))):
        better, worse = worse, better
    return ranking[better], ranking[worse]
