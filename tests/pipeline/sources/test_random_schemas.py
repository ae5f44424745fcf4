"""Random columns, types, nesting, nulls: every row is a pair, a rating, a drop or a reject; the counts add up."""

from __future__ import annotations

import csv
import json
import random
import re
import string
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.known_names import ROLE_NAMES
from micropref.pipeline.sources.pairs import PreferencePair
from micropref.pipeline.sources.reader import Source, read_source

QUICK, SLOW = 300, 10_000
MOST_ROWS = 30
SHAPES = {
    "preference": ("chosen", "rejected"),
    "ratings": ("prompt", "response", "helpfulness"),
    "reversals": ("prompt", "response_a", "response_b", "criteria_x", "criteria_y", "category_x", "category_y"),
    "hh": ("chosen", "rejected"),
}
EXTRAS = (
    *("prompt", "user", "context", "attribute", "margin", "chosen_ratings", "depth", "safe", "price", "num_tokens"),
    *("timestamp", "images", "tags", "meta", "id", "", "User ID", "criterion", "persona", "prompt_vector"),
)
FAULT = re.compile(r"malformed: (field ('.*'|\".*\")|the whole row): found .+; expected .+", flags=re.DOTALL)
KINDS = {
    "malformed",
    "identical responses",
    "both responses empty",
    "only response of its prompt",
    "tie",
    "not rated",
}
Dice = random.Random


def words(dice: Dice) -> str:
    return " ".join(
        "".join(dice.choices(string.ascii_lowercase, k=dice.randint(1, 6))) for _ in range(dice.randint(1, 3))
    )


def turns(dice: Dice) -> list[dict[str, Any]]:
    """Return messages, most of them as they should be."""
    roles = dice.choice(
        [["assistant"], ["user", "assistant"], ["user", "user"], ["system", "user"], [], ["judge"], [None]]
    )
    contents: list[Callable[[], Any]] = [
        lambda: words(dice),
        lambda: [{"type": "text", "text": words(dice)}],
        lambda: [{"type": "image", "url": "a.png"}],
        lambda: dice.choice(["", None, 5]),
    ]
    return [{"role": role, "content": dice.choices(contents, weights=[9, 1, 1, 1])[0]()} for role in roles]


VALUES: dict[str, Callable[[Dice], Any]] = {
    "text": words,
    "empty": lambda dice: dice.choice(["", " ", "\n"]),
    "few texts": lambda dice: dice.choice(["a", "b"]),
    "messages": turns,
    "transcript": lambda dice: f"\n\nHuman: {dice.choice('aaab')}\n\nAssistant: {words(dice)}",
    "integer": lambda dice: dice.randint(-3, 5),
    "rating": lambda dice: dice.randint(1, 3),
    "large": lambda dice: dice.choice([10**6, 10**30, 2**53 + 1]),
    "float": lambda dice: dice.choice([0.5, 1.0, -2.25, 12.0]),
    "not finite": lambda dice: dice.choice([float("nan"), float("inf"), 10**400]),
    "boolean": lambda dice: dice.random() < 0.5,
    "digits": lambda dice: dice.choice(["4", "3.5", " 2 ", "1e1", "N/A", "nan"]),
    "list": lambda dice: [dice.choice([1, "a", None, [2]]) for _ in range(dice.randint(0, 3))],
    "object": lambda dice: {dice.choice("ab"): dice.choice([1, "4", None, {"c": []}])},
    "null": lambda dice: None,
}


def random_rows(dice: Dice) -> tuple[str, list[dict[str, Any]]]:
    """Return a shape and rows whose columns mostly hold one kind of value each, that of the shape more often."""
    shape = dice.choice(list(SHAPES))
    usual = {"preference": "text", "hh": "transcript", "ratings": "text", "reversals": "text"}[shape]
    asked = ["prompt"] if shape == "preference" and dice.random() < 0.8 else []
    columns = list(dict.fromkeys([*asked, *SHAPES[shape], *dice.sample(EXTRAS, dice.randint(0, 6))]))
    spelled = {name: dice.choice([name] * 8 + list(ROLE_NAMES.get(name, ())) + [name.title()]) for name in columns}
    kinds = {
        name: dice.choice([usual] * 30 + ["few texts", *VALUES])
        if name in (*asked, *SHAPES[shape])
        else dice.choice(list(VALUES))
        for name in columns
    }
    if shape == "ratings":
        kinds |= {
            "prompt": "few texts",
            "helpfulness": dice.choice(["rating", "digits", "float", "boolean", "integer"]),
        }
    noise, holes = dice.choice([0, 0.05, 0.3]), dice.choice([0, 0.1, 0.5])
    rows = []
    for _ in range(dice.randint(1, MOST_ROWS)):
        there = [name for name in columns if name in SHAPES[shape] or dice.random() >= holes]
        row = {
            name: VALUES[dice.choice(list(VALUES)) if dice.random() < noise else kinds[name]](dice) for name in there
        }
        rows.append({spelled[name]: value for name, value in row.items()})
    return shape, rows


