"""Mutated rows of real schemas, read and rendered: no traceback, and nothing lost without a word.

MICROPREF_FUZZ_ROWS is how many rows the slow test takes; MICROPREF_FUZZ_DATA a folder of .jsonl or .jsonl.gz files
whose rows it mutates in place of the invented ones.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.pairs import PreferencePair, Text, as_json
from micropref.pipeline.sources.reader import Source, read_source
from micropref.pipeline.text.tokenizer import PairTokenizer, Tokenizing
from tests.pipeline.sources.test_reader_fuzz import MUTATIONS
from tests.support.backbones import byte_tokenizer
from tests.support.conversations import SCHEMAS, Row, gently

QUICK, SLOW = 2_000, 100_000
HARSH = 0.25
"""Share of rows that are damaged rather than changed."""
CHUNK = 500
WRITES_ALL = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.reasoning_content %}{{ m.reasoning_content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def mutated(row: Row, dice: random.Random) -> bytes:
    if dice.random() < HARSH:
        return dice.choice(MUTATIONS)(json.loads(json.dumps(row)), dice).replace(b"\n", b" ")
    return gently(row, dice)


def check_read(file: Path, lines: list[bytes], good: int) -> tuple[Source, Counter[str]]:
    """Read mutated lines behind good ones; return what was read, and how many of them were accepted."""
    file.write_bytes(b"\n".join(lines))
    source = read_source(file, on_bad="skip")
    there = {number for number, line in enumerate(lines, 1) if not line.isspace() and line}
    pairs = {pair.origin.line for pair in source.pairs}
    rated = {rating.origin.line for rating in source.ratings}
    left = {reject.origin.line for reject in source.rejects}
    assert there == (pairs | rated | left) & there, f"lost: {sorted(there - pairs - rated - left)[:5]}"
    assert source.rows == len(there)
    assert sum(source.dropped.values()) == len(source.rejects)
    assert all("\n" not in reject.reason for reject in source.rejects)
    accepted = {number for number in pairs | rated if number > good}
    return source, Counter(accepted=len(accepted), rows=len(there) - good)


def said(text: Text) -> Iterator[str]:
    """Yield everything that a text says."""
    for one in (text,) if isinstance(text, str) else text:
        yield one if isinstance(one, str) else one.content
        for name, part in {}.items() if isinstance(one, str) else one.parts.items():
            if name == "reasoning_content":
                yield part
            elif name in ("tools", "tool_calls"):
                yield from (as_json(item) for item in part)


def check_rendered(
    tokenizers: list[PairTokenizer], pairs: list[PreferencePair], decode: Callable[[Any], str]
) -> Counter[str]:
    counts = Counter[str]()
    for tokenizer in tokenizers:
        for pair in pairs:
            try:
                found = tokenizer.encode([pair], "both")
            except BadInput as error:
                counts["refused"] += "\n" not in str(error) and str(error).startswith(str(pair.origin))
                continue
            counts["rendered"] += 1
            counts["overlong"] += bool(found.overlong[0])
            counts["special"] += bool(found.special[0])
            assert not found.lost
            for role, response in (("prompt", ""), ("chosen", pair.chosen), ("rejected", pair.rejected)):
                number = int(getattr(found, role)[0])
                if number >= 0 and not found.trimmed[0]:
                    text = decode(found.texts[number].ids)
                    assert all(piece in text for piece in (*said(pair.prompt), *said(response))), (pair.origin, role)
    assert counts["rendered"] + counts["refused"] == len(pairs) * len(tokenizers), "refused without a place"
    return counts


def run(folder: Path, schemas: dict[str, tuple[Row, ...]], count: int, rendered: int, seed: int = 0) -> Counter[str]:
    """Mutate `count` rows of these schemas; of every chunk of them so many pairs are rendered too."""
    inner = byte_tokenizer("llama", WRITES_ALL)
    tokenizers = [
        PairTokenizer(inner, Tokenizing(max_length=30_000), segments=False),
        PairTokenizer(inner, Tokenizing(max_length=30_000, template="plain"), segments=False),
    ]
    total = Counter[str]()
    for name, good in schemas.items():
        dice = random.Random(f"{name} {seed}")
        left = count // len(schemas)
        while left > 0:
            head = [json.dumps(row).encode() for row in good[:2]]
            lines = head + [mutated(dice.choice(good), dice) for _ in range(min(left, CHUNK))]
            left -= CHUNK
            source, counts = check_read(folder / "rows.jsonl", lines, len(head))
            total += counts
            some = dice.sample(source.pairs, min(rendered, len(source.pairs)))
            total += check_rendered(tokenizers, some, inner.decode)
    return total


def test_mutated_rows_become_pairs_or_are_named(tmp_path: Path) -> None:
    total = run(tmp_path, SCHEMAS, QUICK, rendered=30)
    assert total["accepted"] * 3 > total["rows"] > QUICK * 0.9
    assert total["rendered"] > 700
    assert total["special"] > 30


@pytest.mark.slow
def test_many_mutated_rows_become_pairs_or_are_named(tmp_path: Path) -> None:
    count = int(os.environ.get("MICROPREF_FUZZ_ROWS", SLOW))
    data = os.environ.get("MICROPREF_FUZZ_DATA")
    total = run(tmp_path, SCHEMAS if data is None else rows_of(Path(data)), count, rendered=150, seed=1)
    print(dict(total))
    assert total["accepted"] * 3 > total["rows"] > count * 0.9


def rows_of(folder: Path) -> dict[str, tuple[Row, ...]]:
    """Return the first rows of every file of a folder."""
    found = {}
    for file in sorted(folder.rglob("*.jsonl*")):
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            found[re.sub(r"\W", "-", str(file))] = tuple(json.loads(line) for line in islice(opened, 300))
    return found
