"""From pairs to shards: which distinct texts there are, which vector each pair needs, which shard holds it.

The plan depends on the pairs and the tokenizer alone, never on what is stored or on batch sizes, so that a run
after a kill, or a second writer, cuts the same shards and gives them the same names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from cache.datasets import LINK_SCHEMA
from cache.layout import KEY_BYTES, KEY_TYPE
from pipeline.pairs import Origin, PreferencePair, prompt_id
from pipeline.tokens import ROLES, PairTokenizer, Responses, Tokens

CHUNK_PAIRS = 2048
"""Pairs tokenized in one call."""
SHARD_TOKENS = 1 << 17
"""Tokens of a shard at most: what a kill can cost, and far more than any batch."""
SHARD_TEXTS = 8192


@dataclass(frozen=True)
class TextPlan:
    """The distinct texts of some pairs, numbered in order of first use, and the texts of each pair."""

    keys: list[bytes]
    """Content address of each distinct text."""
    tokens: list[Tokens]
    """What the backbone reads of each."""
    first_use: list[tuple[Origin, str]]
    """Row and role that first used each text, to name it in an error."""
    groups: list[int]
    """Prompt group of each text; those of one group are neighbours, and begin with much the same tokens."""
    shards: list[range]
    """Consecutive texts that are stored together: whole prompt groups in source order."""
    roles: npt.NDArray[np.int64]
    """[roles, N] text of each pair in each of tokens.ROLES, -1: none."""
    trimmed: npt.NDArray[np.bool_]
    """[N] pairs whose prompt was cut."""
    overlong: npt.NDArray[np.bool_]
    """[N] pairs that do not fit and have no texts."""

    @property
    def indistinguishable(self) -> npt.NDArray[np.bool_]:
        """Return which pairs' [N] two responses are the same tokens to this backbone."""
        chosen, rejected = self.roles[ROLES.index("chosen")], self.roles[ROLES.index("rejected")]
        same: npt.NDArray[np.bool_] = (chosen == rejected) & (chosen >= 0)
        return same

    def key_series(self) -> pl.Series:
        """Return the keys of the texts as the store looks them up."""
        return pl.Series("key", self.keys, dtype=pl.Binary)


@dataclass
class _Texts:
    """Distinct texts while they are collected."""

    keys: list[bytes] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    first_use: list[tuple[Origin, str]] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    numbers: dict[bytes, int] = field(default_factory=dict)

    def add(self, key: bytes, tokens: Tokens, first_use: tuple[Origin, str], group: int) -> int:
        number = self.numbers.setdefault(key, len(self.keys))
        if number == len(self.keys):
            self.keys.append(key)
            self.tokens.append(tokens)
            self.first_use.append(first_use)
            self.group.append(group)
        return number


def text_key(features_id: str, tokens: Tokens) -> bytes:
    """Return a text's content address: a hash of the features id and everything the backbone reads of the text."""
    ids, type_ids = tokens.content
    digest = hashlib.sha256(features_id.encode() + len(ids).to_bytes(8, "little"))
    digest.update(ids)
    digest.update(type_ids)
    return digest.digest()[:KEY_BYTES]


def plan_texts(
    pairs: Sequence[PreferencePair],
    tokenizer: PairTokenizer,
    features_id: str,
    responses: Responses,
    progress: Callable[[int], None] | None = None,
) -> TextPlan:
    """Tokenize pairs in prompt groups, in order of a prompt's first appearance, and cut the texts into shards."""
    texts = _Texts()
    roles = np.full((len(ROLES), len(pairs)), -1, dtype=np.int64)
    trimmed, overlong = np.zeros((2, len(pairs)), dtype=np.bool_)
    order, groups = _prompt_groups(pairs)
    for start in range(0, len(order), CHUNK_PAIRS):
        rows = order[start : start + CHUNK_PAIRS]
        found = tokenizer.encode([pairs[row] for row in rows], responses)
        local = np.stack([getattr(found, role) for role in ROLES])
        numbers = np.full(len(found.texts) + 1, -1, dtype=np.int64)  # the last one is found by -1, no text
        uses = zip(_first_uses(local, len(found.texts)), found.texts, strict=True)
        for number, ((role, place), tokens) in enumerate(uses):
            row = rows[place]
            first_use = (pairs[row].origin, ROLES[role])
            numbers[number] = texts.add(text_key(features_id, tokens), tokens, first_use, int(groups[row]))
        roles[:, rows] = numbers[local]
        trimmed[rows], overlong[rows] = found.trimmed, found.overlong
        if progress is not None:
            progress(len(rows))
    shards = list(_cut(texts))
    return TextPlan(texts.keys, texts.tokens, texts.first_use, texts.group, shards, roles, trimmed, overlong)


def _prompt_groups(pairs: Sequence[PreferencePair]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows ordered by their prompt's first appearance [N], and each row's group [N]."""
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(prompt_id(pair.prompt), len(numbers)) for pair in pairs], dtype=np.int64)
    return np.argsort(groups, kind="stable"), groups


def _first_uses(local: npt.NDArray[np.int64], count: int) -> list[tuple[int, int]]:
    """Return for each text of a chunk the role and place of a pair that uses it, the earliest place."""
    roles, places = np.nonzero(local.T >= 0)[::-1]
    used, first = np.unique(local.T[places, roles], return_index=True)
    assert len(used) == count, "every text is some pair's"
    return [(int(roles[at]), int(places[at])) for at in first]


def _cut(texts: _Texts) -> Iterator[range]:
    """Yield ranges of whole prompt groups, as many as a shard's limits allow and at least one."""
    start = end = tokens = 0
    while end < len(texts.keys):
        after, size = end, 0
        while after < len(texts.keys) and texts.group[after] == texts.group[end]:
            size += len(texts.tokens[after])
            after += 1
        if end > start and (tokens + size > SHARD_TOKENS or after - start > SHARD_TEXTS):
            yield range(start, end)
            start, tokens = end, 0
        end, tokens = after, tokens + size
    if end > start:
        yield range(start, end)


def link_table(plan: TextPlan, rows: range, pair_ids: list[str]) -> pa.Table:
    """Return which vectors the pairs of `rows` became, in the store's schema."""
    lengths = np.array([len(tokens) for tokens in plan.tokens] or [0], dtype=np.int32)
    keys = np.array([*plan.keys, None], dtype=object)  # number -1 finds the None at the end
    columns = {f"{role}_key": pa.array(keys[plan.roles[at, rows]], KEY_TYPE) for at, role in enumerate(ROLES)}
    for role in ("prompt", "chosen", "rejected"):
        numbers = plan.roles[ROLES.index(role), rows]
        if role != "prompt":  # only responses behind a context were wanted
            behind = plan.roles[ROLES.index(f"{role}_context"), rows]
            numbers = np.where(numbers >= 0, numbers, behind)
        columns[f"{role}_tokens"] = pa.array(lengths[numbers], pa.int32(), mask=numbers < 0)
    trimmed = pa.array(plan.trimmed[rows.start : rows.stop])
    return pa.table({"pair_id": pair_ids, **columns, "trimmed": trimmed}, schema=LINK_SCHEMA)
