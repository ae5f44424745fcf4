"""Backbones: a pretrained transformer's trunk, which turns token ids into one vector per text.

Letters: B texts of a batch, T tokens of the longest of them, D width of the trunk.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from micropref.cache.errors import BadInput, Failure
from micropref.pipeline.backbone.architecture import (
    LONGEST,
    carries_state,
    grows_with_length,
    is_causal,
    limit_note,
    position_limit,
    position_offset,
    readable_together,
)
from micropref.pipeline.backbone.checkpoint import Checkpoint, find_checkpoint
from micropref.pipeline.backbone.devices import choose_device, choose_dtype, free_memory, lacks_memory
from micropref.pipeline.backbone.load_trunk import FULL_ATTENTION, load_parts, output_width, uses_half
from micropref.pipeline.backbone.matmul import fast_products
from micropref.pipeline.backbone.packing import Packed
from micropref.pipeline.backbone.padding import has_segments, padded
from micropref.pipeline.backbone.pooling import Pooling
from micropref.pipeline.backbone.recipe import Recipe, choose_recipe, first_release
from micropref.pipeline.backbone.tree_attention import Layout, NotFollowedError, attending_to_trees
from micropref.pipeline.backbone.weight_files import RewardHead, are_small, read_reward_head
from micropref.pipeline.options import DeviceName, EmbedDtype, PoolingName
from micropref.pipeline.text.tokenizer import PairTokenizer, Tokenizing
from micropref.pipeline.text.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded trunk with its tokenizer. `Backbone.load` makes one."""

    checkpoint: Checkpoint
    """Where it came from."""
    trunk: PreTrainedModel
    """The transformer without a language model's or classifier's head, in evaluation mode."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    causal: bool
    """Whether tokens see only those before them; else it is an encoder."""
    recipe: Recipe
    """How texts are read, and their vectors made."""
    device: torch.device
    """Where it computes."""
    dtype: torch.dtype
    """In which numbers it computes."""
    width: int
    """D, the length of a vector."""
    max_length: int
    """Most tokens of a text."""
    first_position: int
    """Position of a text's first token."""
    head: RewardHead
    """The reward head of a sequence-classification checkpoint with one label, or what is there instead."""
    trust_remote_code: bool
    """Whether the checkpoint's own Python code may run."""
    notes: tuple[str, ...] = ()
    """What the user should know of the checkpoint before anything is read."""

    @classmethod
    def load(
        cls,
        name: str,
        *,
        dtype: EmbedDtype = "auto",
        device: DeviceName = "auto",
        pooling: PoolingName = "auto",
        max_length: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        weights: bool = True,
    ) -> Self:
        """Load what `find_checkpoint` finds: a folder, hub id, .gguf file or packaged backbone; never from pickle.

        `dtype` auto is bfloat16 where the device multiplies in it, else float32; `pooling` auto is an embedding model's
        own recipe, else the last token for causal backbones and the mean for encoders; `max_length` None is the
        backbone's position limit, at most 4096; `revision` is a branch, tag or commit of a hub id; `trust_remote_code`
        lets the checkpoint's own Python code run. Without `weights` the trunk is an outline on the meta device that
        embeds nothing but knows all the rest; the weights need not be there, and are tried where they are, if small.

        Raises BadInput where nothing can be loaded under that name, or where this backbone or this machine cannot
        follow an option.
        """
        checkpoint = find_checkpoint(name, revision, weights=weights)
        where = choose_device(device) if weights else torch.device("meta")
        number = choose_dtype(dtype, where)
        trunk, tokenizer = load_parts(checkpoint, number, trust_remote_code=trust_remote_code, weights=weights)
        _move(name, trunk, where)
        causal = is_causal(trunk.config)
        offset = position_offset(trunk)
        recipe = choose_recipe(pooling, checkpoint.folder, causal=causal)
        hidden = output_width(name, trunk)
        if not weights and checkpoint.has_weights and are_small(checkpoint.folder):  # a plan finds what a pass would
            whole, _ = load_parts(checkpoint, number, trust_remote_code=trust_remote_code, weights=True)
            hidden = output_width(name, whole)
        architectures = list(trunk.config.architectures or ())
        width = recipe.pooling.width(hidden)
        head = read_reward_head(checkpoint.folder, checkpoint.adapter, architectures, width)
        return cls(
            checkpoint=checkpoint,
            trunk=trunk,
            tokenizer=tokenizer,
            causal=causal,
            recipe=recipe,
            device=where,
            dtype=number,
            width=width,
            max_length=_choose_max_length(name, max_length, position_limit(trunk.config, trunk, offset)),
            first_position=offset,
            head=head,
            trust_remote_code=trust_remote_code,
            notes=_notes(checkpoint, trunk, head, max_length, weights=weights),
        )

    @property
    def pooling(self) -> Pooling:
        """Return how the vector of a text is made."""
        return self.recipe.pooling

    @property
    def reward_head(self) -> Tensor | None:
        """Return the [1, D] float32 reward head, where there is one that is read."""
        return self.head.weight

    @cached_property
    def own_order(self) -> str | None:
        """Return what in this trunk hands a state from row to row, so that texts cannot share rows; None: nothing."""
        return carries_state(self.trunk)

    def read_as_first_release(self) -> Self:
        """Return this backbone with texts read and pooled as version 0.1.0 did."""
        old = first_release(self.recipe, causal=self.causal)
        hidden = self.width // self.pooling.width(1)
        return replace(self, recipe=old, width=old.pooling.width(hidden))

    def settings(self) -> dict[str, Any]:
        """Return what changes a vector apart from `PairTokenizer.settings`, as JSON: part of the features id."""
        return {
            "checkpoint": self.checkpoint.digest(),
            "tokenizer": self.checkpoint.tokenizer_digest(),
            "pooling": self.pooling.settings(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "trust_remote_code": self.trust_remote_code,
            **({"attention": FULL_ATTENTION} if hasattr(self.trunk, "set_attention_type") else {}),
        }

    def description(self) -> dict[str, Any]:
        """Return what tells a reader which backbone this is but changes no vector, as JSON."""
        return {
            "name": self.checkpoint.name,
            "revision": self.checkpoint.revision,
            "architecture": type(self.trunk).__name__,
            "causal": self.causal,
            "device": self.device.type,
            "reward_head": self.reward_head is not None,
            "unread_head": self.head.unread or None,
        }

    def pair_tokenizer(self, options: Tokenizing) -> PairTokenizer:
        """Return the tokenizer of preference pairs for this backbone.

        Raises BadInput on options that this backbone cannot follow.
        """
        if options.max_length > self.max_length:
            raise BadInput(f"max length {options.max_length}: this backbone was loaded for at most {self.max_length}")
        return PairTokenizer(
            self.tokenizer, options, segments=not self.causal, recipe=self.recipe.text, ids=self.known_ids
        )

    @property
    def known_ids(self) -> int | None:
        """Return how many token ids have a row in the embedding; None where ids are not rows of one."""
        table = self.trunk.get_input_embeddings()
        return table.num_embeddings if isinstance(table, nn.Embedding) else None

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return which texts of these lengths may share a forward, as places in `lengths`."""
        return readable_together(self.trunk.config, lengths)

    def embed(self, batch: Sequence[Tokens], *, padding_side: Literal["right", "left"] = "right") -> Tensor:
        """Return the vectors [B, D] of B texts, float32 on the CPU; on lack of memory, half a batch at a time.

        Texts that would change each other's positions are read apart. Raises Failure where not even one text fits into
        memory.
        """
        groups = self.groups([len(tokens) for tokens in batch])
        if len(groups) > 1:
            vectors = torch.empty(len(batch), self.width)
            for places in groups:
                vectors[places] = self.embed([batch[at] for at in places], padding_side=padding_side)
            return vectors
        try:
            return self._forward(batch, padding_side)
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            if len(batch) == 1:
                raise Failure(
                    f"out of memory on {self.device.type} for one text of {len(batch[0])} tokens: "
                    "lower the max length, or use a smaller backbone"
                ) from None
        # Out of the handler, whose traceback holds the tensors that did not fit.
        free_memory(self.device)
        half = len(batch) // 2
        halves = [self.embed(part, padding_side=padding_side) for part in (batch[:half], batch[half:])]
        return torch.cat(halves)

    @torch.inference_mode()
    def embed_packed(self, packed: Packed) -> Tensor:
        """Return the vectors [B, D] of packed texts, float32 on the CPU.

        Raises NotFollowedError where this trunk cannot read them, and torch's RuntimeError where they do not fit.
        """
        if self.own_order is not None:
            raise NotFollowedError(
                f"{type(self.trunk).__name__} has {self.own_order}, which mixes texts that share rows"
            )
        if "position_ids" not in inspect.signature(self.trunk.forward).parameters:
            raise NotFollowedError(f"{type(self.trunk).__name__} counts positions itself")
        inputs = {"input_ids": packed.ids, "position_ids": packed.positions + self.first_position}
        if packed.type_ids is not None and has_segments(self.trunk):
            inputs["token_type_ids"] = packed.type_ids
        placed: dict[str, Any] = {name: tensor[None].to(self.device) for name, tensor in inputs.items()}
        placed["layout"] = Layout(packed.segments, self.causal, self.device)
        with attending_to_trees(self.trunk), fast_products(torch.float32):
            hidden = self.trunk(**placed).last_hidden_state[0]
        return self.pooling(hidden, packed.rows.to(self.device), packed.lengths.to(self.device)).cpu()

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Tokens], padding_side: str) -> Tensor:
        inputs = padded(self.trunk, batch, padding_side, self.first_position)
        rows = inputs["attention_mask"].flatten().nonzero().flatten().to(self.device)
        lengths = inputs["attention_mask"].sum(1).to(self.device)
        if grows_with_length(self.trunk.config):  # a text of one token makes it forget longer ones
            self.trunk(input_ids=inputs["input_ids"][:1, :1].to(self.device))
        with fast_products(torch.float32):
            hidden = self.trunk(**{name: tensor.to(self.device) for name, tensor in inputs.items()}).last_hidden_state
        return self.pooling(hidden.flatten(0, 1), rows, lengths).cpu()


def _move(name: str, trunk: nn.Module, device: torch.device) -> None:
    try:
        nn.Module.to(trunk, device)
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        raise Failure(
            f"backbone {name} does not fit into the memory of {device.type}: use a smaller one or another device"
        ) from None


def _notes(
    checkpoint: Checkpoint, trunk: PreTrainedModel, head: RewardHead, max_length: int | None, *, weights: bool
) -> tuple[str, ...]:
    """Return what the user should know of a checkpoint."""
    notes = []
    if not weights and not checkpoint.has_weights and any(checkpoint.folder.glob("*.safetensors")):
        notes.append("its weight files are not all here, which the pass needs; fetch them again")
    if checkpoint.adapter is not None:
        notes.append(f"the adapter in {checkpoint.adapter} is merged into {checkpoint.folder}")
    if uses_half(trunk.config):
        notes.append(f"of the encoder-decoder {trunk.config.model_type} only the encoder is read")
    if head.unread and head.unread.split()[0].endswith("ForSequenceClassification"):
        notes.append(f"its reward head is of a form that method own-head does not read: {head.unread}")
    limit = limit_note(trunk.config)
    if limit is not None and max_length is None:
        notes.append(limit)
    return tuple(f"backbone {checkpoint.name}: {note}" for note in notes)


def _choose_max_length(name: str, asked: int | None, limit: int | None) -> int:
    if asked is None:
        return min(LONGEST, limit or LONGEST)
    if asked < 1 or (limit is not None and asked > limit):
        most = f"at most {limit}, the backbone's positions" if limit else "at least 1"
        raise BadInput(f"max length {asked}: backbone {name} takes {most}")
    return asked
