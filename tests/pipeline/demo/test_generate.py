"""The generated demo data: its shape, its groups, its texts, and that a seed repeats it byte for byte."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.demo import generate as generate_module
from micropref.pipeline.demo.generate import SHARPNESS, TASTES, DemoData, generate, write

DIGESTS = {
    "train.jsonl": "17e3a06a77489660229c95b87e0347e562ee512395e37fb71291e91952af5369",
    "test.jsonl": "98d312f415bd795f54dca6e7c3b331e149331379b775fa188f97ebeaa515a0f0",
}
DIGESTS_OF_CHOICES = {
    "train.jsonl": "850b3e37975a25ed08d584e8e7c521774cf3a581fb9c0947ae9732d2da517829",
    "test.jsonl": "3a070cc686ac786ef2d302ed8acbaa624517769a875b8203780d4a648f9b1f41",
}
"""Of the rows without ratings: what people chose, as it was fixed before any method was tried on it."""
CHOICE = ["prompt", "chosen", "rejected", "attribute", "context", "user"]


@pytest.fixture(scope="module")
def data() -> DemoData:
    return generate()


@pytest.fixture(scope="module")
def rows(data: DemoData) -> list[dict[str, Any]]:
    return data.train + data.test


@pytest.fixture(scope="module")
def texts() -> dict[str, Any]:
    path = Path(generate_module.__file__).with_name("texts.json")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def style_of(texts: dict[str, Any]) -> dict[str, str]:
    """Every response the sentences can make → its style."""
    found: dict[str, str] = {}
    for subject in (subject for subjects in texts["topics"].values() for subject in subjects):
        for style, templates in texts["styles"].items():
            for template in templates:
                text = template
                for slot, phrase in subject.items():
                    text = text.replace("{" + slot + "}", phrase)
                    text = text.replace("{" + slot.capitalize() + "}", phrase[0].upper() + phrase[1:])
                assert found.setdefault(text, style) == style
    return found


def test_rows_are_explicit_preferences(rows: list[dict[str, Any]], style_of: dict[str, str]) -> None:
    assert all(list(row) == [*CHOICE, "chosen_ratings", "rejected_ratings"] for row in rows)
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert all(style_of[row["chosen"]] != style_of[row["rejected"]] for row in rows)


def test_counts(data: DemoData, rows: list[dict[str, Any]], style_of: dict[str, str]) -> None:
    assert (len(data.train), len(data.test)) == (9600, 2400)
    assert data.groups == ("brevity", "depth", "formality", "playfulness")
    assert len({row["prompt"] for row in rows}) == 600
    answers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        answers[row["prompt"]] |= {row["chosen"], row["rejected"]}
    assert all(len({style_of[text] for text in found}) == len(found) for found in answers.values())
    assert 3500 <= sum(len(found) for found in answers.values()) <= 3600
    assert len({style_of[row["chosen"]] for row in rows}) == 6


def test_splits_share_no_prompt_and_no_wording(data: DemoData) -> None:
    train, test = ({row["prompt"] for row in part} for part in (data.train, data.test))
    assert not train & test
    assert len(test) == 120
    for group in data.groups:
        seen = {row["context"] for row in data.train if row["attribute"] == group}
        unseen = {row["context"] for row in data.test if row["attribute"] == group}
        assert len(seen) >= 6
        assert len(unseen) >= 2
        assert not seen & unseen
    group_of = {(row["context"], row["attribute"]) for row in data.train + data.test}
    assert len(group_of) == len({context for context, _ in group_of})


def test_annotators_belong_to_one_group_and_choose_often(data: DemoData) -> None:
    groups: dict[str, set[str]] = defaultdict(set)
    for row in data.train + data.test:
        groups[row["user"]].add(row["attribute"])
    assert len(groups) == 1200
    assert Counter(next(iter(found)) for found in groups.values()) == dict.fromkeys(data.groups, 300)
    assert all(len(found) == 1 for found in groups.values())
    assert set(Counter(row["user"] for row in data.train).values()) == {8}
    assert set(Counter(row["user"] for row in data.test).values()) == {2}
    asked = Counter((row["user"], row["prompt"]) for row in data.train + data.test)
    assert max(asked.values()) == 1


def test_each_topic_has_a_majority_group(data: DemoData, texts: dict[str, Any]) -> None:
    topic_of = {
        question.replace("{goal}", subject["goal"]): topic
        for topic, subjects in texts["topics"].items()
        for subject in subjects
        for question in texts["questions"]
    }
    for part in (data.train, data.test):
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        for row in part:
            votes[topic_of[row["prompt"]]][row["attribute"]] += 1
        assert len(votes) == 12
        shares = [max(count.values()) / count.total() for count in votes.values()]
        assert all(0.55 < share < 0.78 for share in shares)
        assert sum(shares) / len(shares) == pytest.approx(2 / 3, abs=0.03)
        assert Counter(count.most_common(1)[0][0] for count in votes.values()) == dict.fromkeys(data.groups, 3)


def test_groups_choose_by_their_taste_with_the_stated_noise(
    rows: list[dict[str, Any]], style_of: dict[str, str]
) -> None:
    kept: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        ranking = TASTES[row["attribute"]]
        apart = ranking.index(style_of[row["rejected"]]) - ranking.index(style_of[row["chosen"]])
        kept[abs(apart)].append(apart > 0)
    for apart, agreed in kept.items():
        expected = 1 / (1 + math.exp(-SHARPNESS * apart))
        assert sum(agreed) / len(agreed) == pytest.approx(expected, abs=0.02)
    assert 0.88 < sum(map(sum, kept.values())) / len(rows) < 0.92


def test_no_ranking_of_styles_suits_everybody(rows: list[dict[str, Any]], style_of: dict[str, str]) -> None:
    wins = Counter((style_of[row["chosen"]], style_of[row["rejected"]]) for row in rows)
    best = max(
        sum(wins[a, b] for place, a in enumerate(order) for b in order[place + 1 :])
        for order in permutations(TASTES["brevity"])
    )
    assert 0.5 <= best / len(rows) < 0.54


def test_texts_read_as_sentences(rows: list[dict[str, Any]]) -> None:
    for text in {row[field] for row in rows for field in ("prompt", "chosen", "rejected", "context")}:
        assert not re.search(r"[{}]|\s\s|\s[.,;:!?]|^\s|\s$", text), text
        assert text[0].isupper(), text
        assert text[-1] in ".!?", text
        assert not re.search(r"[.!?] [a-z]", text), text
        assert text.isascii(), text


def test_ratings_are_the_places_in_each_groups_ranking(rows: list[dict[str, Any]], style_of: dict[str, str]) -> None:
    for row in rows:
        for side in ("chosen", "rejected"):
            style = style_of[row[side]]
            assert row[f"{side}_ratings"] == {group: 6 - ranking.index(style) for group, ranking in TASTES.items()}


def digests(paths: tuple[Path, ...]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_seed_repeats_the_files_byte_for_byte(data: DemoData, tmp_path: Path) -> None:
    paths = write(data, tmp_path / "new" / "folder")
    assert digests(paths) == DIGESTS
    choices = (([{name: row[name] for name in CHOICE} for row in part]) for part in (data.train, data.test))
    assert digests(write(DemoData(*choices, data.groups), tmp_path / "choices")) == DIGESTS_OF_CHOICES
    assert [json.loads(line) for line in paths[1].read_text(encoding="utf-8").splitlines()] == data.test


def test_another_seed_gives_other_choices() -> None:
    assert generate(1, prompts=120, annotators=8) != generate(2, prompts=120, annotators=8)
    assert len(generate(1, prompts=120, annotators=8).train) == 64


@pytest.mark.parametrize(
    ("prompts", "annotators", "message"),
    [
        (119, 8, "demo data: prompts is 119, expected 120 to 1200"),
        (1201, 8, "demo data: prompts is 1201, expected 120 to 1200"),
        (120, 3, "demo data: annotators is 3, expected at least 4, one per group"),
    ],
)
def test_counts_out_of_range_are_refused(prompts: int, annotators: int, message: str) -> None:
    with pytest.raises(BadInput) as raised:
        generate(prompts=prompts, annotators=annotators)
    assert str(raised.value) == message
