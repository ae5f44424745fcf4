"""Which pass to take: the fastest that, on a sample of the texts, gives the vectors of each text read alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.architecture import fixed_positions
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.devices import lacks_memory
from micropref.pipeline.backbone.tree_attention import NotFollowedError
from micropref.pipeline.forwarding.passes import Mates, PackedPass, PaddedPass, Pass
from micropref.pipeline.options import PassName
from micropref.pipeline.progress import Announce
from micropref.pipeline.text.tokens import Tokens

CHECKED_TEXTS = 4
"""Texts of each checked group."""
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""|v - v'| / |v'| that rounding explains in a deep model; a forgotten window or soft cap is far beyond it."""
_FEWER_MATES: tuple[Mates, ...] = ("any length", "same length", "none")
_FOREIGN_CODE = (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError, NotImplementedError)
"""What a model's code may raise on arguments it was not written for."""


def choose_pass(
    backbone: Backbone,
    name: PassName,
    tokens_per_batch: int | None,
    texts: Sequence[Tokens],
    groups: Sequence[int],
    announce: Announce,
) -> Pass:
    """Return the pass of a name for these texts; equal `groups` are neighbours.

    `auto` is `tree` for causal backbones and `packed` for encoders where the check holds, else `padded`, and says so.
    `padded` is checked too: where padding changes vectors, texts are read with those of their length, or alone.
    Raises BadInput where a pass that was asked for does not suit the backbone.
    """
    if name == "tree" and not backbone.causal:
        raise BadInput(
            f"pass_ is 'tree': backbone {backbone.checkpoint.name} is an encoder, whose tokens see the whole text and "
            "can share nothing: use packed or auto"
        )
    if name == "padded":
        return choose_mates(PaddedPass(backbone, tokens_per_batch), texts, announce)
    chosen = PackedPass(backbone, share=backbone.causal and name != "packed", tokens_per_batch=tokens_per_batch)
    reason = objection(chosen, texts, groups)
    if reason is None:
        return chosen
    if name != "auto":
        raise BadInput(f"pass_ is {name!r}: {reason}: use auto or padded")
    announce(f"not the {chosen.name} pass: {reason}; length-sorted padded batches instead")
    return choose_mates(PaddedPass(backbone, tokens_per_batch), texts, announce)


def choose_mates(chosen: PaddedPass, texts: Sequence[Tokens], announce: Announce) -> PaddedPass:
    """Return the padded pass with the most texts together that, on a few of them, give the vectors of each text alone.

    Padding moves what convolutions, pooling layers and mixtures along the text see, and masks do not tell them.
    """
    backbone = chosen.backbone
    for mates in _FEWER_MATES[_FEWER_MATES.index(chosen.mates) :]:
        tried = replace(chosen, mates=mates)
        some = _of_several_lengths(texts, twins=mates == "same length")
        together = backbone.embed(some) if mates != "none" and len(some) > 1 else None
        if together is None:
            return tried
        worst = _difference(together, torch.cat([backbone.embed([text]) for text in some]))
        if worst <= _TOLERANCE[backbone.dtype]:
            return tried
        next_ = "texts of one length at a time" if mates == "any length" else "one text at a time"
        announce(
            f"not batches of {mates}: on {len(some)} texts their vectors differ by up to {worst:.1g} of their length "
            f"from those of each text alone; {next_} instead"
        )
    raise AssertionError("the last of them is taken unchecked")


def _of_several_lengths(texts: Sequence[Tokens], *, twins: bool) -> list[Tokens]:
    """Return the longest text, the shortest and one between them; `twins`: two of one length, which need no padding."""
    order = sorted(texts, key=lambda text: (len(text), text.content))
    if not order:
        return []
    middle = order[len(order) // 2]
    if not twins:
        return list({text.content: text for text in (order[-1], order[0], middle)}.values())
    longest, size = order[-1], len(middle)
    return [Tokens(longest.ids[:size], None if longest.type_ids is None else longest.type_ids[:size]), middle]


def objection(chosen: PackedPass, texts: Sequence[Tokens], groups: Sequence[int]) -> str | None:
    """Return why a pass must not be taken for these texts; None: a few of them came out as they do alone."""
    backbone = chosen.backbone
    limit = fixed_positions(backbone.trunk.config)
    longest = max(map(len, texts), default=0)
    if limit is not None and longest > limit:
        return f"the backbone's positions depend on a text's length beyond {limit} tokens, and one text has {longest}"
    sample = _sample(texts, groups)
    some = [texts[at] for at in sample]
    found = torch.empty(len(some), backbone.width)
    try:
        for batch in chosen.run(some, [groups[at] for at in sample]):
            found[batch.places] = batch.vectors
    except NotFollowedError as error:
        return str(error)
    except _FOREIGN_CODE as error:
        if isinstance(error, RuntimeError) and lacks_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        return f"{type(backbone.trunk).__name__} cannot read packed texts ({type(error).__name__}: {reason})"
    alone = torch.cat([backbone.embed([text]) for text in some]) if some else found
    worst = _difference(found, alone)
    if worst <= _TOLERANCE[backbone.dtype]:
        return None
    return f"on {len(some)} texts its vectors differ by up to {worst:.1g} of their length from those of each text alone"


def _sample(texts: Sequence[Tokens], groups: Sequence[int]) -> list[int]:
    """Return a few texts of the first, the last and the longest text's group, the longest among them, in order.

    Where texts go beyond a sliding window, the longest does.
    """
    if not texts:
        return []
    longest = max(range(len(texts)), key=lambda at: len(texts[at]))
    sample = {longest}
    for group in {groups[at] for at in (0, longest, len(texts) - 1)}:
        sample.update(np.flatnonzero(np.asarray(groups) == group)[:CHECKED_TEXTS].tolist())
    return sorted(sample)


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest |v - v'| / |v'| of rows; infinite where only one of the two is a number."""
    if not len(found):
        return 0.0
    apart = (found - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    both_bad = ~found.isfinite().all(dim=1) & ~expected.isfinite().all(dim=1)
    return float(apart.masked_fill(both_bad, 0.0).nan_to_num(nan=float("inf")).max())
