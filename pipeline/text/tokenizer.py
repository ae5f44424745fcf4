"""Preference pairs to token ids: one template, one beginning-of-text token, one length limit.

Policy of special tokens: an encoder's tokenizer adds its own. For a causal backbone exactly what the tokenizer puts in
front of a text (its BOS, if any) is put in front, unless the template already wrote it, and nothing is added at
the end.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from micropref.cache.errors import BadInput
from micropref.pipeline.options import CONTEXT_TEMPLATE, PINNED_DATE, Overlong, Responses, TemplateName
from micropref.pipeline.sources.pairs import PreferencePair, Text
from micropref.pipeline.text.templates import Rendered, check_context_template, choose_template, with_context
from micropref.pipeline.text.tokens import TokenizedPairs, Tokens
from micropref.pipeline.text.truncation import truncate_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("prompt", "context", "chosen", "rejected", "chosen_context", "rejected_context")
"""The texts of a pair, in the order in which they are numbered."""
_SIDES = (("prompt",), ("context",), ("chosen", "rejected"), ("chosen_context", "rejected_context"))
"""Texts of a pair that have to begin with one and the same prompt."""


@dataclass(frozen=True)
class Tokenizing:
    """The options that change token ids. `PairTokenizer.settings` says what they came to."""

    max_length: int
    """Most tokens of one text."""
    template: TemplateName = "auto"
    """`chat`: the tokenizer's chat template; `plain`: `{prompt}\\n\\n{response}`; `auto`: chat where there is one."""
    overlong: Overlong = "trim-prompt"
    """What becomes of a pair with a text that is too long: its prompt is cut from the left, or it is left out."""
    context_template: str = CONTEXT_TEMPLATE
    """How a context goes before a prompt, or before the first user message of a conversation."""
    date: str = PINNED_DATE
    """Today (YYYY-MM-DD) for chat templates that ask: pinned, or the same text would embed differently tomorrow."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise BadInput(f"max length {self.max_length}: expected at least 1 token")
        check_context_template(self.context_template)
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise BadInput(f"date {self.date!r}: expected YYYY-MM-DD") from None


@dataclass(frozen=True, slots=True)
class _Piece:
    """One text of a pair, before any template."""

    prompt: Text
    context: str | None = None
    response: Text | None = None


class PairTokenizer:
    """Tokenizes preference pairs for one backbone."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: Tokenizing, *, segments: bool) -> None:
        """Take a fast tokenizer; `segments`: the backbone is an encoder, which reads (prompt, response) as a pair.

        Raises BadInput on a slow tokenizer, a template that the tokenizer has not, or one that begins texts twice.
        """
        if not tokenizer.is_fast:
            raise BadInput(
                f"{type(tokenizer).__name__} cannot tell which characters a token covers: save the backbone with its "
                "fast tokenizer (tokenizer.json)"
            )
        # Said aloud, the tokenizers library neither warns of a fork nor stops using its threads.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        self.options = options
        self._tokenizer = tokenizer
        self._segments = segments
        date = datetime.date.fromisoformat(options.date)
        self._template = choose_template(tokenizer, options.template, date=date, segments=segments)
        self._prefix = () if segments else _added_in_front(tokenizer)
        self._check_one_beginning()

    @property
    def causal(self) -> bool:
        """Return whether it is for a causal backbone, an encoder otherwise."""
        return not self._segments

    def settings(self) -> dict[str, Any]:
        """Return all that changes token ids apart from the tokenizer's files, as JSON, `auto` resolved."""
        return {
            **self._template.settings(),
            "special_tokens": "tokenizer" if self._segments else list(self._prefix),
            "max_length": self.options.max_length,
            "overlong": self.options.overlong,
            "context_template": self.options.context_template,
        }

    def encode(self, pairs: Sequence[PreferencePair], responses: Responses = "plain") -> TokenizedPairs:
        """Tokenize N pairs, in their order; `responses`: wanted behind the prompt without context, with it, or both.

        A pair whose conversation the template refuses, or of which a text has no token at all, is among the refused.
        """
        wanted = [_pieces(pair, responses) for pair in pairs]
        rendered: dict[_Piece, Rendered] = {}
        refused: dict[int, str] = {}
        for row, pieces in enumerate(wanted):
            try:
                for piece in pieces.values():
                    if piece not in rendered:
                        rendered[piece] = self._render(piece)
            except BadInput as error:
                refused[row] = str(error)
        known = dict(zip(rendered, self._tokenize(list(rendered.values())), strict=True))
        numbers: dict[tuple[bytes, bytes], int] = {}
        texts: list[Tokens] = []
        index = np.full((len(ROLES), len(pairs)), -1, dtype=np.int64)
        trimmed, overlong = np.zeros((2, len(pairs)), dtype=np.bool_)
        for row, pieces in enumerate(wanted):
            if row in refused:
                continue
            try:
                fitted = self._fit(pieces, known)
            except BadInput as error:
                refused[row] = str(error)
                continue
            overlong[row] = fitted is None
            for role, tokens in (fitted or {}).items():
                trimmed[row] |= tokens is not known[pieces[role]]
                number = numbers.setdefault(tokens.content, len(texts))
                if number == len(texts):
                    texts.append(tokens)
                index[ROLES.index(role), row] = number
        found: dict[str, Any] = dict(zip(ROLES, index, strict=True))
        return TokenizedPairs(texts=texts, **found, trimmed=trimmed, overlong=overlong, refused=refused)

    def encode_contexts(self, contexts: Sequence[str]) -> list[Tokens | None]:
        """Tokenize contexts as if each were a prompt: a user's turn of its own where there is a chat template.

        None stands for one that does not fit: no pair with that context fits either. Raises BadInput naming one
        without a single token.
        """
        found = self._tokenize([self._template.render(context, None) for context in contexts])
        for context, tokens in zip(contexts, found, strict=True):
            if not len(tokens):
                raise BadInput(f"context {context!r}: found a text without a single token; give it words")
        return [tokens if len(tokens) <= self.options.max_length else None for tokens in found]

    def _fit(self, pieces: dict[str, _Piece], known: dict[_Piece, Tokens]) -> dict[str, Tokens] | None:
        """Return the tokens of each of a pair's texts, cut where they have to be; None: the pair does not fit.

        Raises BadInput where one has no token, or the template refuses it once it is cut.
        """
        fitted = {role: known[piece] for role, piece in pieces.items()}
        if empty := [role for role, tokens in fitted.items() if not len(tokens)]:
            raise BadInput(f"{empty[0]}: found a text without a single token; give it words")
        limit = self.options.max_length
        for side in _SIDES:
            roles = [role for role in side if role in pieces]
            if all(len(fitted[role]) <= limit for role in roles):
                continue
            if self.options.overlong == "drop":
                return None
            cut = self._trim([pieces[role] for role in roles])
            if cut is None:
                return None
            fitted.update(zip(roles, cut, strict=True))
        return fitted

    def _trim(self, pieces: Sequence[_Piece]) -> list[Tokens] | None:
        """Return the tokens of texts that differ in their response only, behind one prompt cut until all fit."""
        made: list[Tokens] = []

        def excess(prompt: Text) -> int:
            cut = (_Piece(prompt, piece.context, piece.response) for piece in pieces)
            made[:] = self._tokenize([self._render(piece) for piece in cut])
            return max(map(len, made)) - self.options.max_length

        return made if truncate_prompt(pieces[0].prompt, excess, self._starts) is not None else None

    def _starts(self, text: str) -> list[int]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [int(start) for start, _ in encoded["offset_mapping"]]

    def _render(self, piece: _Piece) -> Rendered:
        prompt = piece.prompt
        if piece.context is not None:
            prompt = with_context(self.options.context_template, piece.context, prompt)
        return self._template.render(prompt, piece.response)

    def _tokenize(self, texts: Sequence[Rendered]) -> list[Tokens]:
        """Return the tokens of texts of any length, in order, all singles in one call and all segments in another."""
        found: dict[int, Tokens] = {}
        singles = [at for at, text in enumerate(texts) if isinstance(text, str)]
        found.update(zip(singles, self._tokens_of([texts[at] for at in singles]), strict=True))
        doubles = [at for at, text in enumerate(texts) if not isinstance(text, str)]
        found.update(
            zip(
                doubles,
                self._tokens_of([texts[at][0] for at in doubles], [texts[at][1] for at in doubles]),
                strict=True,
            )
        )
        return [found[at] for at in range(len(texts))]

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
        rows = (self._begun(ids) for ids in encoded["input_ids"])
        if not self._segments or "token_type_ids" not in encoded:
            return [Tokens(ids) for ids in rows]
        types = (np.asarray(row, dtype=np.int32) for row in encoded["token_type_ids"])
        return [Tokens(ids, type_ids) for ids, type_ids in zip(rows, types, strict=True)]

    def _begun(self, ids: list[int]) -> npt.NDArray[np.int32]:
        if tuple(ids[: len(self._prefix)]) != self._prefix:
            ids = [*self._prefix, *ids]
        return np.asarray(ids, dtype=np.int32)

    def _check_one_beginning(self) -> None:
        """Raise BadInput where a second beginning-of-text token follows the first one at the front of a text.

        Later ones are the template's: in ChatML the same token opens every turn.
        """
        beginning = self._tokenizer.bos_token_id
        if self._segments or beginning is None or beginning == self._tokenizer.eos_token_id:
            return
        ids = self._tokenize([self._template.render("a", "b")])[0].ids
        others = np.flatnonzero(ids != beginning)
        if (found := int(others[0]) if len(others) else len(ids)) > 1:
            raise BadInput(
                f"the backbone's chat template begins a text with {found} {self._tokenizer.bos_token} tokens, expected "
                "one: correct its chat_template, or use the plain template"
            )


def _pieces(pair: PreferencePair, responses: Responses) -> dict[str, _Piece]:
    pieces = {"prompt": _Piece(pair.prompt)}
    if pair.context is not None:
        pieces["context"] = _Piece(pair.prompt, pair.context)
    if responses != "context":
        pieces["chosen"] = _Piece(pair.prompt, None, pair.chosen)
        pieces["rejected"] = _Piece(pair.prompt, None, pair.rejected)
    if responses != "plain" and pair.context is not None:
        pieces["chosen_context"] = _Piece(pair.prompt, pair.context, pair.chosen)
        pieces["rejected_context"] = _Piece(pair.prompt, pair.context, pair.rejected)
    return pieces


def _added_in_front(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that the tokenizer by itself puts in front of a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)
    return tuple(full[:start])
