"""From pairs to shards: which distinct texts there are, which vector each pair needs, which shard holds it.

Contexts by themselves come last, in shards of their own.

The plan depends on the texts and the tokenizer alone, never on what is stored or on batch sizes, so that a run
after a kill, or a second writer, cuts the same shards and gives them the same names. A shard is there as soon as it is
cut, while the pairs behind it are still text.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from micropref.cache.errors import BadInput
from micropref.cache.schemas import KEY_BYTES
from micropref.pipeline.forwarding.shards import Shard
from micropref.pipeline.options import OnBad, Responses
from micropref.pipeline.sources.pairs import PreferencePair, prompt_id
from micropref.pipeline.text.pieces import ROLES
from micropref.pipeline.text.tokenizer import PairTokenizer
from micropref.pipeline.text.tokens import Tokens

CHUNK_PAIRS = 256
"""Pairs tokenized in one call: few, so that the first shard is soon there; the plan does not depend on it."""
SHARD_TOKENS = 1 << 17
"""Tokens of a shard at most: what a kill can cost, and far more than any batch."""
SHARD_TEXTS = 8192
REFUSED = "refused by the backbone's template"
NOT_FINITE = "vector not finite"
"""Why a pair may be set aside; what was found follows."""


class TextPlan:
    """The distinct texts of N pairs, numbered in order of first use. It is whole once its shards were read to the end.

    What the backbone reads of a text is kept no longer than until its shard was taken.
    """

    def __init__(
        self,
        pairs: Sequence[PreferencePair],
        tokenizer: PairTokenizer,
        features_id: str,
        responses: Responses,
        contexts: Sequence[str] = (),
        *,
        on_bad: OnBad = "stop",
    ) -> None:
        """Take pairs, which of their texts are wanted, and distinct contexts that are wanted by themselves.

        `on_bad` says whether a pair that the template refuses ends the plan or is set aside.
        """
        self._pairs, self._tokenizer, self._features_id, self._responses = pairs, tokenizer, features_id, responses
        self.keys: list[bytes] = []
        """Content address of each text."""
        self.lengths = array("i")
        """Tokens of each text."""
        self.context_keys: dict[str, bytes] = {}
        """Content address of each context by itself; one that does not fit has none."""
        self.planned = 0
        """Pairs whose texts are known so far."""
        self.roles: npt.NDArray[np.int64] = np.full((len(ROLES), len(pairs)), -1, dtype=np.int64)
        """[roles, N] text of each pair in each of tokens.ROLES, -1: none."""
        self.trimmed, self.overlong = np.zeros((2, len(pairs)), dtype=np.bool_)
        """[N] pairs whose prompt was cut; pairs that do not fit and have no texts."""
        self.special: npt.NDArray[np.bool_] = np.zeros(len(pairs), dtype=np.bool_)
        """[N] pairs with the strings of control tokens in their texts, which are read as text."""
        self.lost: dict[str, npt.NDArray[np.bool_]] = {}
        """What the chat template does not write of some pairs' messages → [N] of which."""
        self.set_aside: dict[int, str] = {}
        """Pairs that fit but have no texts here -> why, beginning with the class that this is counted under."""
        self._on_bad: OnBad = on_bad
        self._bad: set[bytes] = set()  # keys of texts whose vectors are not finite
        self._numbers: dict[bytes, int] = {}
        self._waiting: list[tuple[Tokens, int, str]] = []  # of the last texts: tokens, prompt group, name
        self._contexts = contexts
        self._order, self._groups = _prompt_groups(pairs)  # rows as they are planned, and the prompt group of each

    @property
    def indistinguishable(self) -> npt.NDArray[np.bool_]:
        """Return which pairs' [N] two responses are the same tokens to this backbone."""
        chosen, rejected = self.roles[ROLES.index("chosen")], self.roles[ROLES.index("rejected")]
        same: npt.NDArray[np.bool_] = (chosen == rejected) & (chosen >= 0)
        return same

    def shards(self) -> Iterator[Shard]:
        """Tokenize pairs in order of their prompt's first appearance, and yield each shard as soon as it is cut."""
        count = 0
        for start in range(0, len(self._order), CHUNK_PAIRS):
            self._read(slice(start, start + CHUNK_PAIRS))
            self.planned = min(start + CHUNK_PAIRS, len(self._order))
            last = self.planned == len(self._order)
            for size in list(self._cut(int(self._groups[self.planned - 1]), last=last)):
                yield self._shard(count, size)
                count += 1
        self._read_contexts()
        for size in list(self._cut(0, last=True)):
            yield self._shard(count, size)
            count += 1

    def _read(self, places: slice) -> None:
        """Tokenize the pairs at some places of the order and number their texts."""
        rows, groups = self._order[places], self._groups[places]
        found = self._tokenizer.encode([self._pairs[row] for row in rows], self._responses)
        local = np.stack([getattr(found, role) for role in ROLES])
        numbers = np.full(len(found.texts) + 1, -1, dtype=np.int64)  # the last one is found by -1, no text
        uses = zip(_first_uses(local, len(found.texts)), found.texts, strict=True)
        for at, ((role, place), tokens) in enumerate(uses):
            name = f"{self._pairs[rows[place]].origin} ({ROLES[role]})"
            numbers[at] = self._number(tokens, int(groups[place]), name)
        for at, why in found.refused.items():
            pair = self._pairs[rows[at]]
            if self._on_bad == "stop":
                raise BadInput(f"{pair.origin}: {why}; or skip such rows with `on_bad` skip")
            self.set_aside[int(rows[at])] = f"{REFUSED}: {why}"
        self.roles[:, rows] = numbers[local]
        self.trimmed[rows], self.overlong[rows], self.special[rows] = found.trimmed, found.overlong, found.special
        for what, flags in found.lost.items():
            self.lost.setdefault(what, np.zeros(len(self._pairs), dtype=np.bool_))[rows] = flags

    def without(self, bad: Mapping[bytes, str]) -> None:
        """Set aside the pairs that need a text whose vector is not finite; `bad`: its key -> what is wrong with it."""
        numbers = {self._numbers[key]: key for key in bad if key in self._numbers}
        found = np.isin(self.roles, list(numbers))
        for row in np.flatnonzero(found.any(axis=0)):
            first = int(self.roles[np.argmax(found[:, row]), row])
            self.set_aside[int(row)] = f"{NOT_FINITE}: {bad[numbers[first]]}"
        self.roles[:, found.any(axis=0)] = -1
        self.context_keys = {context: key for context, key in self.context_keys.items() if key not in bad}
        self._bad |= set(numbers.values())

    @property
    def vector_keys(self) -> list[bytes]:
        """Return the keys of the texts that have, or will have, a vector."""
        return [key for key in self.keys if key not in self._bad] if self._bad else self.keys

    def _read_contexts(self) -> None:
        """Tokenize the contexts and number them, each a prompt group of its own."""
        groups = int(self._groups[-1]) + 1 if len(self._groups) else 0
        for start in range(0, len(self._contexts), CHUNK_PAIRS):
            chunk = self._contexts[start : start + CHUNK_PAIRS]
            for place, tokens in enumerate(self._tokenizer.encode_contexts(chunk), start):
                if tokens is not None:
                    context = self._contexts[place]
                    number = self._number(tokens, groups + place, f"the context {context!r}")
                    self.context_keys[context] = self.keys[number]

    def _number(self, tokens: Tokens, group: int, name: str) -> int:
        """Return a text's number; a new one waits for its shard."""
        key = text_key(self._features_id, tokens)
        number = self._numbers.setdefault(key, len(self.keys))
        if number == len(self.keys):
            self.keys.append(key)
            self.lengths.append(len(tokens))
            self._waiting.append((tokens, group, name))
        return number

    def _cut(self, group: int, *, last: bool) -> Iterator[int]:
        """Yield how many of the waiting texts each next shard takes.

        It takes whole prompt groups, as many as its limits allow and at least one. Whether it ends is known when the
        group behind it is complete; `group`, the last one read, may go on.
        """
        start = end = tokens = 0
        while end < len(self._waiting) and (last or self._waiting[end][1] != group):
            after, size = end, 0
            while after < len(self._waiting) and self._waiting[after][1] == self._waiting[end][1]:
                size += len(self._waiting[after][0])
                after += 1
            if end > start and (tokens + size > SHARD_TOKENS or after - start > SHARD_TEXTS):
                yield end - start
                start, tokens = end, 0
            end, tokens = after, tokens + size
        if last and end > start:
            yield end - start

    def _shard(self, number: int, size: int) -> Shard:
        """Return the next `size` of the waiting texts, which wait no longer."""
        start = len(self.keys) - len(self._waiting)
        taken, self._waiting = self._waiting[:size], self._waiting[size:]
        tokens, groups, names = (list(column) for column in zip(*taken, strict=True))
        keys, sides = self.keys[start : start + size], self._sides(start, size, groups)
        return Shard(number, keys, tokens, groups, names, sides, self._tokenizer.causal)

    def _sides(self, start: int, size: int, groups: list[int]) -> npt.NDArray[np.int64]:
        """Return which texts of a shard [2, m] are the two responses of a pair."""
        inside = np.searchsorted(self._groups, [groups[0], groups[-1] + 1])
        rows = self._order[slice(*inside)]
        sides = self.roles[[[ROLES.index("chosen")], [ROLES.index("rejected")]], rows] - start
        here = ((sides >= 0) & (sides < size)).all(axis=0) & (sides[0] != sides[1])
        both: npt.NDArray[np.int64] = sides[:, here]
        return both


def text_key(features_id: str, tokens: Tokens) -> bytes:
    """Return a text's content address: a hash of the features id and everything the backbone reads of the text."""
    ids, type_ids = tokens.content
    digest = hashlib.sha256(features_id.encode() + len(ids).to_bytes(8, "little"))
    digest.update(ids)
    digest.update(type_ids)
    return digest.digest()[:KEY_BYTES]


def _prompt_groups(pairs: Sequence[PreferencePair]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows ordered by their prompt's first appearance [N], and the group of each, in this order [N]."""
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(prompt_id(pair.prompt), len(numbers)) for pair in pairs], dtype=np.int64)
    order = np.argsort(groups, kind="stable")
    return order, groups[order]


def _first_uses(local: npt.NDArray[np.int64], count: int) -> list[tuple[int, int]]:
    """Return for each text of a chunk the role and place of a pair that uses it, the earliest place."""
    roles, places = np.nonzero(local.T >= 0)[::-1]
    used, first = np.unique(local.T[places, roles], return_index=True)
    assert len(used) == count, "every text is some pair's"
    return [(int(roles[at]), int(places[at])) for at in first]
