"""The result of `embed`, free of all that it takes to embed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is not needed to say that nothing was to be done
    from micropref.pipeline.embedding.cost import Price


@dataclass(frozen=True)
class SourceCounts:
    """What was read and left out."""

    data: str
    """Data set."""
    pairs: int
    """Usable pairs of these sources, in all their splits."""
    splits: dict[str, int]
    """The same by split."""
    all_splits: list[str]
    """Splits that the data set has now, those of other sources among them."""
    all_features: list[str]
    """Features ids that the data set has vectors of now."""
    dropped: dict[str, int]
    """Rows and pairs left out, by reason; those that this backbone cannot use stay in the data set for others: too
    long, refused by its chat template, a vector that is not finite."""
    noted: dict[str, int]
    """What was done to texts on the way, or not read of them → how often."""
    empty_responses: int
    """Pairs of which one response is empty: not answering is an answer."""
    without_context: int
    """Pairs without a context."""
    users: int
    """Distinct users."""
    rejected_rows: int
    """Lines in the rejects files."""
    repeated: int
    """Pairs that say exactly what an earlier one said: they are votes and stay."""
    columns: list[dict[str, Any]]
    """What each column of each source was read as, and why: source, column, role, type, rows, reason; sources read
    by the first releases, which did not keep that, are not there."""
    shared_prompts: int
    """Prompts of these splits that another split has as well: a leak where one of the two is test."""


@dataclass(frozen=True)
class EmbedReport(SourceCounts):
    """What `embed` did, or with `--plan` would do."""

    features: str
    """Features id, the name of this backbone's vectors under these settings; empty where it is not known: with
    `--plan` of a backbone whose weights are not here."""
    backbone: str
    """What the user called it."""
    texts: int
    """Distinct texts the pairs need, contexts by themselves included."""
    contexts: int
    """Distinct contexts of the data set, each embedded by itself too: what a router can read."""
    texts_embedded: int
    """Texts forwarded now; with `--plan`, to be forwarded."""
    texts_reused: int
    """Texts whose vectors were there already."""
    pass_name: str | None
    """Pass that forwarded them: tree, packed or padded, or several; None where nothing was forwarded."""
    tokens_unique: int
    """Tokens that have to be read for them: distinct prefixes within a prompt for causal backbones, else all."""
    tokens_forwarded: int
    """Tokens read, padding included; 0 with `--plan`."""
    trimmed: int
    """Pairs whose prompt was cut."""
    indistinguishable: int
    """Pairs whose responses are the same tokens to this backbone: their margin is always 0."""
    special_tokens: int
    """Pairs with the strings of special tokens, such as [SEP], in their texts, which were read as text."""
    not_rendered: dict[str, int]
    """What the chat template does not write of messages, such as tool_calls → in how many pairs."""
    delta_storage_error: float | None
    """Median relative error of Δ by the storage dtype, on the first shard stored now."""
    store_bytes: int
    """Size of these texts' vectors as stored."""
    forward_flops: float
    """Operations that the texts forwarded now take, with `--plan` would take; see pricing.forward_flops."""
    price: Price | None
    """With `--plan`: what that would cost."""
    tokens_per_second: float
    """`tokens_unique` by the time of forwarding, and of tokenizing and writing next to it; 0 where there were none."""
    seconds: float
    """Wall time of the command, loading included."""