def write(folder: Path, rows: list[dict[str, Any]], dice: Dice) -> Path:
    """Write rows as a kind of file that can hold them."""
    kind = dice.choice(["jsonl", "jsonl", "csv", "parquet"])
    names = list(dict.fromkeys(name for row in rows for name in row))
    path = folder / f"rows.{kind}"
    if kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        return path
    if kind == "parquet":
        try:
            columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
            for name, column in columns.items():
                if pa.types.is_integer(column.type) and dice.random() < 0.3:
                    columns[name] = pa.array(
                        [None if one is None else Decimal(one) for one in column.to_pylist()], pa.decimal128(30, 2)
                    )
            pq.write_table(pa.table(columns), path)
        except (pa.ArrowException, OverflowError):  # columns of mixed types are JSON's
            path = folder / "rows.jsonl"
        else:
            return path
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def check(source: Source, rows: list[dict[str, Any]]) -> None:
    """Assert that nothing of a source is lost without a word."""
    assert source.rows == len(rows)
    assert Counter(one.kind for one in source.rejects) == source.dropped
    assert set(source.dropped) <= KINDS
    malformed = {one.origin.line for one in source.rejects if one.kind == "malformed"}
    assert len(malformed) == source.dropped.get("malformed", 0)
    assert all(FAULT.fullmatch(one.reason) for one in source.rejects if one.kind == "malformed")
    read = {one.origin.line for one in [*source.pairs, *source.ratings]}
    left_out = {one.origin.line for one in source.rejects}
    assert len(read | left_out) == source.rows
    assert not read & malformed
    if source.shape in ("preference", "hh"):
        assert len(source.pairs) + len(source.rejects) == source.rows
    if source.shape == "reversals":
        assert len(source.pairs) + 2 * len(source.rejects) == 2 * source.rows
    if source.shape == "ratings":
        assert len({one.origin.line for one in source.ratings}) == source.rows - len(malformed) - source.dropped.get(
            "not rated", 0
        )
    # Every column is named, with how many rows have it.
    assert [one.column for one in source.reading.columns] == list(dict.fromkeys(name for row in rows for name in row))
    assert all(one.reason and one.type for one in source.reading.columns)
    assert_labels_are_read(source)


def assert_labels_are_read(source: Source) -> None:
    """Assert that labels stand in the pairs exactly where their role has a column."""
    roles = {one.role for one in source.reading.columns}
    labelled: dict[str, Callable[[PreferencePair], Any]] = {
        "user": lambda pair: pair.user,
        "context": lambda pair: pair.context,
        "margin": lambda pair: pair.margin,
    }
    for role, of in labelled.items():
        if role not in roles and not (source.shape == "reversals" and role == "context"):
            assert all(of(pair) is None for pair in source.pairs)


def run(folder: Path, seed: int) -> str:
    """Read random rows; return what became of them: the shape, or why the file was refused."""
    dice = random.Random(seed)
    _, rows = random_rows(dice)
    path = write(folder, rows, dice)
    try:
        source = read_source(path, on_bad="skip")
    except BadInput as refusal:
        message = str(refusal)
        assert "\n" not in message, message
        assert message.startswith(str(path)), message
        return "refused"
    check(source, rows)
    stopped = None
    try:
        read_source(path, on_bad="stop")
    except BadInput as refusal:
        stopped = str(refusal)
    malformed = [one for one in source.rejects if one.kind == "malformed"]
    assert (stopped is None) == (not malformed), stopped
    if stopped is not None:
        assert stopped.startswith(f"{min(malformed, key=lambda one: one.origin.line).origin}: "), stopped
    return source.shape


@pytest.mark.parametrize("part", range(4))
def test_nothing_is_lost_of_random_schemas(tmp_path: Path, part: int) -> None:
    found = Counter(run(tmp_path, seed) for seed in range(part * QUICK // 4, (part + 1) * QUICK // 4))
    assert found["refused"] < 2 * sum(found.values()) // 3
    assert len(found) >= 3


@pytest.mark.slow
def test_nothing_is_lost_of_many_random_schemas(tmp_path: Path) -> None:
    found = Counter(run(tmp_path, seed) for seed in range(QUICK, QUICK + SLOW))
    assert found["refused"] < 2 * SLOW // 3
    assert set(found) == {"refused", *SHAPES}
