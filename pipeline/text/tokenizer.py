"""Preference pairs to token ids: one template, one beginning-of-text token, one length limit.

Policy of special tokens: an encoder's tokenizer adds its own. For a causal backbone exactly what the tokenizer puts in
front of a text (its BOS, if any) is put in front, unless the template already wrote it, and nothing is added at
the end; but a causal embedding model's texts end as its tokenizer ends them.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from micropref.cache.errors import BadInput
from micropref.pipeline.options import CONTEXT_TEMPLATE, PINNED_DATE, Overlong, Responses, SpecialTokens, TemplateName
from micropref.pipeline.sources.pairs import PreferencePair, Text
from micropref.pipeline.text.control_tokens import ControlTokens
from micropref.pipeline.text.pieces import ROLES, SIDES, Piece, pieces_of
from micropref.pipeline.text.template_check import tried
from micropref.pipeline.text.templates import ChatTemplate, Rendered, check_context_template, with_context
from micropref.pipeline.text.text_recipe import PLAIN_TEXT, TextRecipe, choose_reading
from micropref.pipeline.text.token_ids import TokenIds, marked
from micropref.pipeline.text.tokens import TokenizedPairs, Tokens
from micropref.pipeline.text.truncation import last_characters, size, truncate_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SURELY_TOO_LONG = 1 << 18
"""Characters that a text may always have before it counts as too long without being tokenized."""


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
    special_tokens: SpecialTokens = "text"
    """`keep`: a control token's string inside a text becomes that token, as in the first release; else it is text."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise BadInput(f"max length {self.max_length}: expected at least 1 token")
        check_context_template(self.context_template)
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise BadInput(f"date {self.date!r}: expected YYYY-MM-DD") from None


