"""Sentences that say by which criterion a pair was labelled, for sources that name the attribute only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from micropref.cache.errors import BadInput
from micropref.cache.keys import canonical_json, sha256_hex
from micropref.pipeline.sources.jsonl import lines, strict_json
from micropref.pipeline.sources.pairs import RECENT_TEXTS, PreferencePair, Text, prompt_id
from micropref.pipeline.sources.rows import RowError, describe, is_blank

EXPECTED = "a JSON object of attribute → a sentence or a list of sentences"
SHIPPED = {"helpsteer2": Path(__file__).with_name("helpsteer2_contexts.json")}
"""Files that come with the package, by the name that stands for their path: one sentence for each of a data set's
attributes, in our own words (table 6 of the paper has others)."""


def contexts_file(wanted: str | Path) -> Path:
    """Return the file that a path or a name of SHIPPED means; a file of that name goes first."""
    path = Path(wanted)
    return path if path.exists() else SHIPPED.get(str(wanted), path)


def read_contexts(path: Path) -> dict[str, tuple[str, ...]]:
    """Return attribute → its wordings, one or several, from a JSON file. Raises BadInput."""
    try:
        document = strict_json(b"".join(line for _, line in lines(path)).decode())
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: found invalid UTF-8 at byte {error.start + 1}; expected UTF-8 text") from None
    except RowError as error:
        where = "" if error.field is None else f" field {error.field!r}:"
        raise BadInput(f"{path}:{where} found {error.found}; expected {EXPECTED}") from None
    if not isinstance(document, dict) or not document:
        found = "an empty object" if document == {} else describe(document)
        raise BadInput(f"{path}: found {found}; expected {EXPECTED}")
    return {attribute: _wordings(path, attribute, value) for attribute, value in document.items()}


def with_contexts(pairs: Iterable[PreferencePair], contexts: Mapping[str, tuple[str, ...]]) -> list[PreferencePair]:
    """Return the pairs with a context wherever they had none and their attribute has one.

    Of several wordings all pairs of one prompt and attribute get the same.
    """
    return [_with_context(pair, contexts) for pair in pairs]


def _with_context(pair: PreferencePair, contexts: Mapping[str, tuple[str, ...]]) -> PreferencePair:
    if pair.context is not None or pair.attribute is None or pair.attribute not in contexts:
        return pair
    wordings = contexts[pair.attribute]
    return replace(pair, context=wordings[_wording(pair.prompt, pair.attribute) % len(wordings)])


@lru_cache(maxsize=RECENT_TEXTS)
def _wording(prompt: Text, attribute: str) -> int:
    # Not the prompt's own hash: the splits depend on that, and would each see a part of the wordings.
    return int(sha256_hex(canonical_json(["context", prompt_id(prompt), attribute])), 16)


def _wordings(path: Path, attribute: str, value: Any) -> tuple[str, ...]:
    wordings = tuple(value) if isinstance(value, list) else (value,)
    if is_blank(attribute):
        raise BadInput(f"{path}: found an attribute without a name; expected {EXPECTED}")
    for wording in wordings or (value,):
        if not isinstance(wording, str) or is_blank(wording):
            raise BadInput(f"{path}: field {attribute!r}: found {describe(wording)}; expected {EXPECTED}")
    return wordings
