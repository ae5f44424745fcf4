"""Ten thousand mutated rows: each is read, or refused with its file, line and field."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.columns import ColumnChoices
from micropref.pipeline.sources.reader import read_source

ROWS_PER_SHAPE = 2_500
ROWS_STOPPED_AT = 100
MESSAGES = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "This."}]
SHAPES: dict[str, dict[str, Any]] = {
    "preference": {
        "prompt": MESSAGES[:1],
        "chosen": MESSAGES,
        "rejected": [MESSAGES[0], {"role": "assistant", "content": [{"type": "text", "text": "That."}]}],
        "attribute": "style",
        "context": "be brief",
        "user": 7,
        "margin": 0.5,
    },
    "hh": {
        "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
        "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
    },
    "ratings": {"prompt": "p", "response": "A", "help": 3, "style": 1.5, "safe": None, "user": "ann"},
    "reversals": {
        "prompt": "p",
        "response_a": "A",
        "response_b": "B",
        "criteria_x": "short",
        "criteria_y": "long",
        "category_x": "x",
        "category_y": "y",
    },
}
OTHER_ROW = {"ratings": {"response": "B", "help": 1}}
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    10**400,
    1e999,
    float("nan"),
    "",
    " \n",
    "text\u2028\x00",
    "\ud800",
    "5",
    [],
    {},
    [[]],
    [None],
    MESSAGES,
    MESSAGES[::-1],
    [{"role": "user"}],
    [{"role": 3, "content": []}],
    "\n\nHuman: a\n\nAssistant:",
)
FAULT = re.compile(r"(field ('.*'|\".*\")|the whole row): found .+; expected .+")


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in inside for place in [(value, key), *places(child)]]


def replace_value(row: dict[str, Any], dice: random.Random) -> bytes:
    container, key = dice.choice(places(row))
    container[key] = dice.choice(VALUES)
    return json.dumps(row).encode()


def remove_value(row: dict[str, Any], dice: random.Random) -> bytes:
    container, key = dice.choice(places(row))
    del container[key]
    return json.dumps(row, ensure_ascii=False).encode()


def swap_values(row: dict[str, Any], dice: random.Random) -> bytes:
    first, second = dice.choice(list(row)), dice.choice(list(row))
    row[first], row[second] = row[second], row[first]
    return json.dumps(row).encode()


def rename_field(row: dict[str, Any], dice: random.Random) -> bytes:
    name = dice.choice(list(row))
    row[dice.choice(["", "a\nb", "\"'", "\udfff", "prompt", "help"])] = row.pop(name)
    return json.dumps(row).encode()


def cut(row: dict[str, Any], dice: random.Random) -> bytes:
    line = json.dumps(row).encode()
    return line[: dice.randrange(1, len(line))]


def change_bytes(row: dict[str, Any], dice: random.Random) -> bytes:
    line = bytearray(json.dumps(row).encode())
    for _ in range(dice.randint(1, 4)):
        line[dice.randrange(len(line))] = dice.choice(b'{}[]",:\\u0\x00\x85\xff\xed' + bytes([dice.randrange(256)]))
    return bytes(line).replace(b"\n", b" ")


def repeat_piece(row: dict[str, Any], dice: random.Random) -> bytes:
    line = json.dumps(row).encode()
    start = dice.randrange(len(line))
    end = dice.randrange(start, len(line))
    return line[:end] + line[start:end] * dice.choice([1, 2, 500]) + line[end:]


MUTATIONS: tuple[Callable[[dict[str, Any], random.Random], bytes], ...] = (
    replace_value,
    replace_value,
    replace_value,
    remove_value,
    swap_values,
    rename_field,
    cut,
    change_bytes,
    repeat_piece,
)


@pytest.mark.parametrize("shape", SHAPES)
def test_mutated_rows_are_read_or_refused_by_name(tmp_path: Path, shape: str) -> None:
    dice = random.Random(f"rows of {shape}")
    row = SHAPES[shape]
    head = "".join(json.dumps(row | change) + "\n" for change in ({}, OTHER_ROW.get(shape, {}))).encode()
    mutated = [dice.choice(MUTATIONS)(json.loads(json.dumps(row)), dice) for _ in range(ROWS_PER_SHAPE)]
    file = tmp_path / "data.jsonl"
    file.write_bytes(head + b"\n".join(mutated))

    # Mutated numbers are on no scale, and mutated names are columns of their own.
    choices = ColumnChoices(attributes=("help", "style") if shape == "ratings" else None)
    source = read_source(file, on_bad="skip", choices=choices)
    assert source.rows == ROWS_PER_SHAPE + 2 - sum(line.isspace() for line in mutated)
    assert sum(source.dropped.values()) == len(source.rejects)
    malformed = [reject for reject in source.rejects if reject.reason.startswith("malformed: ")]
    assert ROWS_PER_SHAPE // 3 < len(malformed) == source.dropped["malformed"] < ROWS_PER_SHAPE
    assert all(reject.origin.path == str(file) for reject in malformed)
    for reject in malformed:
        assert FAULT.fullmatch(reject.reason.removeprefix("malformed: ")), reject.reason

    # Alone behind the head, the same rows stop the reading. Fewer of them: every one costs a file.
    for line in dice.sample(mutated, ROWS_STOPPED_AT):
        file.write_bytes(head + line)
        try:
            read_source(file, choices=choices)
        except BadInput as refusal:
            place, _, message = str(refusal).partition(": ")
            assert place == f"{file}:3"
            assert FAULT.fullmatch(message.removesuffix("; fix the row, or skip such rows with `on_bad` skip"))