class PairTokenizer:
    """Tokenizes preference pairs for one backbone."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: Tokenizing,
        *,
        segments: bool,
        recipe: TextRecipe = PLAIN_TEXT,
        ids: int | None = None,
    ) -> None:
        """Take a fast tokenizer; `segments`: the backbone is an encoder, which reads (prompt, response) as a pair.

        `recipe`: how an embedding model reads texts; `ids`: how many token ids the backbone knows, None: all there are.
        Raises BadInput on a slow tokenizer, a template that the tokenizer has not, one that begins texts twice, or one
        that fails on any conversation.
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
        self._known = ids
        self._controls = None if options.special_tokens == "keep" else ControlTokens(tokenizer)
        self._ids = TokenIds(tokenizer, self._controls, segments=segments, ending=recipe.ending)
        date = datetime.date.fromisoformat(options.date)
        self._template = choose_reading(tokenizer, options.template, recipe, date=date, segments=segments)
        prompt = tried(self._template)
        self._check_one_beginning(prompt)
        self._beginning = self._ids.beginning(self._template.render(prompt, "b"))

    @property
    def strangers(self) -> list[str]:
        """Return the tokens that the tokenizer can make and the backbone does not know."""
        known = len(self._tokenizer) if self._known is None else self._known
        return sorted(token for token, number in self._tokenizer.get_vocab().items() if number >= known)

    @property
    def causal(self) -> bool:
        """Return whether it is for a causal backbone, an encoder otherwise."""
        return not self._segments

    def settings(self) -> dict[str, Any]:
        """Return all that changes token ids apart from the tokenizer's files, as JSON, `auto` resolved."""
        return {
            **self._template.settings(),
            "special_tokens": "tokenizer" if self._segments else list(self._ids.prefix),
            **({"special_tokens_behind": list(self._ids.suffix)} if self._ids.suffix else {}),
            "max_length": self.options.max_length,
            "overlong": self.options.overlong,
            "context_template": self.options.context_template,
            # Not there where it is what the first release did: the features id is a hash of these.
            **({} if self._controls is None else {"user_text": "text"}),
        }

    def encode(self, pairs: Sequence[PreferencePair], responses: Responses = "plain") -> TokenizedPairs:
        """Tokenize N pairs, in their order; `responses`: wanted behind the prompt without context, with it, or both.

        A pair whose conversation the template refuses, or of which a text has no token at all, is among the refused.
        """
        bounded = [self._bounded(pair) for pair in pairs]
        wanted = [{} if pair is None else pieces_of(pair, responses) for pair in bounded]
        rendered: dict[Piece, Rendered] = {}
        refused: dict[int, str] = {}
        for row, pieces in enumerate(wanted):
            try:
                for piece in pieces.values():
                    if piece not in rendered:
                        rendered[piece] = self._render(piece)
            except BadInput as error:
                refused[row] = str(error)
        known = dict(zip(rendered, self._ids(list(rendered.values())), strict=True))
        lost = self._lost(wanted, rendered)
        numbers: dict[tuple[bytes, bytes], int] = {}
        texts: list[Tokens] = []
        index = np.full((len(ROLES), len(pairs)), -1, dtype=np.int64)
        trimmed, overlong, special = np.zeros((3, len(pairs)), dtype=np.bool_)
        for row, (pair, pieces) in enumerate(zip(pairs, wanted, strict=True)):
            if row in refused:
                continue
            try:
                fitted = self._fit(pieces, known) if pieces else None
            except BadInput as error:
                refused[row] = str(error)
                continue
            overlong[row] = fitted is None
            special[row] = any(marked(rendered[piece]) for piece in pieces.values())
            trimmed[row] = fitted is not None and bounded[row] is not pair
            for role, tokens in (fitted or {}).items():
                trimmed[row] |= tokens is not known[pieces[role]]
                number = numbers.setdefault(tokens.content, len(texts))
                if number == len(texts):
                    texts.append(tokens)
                index[ROLES.index(role), row] = number
        found: dict[str, Any] = dict(zip(ROLES, index, strict=True))
        found |= {"trimmed": trimmed, "special": special, "overlong": overlong}
        return TokenizedPairs(texts=texts, **found, lost=lost, refused=refused)

    def encode_contexts(self, contexts: Sequence[str]) -> list[Tokens | None]:
        """Tokenize contexts as if each were a prompt: a user's turn of its own where there is a chat template.

        None stands for one that does not fit: no pair with that context fits either. Raises BadInput naming one
        without a single token.
        """
        most = max(SURELY_TOO_LONG, self.options.max_length * self._ids.longest_token)
        known = {context for context in contexts if len(context) <= most}
        asked = [self._template.render(self._safe(context[:most]), None) for context in contexts]
        found = self._ids(asked)
        for context, tokens in zip(contexts, found, strict=True):
            if not len(tokens):
                raise BadInput(f"context {context!r}: found a text without a single token; give it words")
            self._check_known(tokens, f"context {context!r}: ")
        limit = self.options.max_length
        fits = (len(tokens) <= limit and context in known for context, tokens in zip(contexts, found, strict=True))
        return [tokens if fit else None for tokens, fit in zip(found, fits, strict=True)]

    def encode_written(self, texts: Sequence[str]) -> list[Tokens | None]:
        """Tokenize texts that hold template and special tokens already; None: one does not fit, or has no token."""
        whole = [text if text.startswith(self._beginning) else self._beginning + text for text in texts]
        return [one if 0 < len(one) <= self.options.max_length else None for one in self._ids.written(whole)]

    def _fit(self, pieces: dict[str, Piece], known: dict[Piece, Tokens]) -> dict[str, Tokens] | None:
        """Return the tokens of each of a pair's texts, cut where they have to be; None: the pair does not fit.

        Raises BadInput where one has no token, or the template refuses it once it is cut.
        """
        fitted = {role: known[piece] for role, piece in pieces.items()}
        if empty := [role for role, tokens in fitted.items() if not len(tokens)]:
            raise BadInput(f"{empty[0]}: found a text without a single token; give it words")
        for role, tokens in fitted.items():
            self._check_known(tokens, f"{role}: ")
        limit = self.options.max_length
        for side in SIDES:
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

    def _trim(self, pieces: Sequence[Piece]) -> list[Tokens] | None:
        """Return the tokens of texts that differ in their response only, behind one prompt cut until all fit."""
        made: list[Tokens] = []

        def excess(prompt: Text) -> int:
            cut = (Piece(prompt, piece.context, piece.response) for piece in pieces)
            made[:] = self._ids([self._render(piece) for piece in cut])
            return max(map(len, made)) - self.options.max_length

        return made if truncate_prompt(pieces[0].prompt, excess, self._ids.starts) is not None else None

    def _render(self, piece: Piece) -> Rendered:
        return self._template.render(*self._written(piece))

    def _written(self, piece: Piece) -> tuple[Text, Text | None]:
        """Return what the template gets: the prompt behind its context, and the response."""
        prompt = self._safe(piece.prompt)
        if piece.context is not None:
            prompt = with_context(self.options.context_template, str(self._safe(piece.context)), prompt)
        return prompt, None if piece.response is None else self._safe(piece.response)

    def _safe(self, text: Text) -> Text:
        """Return a text with stand-ins for the strings of control tokens; the text itself where it has none."""
        if self._controls is None or not self._controls.inside(text):
            return text
        return self._controls.stood_in(text)

    def _lost(
        self, wanted: Sequence[dict[str, Piece]], rendered: dict[Piece, Rendered]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Return what the template does not write of messages → of which pairs [N]."""
        if not isinstance(self._template, ChatTemplate):
            return {}
        found: dict[str, npt.NDArray[np.bool_]] = {}
        known: dict[Piece, frozenset[str]] = {}
        for row, pieces in enumerate(wanted):
            for piece in rendered.keys() & pieces.values():
                if piece not in known:
                    known[piece] = self._template.lost(str(rendered[piece]), *self._written(piece))
                for name in known[piece]:
                    found.setdefault(name, np.zeros(len(wanted), dtype=np.bool_))[row] = True
        return found

    def _bounded(self, pair: PreferencePair) -> PreferencePair | None:
        """Return a pair that can be tokenized whole: its prompt cut to its end where no more can fit anyway.

        None: its responses, or its context, are longer than that, or nothing of the prompt would stay.
        """
        longest = max(size(pair.prompt), size(pair.chosen), size(pair.rejected), len(pair.context or ""))
        if longest <= SURELY_TOO_LONG:
            return pair
        most = max(SURELY_TOO_LONG, self.options.max_length * self._ids.longest_token)
        if max(size(pair.chosen), size(pair.rejected), len(pair.context or "")) > most:
            return None
        if size(pair.prompt) <= most:
            return pair
        prompt = None if self.options.overlong == "drop" else last_characters(pair.prompt, most)
        return None if prompt is None else replace(pair, prompt=prompt)

    def _check_known(self, tokens: Tokens, where: str) -> None:
        """Raise BadInput where a text has a token that the backbone's embedding has no row for."""
        if self._known is not None and len(tokens) and (worst := int(tokens.ids.max())) >= self._known:
            token = self._tokenizer.convert_ids_to_tokens(worst)
            raise BadInput(
                f"{where}token {token!r} has id {worst}, but the backbone's embedding has {self._known} rows: its "
                "tokenizer is not the one that it was trained with; give the model resized for it, or its own tokenizer"
            )

    def _check_one_beginning(self, prompt: Text) -> None:
        """Raise BadInput where a second beginning-of-text token follows the first one at the front of a text.

        Later ones are the template's: in ChatML the same token opens every turn.
        """
        beginning = self._tokenizer.bos_token_id
        if self._segments or beginning is None or beginning == self._tokenizer.eos_token_id:
            return
        ids = self._ids([self._template.render(prompt, "b")])[0].ids
        others = np.flatnonzero(ids != beginning)
        if (found := int(others[0]) if len(others) else len(ids)) > 1:
            raise BadInput(
                f"the backbone's chat template begins a text with {found} {self._tokenizer.bos_token} tokens, expected "
                "one: correct its chat_template, or use the plain template"
            )
