"""Text that users wrote stays text: a `<|im_start|>` or `[SEP]` inside it becomes no control token.

The texts of a pair are given to the template with stand-ins for such strings, so that what is left of them in the
rendered text is the template's own. A copy of the tokenizer then reads the users' as ordinary text. Only texts that
hold such a string take this way; all others are tokenized as they always were, and the two ways agree on them.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from transformers import AddedToken

from micropref.pipeline.sources.pairs import Text, as_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\uf8e0"
"""Begins a stand-in: this character, then the number of the string in two private characters."""
_STAND_IN = re.compile(f"{MARK}([\ue000-\uefff])([\ue000-\uefff])")
_BASE = 0x1000
_TURN_MARK = re.compile(r"<[|\uff5c][^|\uff5c\s]+[|\uff5c]>")
"""Form of tokens that chat templates write around turns; some tokenizers do not list them as special."""


class ControlTokens:
    """The control tokens of one tokenizer, and how texts are read in which they are text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a fast tokenizer: its special tokens, and those that its chat template writes around turns."""
        self._tokenizer = tokenizer
        self._backend: Any = tokenizer.backend_tokenizer
        source = json.dumps(tokenizer.chat_template, ensure_ascii=False) if tokenizer.chat_template else ""
        named = set(tokenizer.all_special_tokens)
        added: dict[int, AddedToken] = self._backend.get_added_tokens_decoder()
        self._added = {
            token.content: (number, token)
            for number, token in added.items()
            if token.content
            and (
                token.special
                or token.content in named
                or (_TURN_MARK.fullmatch(token.content) is not None and token.content in source)
            )
        }
        self._strings = [*sorted(self._added), MARK]
        self._number = {string: number for number, string in enumerate(self._strings)}
        self._lengths = sorted({len(string) for string in self._strings}, reverse=True)
        self._starts = re.compile("[" + re.escape("".join(sorted({string[0] for string in self._strings}))) + "]")
        normalizer = self._backend.normalizer
        folded = normalizer is not None and any(token.normalized for _, token in self._added.values())
        self._normalizer = normalizer if folded else None

    def inside(self, text: Text) -> bool:
        """Say whether a text holds the string of a control token."""
        parts = (text,) if isinstance(text, str) else (part for one in text for part in (one.content, one.more))
        return any(self._inside(part) for part in parts if part)

    def stood_in(self, text: Text) -> Text:
        """Return a text with a stand-in for every string of a control token."""
        if isinstance(text, str):
            return self._stood_in(text)
        return tuple(
            replace(one, content=self._stood_in(one.content), more=as_json(self._each(one.parts)) if one.more else "")
            for one in text
        )

    def encode(self, texts: Sequence[Any], *, add_special_tokens: bool) -> list[tuple[list[int], list[int]]]:
        """Return ids and segments of rendered texts (or pairs of segments) with stand-ins, which become text again."""
        if not texts:
            return []
        asked = [self._asked(text) if isinstance(text, str) else tuple(map(self._asked, text)) for text in texts]
        encoded = self._plain.encode_batch(asked, add_special_tokens=add_special_tokens)
        return [([self._own.get(one, one) for one in row.ids], list(row.type_ids)) for row in encoded]

    def _inside(self, text: str) -> bool:
        if self._finds(text):
            return True
        return self._normalizer is not None and self._finds(self._normalizer.normalize_str(text))

    def _finds(self, text: str) -> bool:
        return any(self._at(text, found.start()) is not None for found in self._starts.finditer(text))

    def _at(self, text: str, start: int) -> str | None:
        """Return the longest control string that begins at a place."""
        pieces = (text[start : start + length] for length in self._lengths)
        return next((piece for piece in pieces if piece in self._number), None)

    def _pieces(self, text: str) -> Iterable[tuple[str, str | None]]:
        """Yield (the text before, control string) from left to right, None behind the last."""
        end = 0
        for found in self._starts.finditer(text):
            if found.start() >= end and (string := self._at(text, found.start())) is not None:
                yield text[end : found.start()], string
                end = found.start() + len(string)
        yield text[end:], None

    def _stood_in(self, text: str) -> str:
        return "".join(
            before if string is None else f"{before}{MARK}{_letters(self._number[string])}"
            for before, string in self._pieces(text)
        )

    def _each(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._stood_in(value)
        if isinstance(value, dict):
            return {self._stood_in(name): self._each(item) for name, item in value.items()}
        return [self._each(item) for item in value] if isinstance(value, list) else value

    def _asked(self, text: str) -> str:
        """Return a rendered text for the copy: the template's control tokens by name, the users' as they wrote them."""
        pieces = (f"{before}{self._names.get(string or '', string or '')}" for before, string in self._pieces(text))
        return _STAND_IN.sub(lambda found: self._strings[_number(found[1], found[2])], "".join(pieces))

    @cached_property
    def _names(self) -> dict[str, str]:
        """Return what stands for the template's control tokens in the copy: nobody can write these."""
        secret = secrets.token_hex(8)
        return {string: f"\uf8e1{secret}{number}\uf8e1" for string, number in self._number.items() if string != MARK}

    @cached_property
    def _plain(self) -> Any:
        """Return the copy: it reads control strings as text, and the names as tokens."""
        known = json.loads(self._backend.to_str())
        for token in known["added_tokens"]:
            token["special"] = token["special"] or token["content"] in self._added
        copy = type(self._backend).from_str(json.dumps(known))
        copy.no_truncation()
        copy.no_padding()
        copy.encode_special_tokens = True
        copy.add_tokens(
            [
                AddedToken(
                    self._names[string],
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=False,
                    special=False,
                )
                for string, (_, token) in self._added.items()
            ]
        )
        return copy

    @cached_property
    def _own(self) -> dict[int, int]:
        """Return the id of each name in the copy → the control token's."""
        copy, names = self._plain, self._names
        return {int(copy.token_to_id(names[string]) or 0): number for string, (number, _) in self._added.items()}


def _letters(number: int) -> str:
    return chr(0xE000 + number // _BASE) + chr(0xE000 + number % _BASE)


def _number(high: str, low: str) -> int:
    return (ord(high) - 0xE000) * _BASE + ord(low) - 0xE000
