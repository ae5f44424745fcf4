"""Rendered texts to token ids: what the tokenizer puts in front once, control tokens of users as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from micropref.pipeline.text.control_tokens import MARK, ControlTokens
from micropref.pipeline.text.templates import Rendered
from micropref.pipeline.text.text_recipe import added_around
from micropref.pipeline.text.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenIds:
    """Tokenizes what templates render, for one backbone."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, controls: ControlTokens | None, *, segments: bool, ending: bool
    ) -> None:
        """Take a fast tokenizer.

        `controls` where texts hold stand-ins; `segments`: an encoder's (prompt, response); `ending`: texts end as the
        tokenizer ends them by itself.
        """
        self._tokenizer, self._controls, self._segments = tokenizer, controls, segments
        self.prefix, behind = ((), ()) if segments else added_around(tokenizer)
        """Ids that go in front of every text, unless its template wrote them."""
        self.suffix = behind if ending else ()
        """Ids that go behind every text."""

    @cached_property
    def longest_token(self) -> int:
        """Return the characters of the longest token: no more of a text can be in one."""
        return max(map(len, self._tokenizer.get_vocab()), default=1)

    def starts(self, text: str) -> list[int]:
        """Return the character at which each token of a text begins, the text tokenized alone."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [int(start) for start, _ in encoded["offset_mapping"]]

    def __call__(self, texts: Sequence[Rendered]) -> list[Tokens]:
        """Return the tokens of texts of any length, in order, all singles in one call and all segments in another."""
        found: dict[int, Tokens] = {}
        guarded = [at for at, text in enumerate(texts) if self._controls is not None and marked(text)]
        if self._controls is not None and guarded:
            rows = self._controls.encode([texts[at] for at in guarded], add_special_tokens=self._segments)
            found.update(zip(guarded, self._as_tokens(*zip(*rows, strict=True)), strict=True))
        singles = [at for at, text in enumerate(texts) if at not in found and isinstance(text, str)]
        found.update(zip(singles, self._tokens_of([texts[at] for at in singles]), strict=True))
        doubles = [at for at, text in enumerate(texts) if at not in found and not isinstance(text, str)]
        found.update(
            zip(
                doubles,
                self._tokens_of([texts[at][0] for at in doubles], [texts[at][1] for at in doubles]),
                strict=True,
            )
        )
        return [found[at] for at in range(len(texts))]

    def beginning(self, rendered: Rendered) -> str:
        """Return the beginning-of-text token of a rendered text, "" where the tokenizer adds it by itself or none is.

        Clients take it off the texts they write, because most tokenizers put it in front again.
        """
        token = self._tokenizer.bos_token
        begins = token is not None and isinstance(rendered, str) and rendered.startswith(token)
        return str(token) if begins and not self.prefix else ""

    def written(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of texts as they are, the strings of control tokens being these tokens."""
        return list(self._tokens_of(texts))

    def _tokens_of(self, first: Sequence[Any], second: Sequence[Any] | None = None) -> Iterable[Tokens]:
        if not first:
            return []
        encoded = self._tokenizer(
            list(first),
            None if second is None else list(second),
            add_special_tokens=self._segments,
            return_attention_mask=False,
            padding=False,
            truncation=False,
            verbose=False,
        )
        return self._as_tokens(encoded["input_ids"], encoded.get("token_type_ids"))

    def _as_tokens(self, ids: Iterable[list[int]], segments: Iterable[list[int]] | None) -> list[Tokens]:
        begun = (self._begun(row) for row in ids)
        if not self._segments or segments is None or "token_type_ids" not in self._tokenizer.model_input_names:
            return [Tokens(row) for row in begun]
        types = (np.asarray(row, dtype=np.int32) for row in segments)
        return [Tokens(row, type_ids) for row, type_ids in zip(begun, types, strict=True)]

    def _begun(self, ids: list[int]) -> npt.NDArray[np.int32]:
        if tuple(ids[: len(self.prefix)]) != self.prefix:
            ids = [*self.prefix, *ids]
        return np.asarray([*ids, *self.suffix] if self.suffix else ids, dtype=np.int32)


def marked(text: Rendered) -> bool:
    """Say whether a rendered text holds stand-ins for control tokens."""
    return MARK in text if isinstance(text, str) else any(MARK in segment for segment in text)
