"""Backbones: a pretrained transformer's trunk, which turns token ids into one vector per text.

Letters: B texts of a batch, T tokens of the longest of them, D width of the trunk.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from micropref.cache.errors import BadInput, Failure
from micropref.pipeline.backbone.architecture import LONGEST, is_causal, position_limit, position_offset
from micropref.pipeline.backbone.checkpoint import Checkpoint, find_checkpoint
from micropref.pipeline.backbone.devices import choose_device, choose_dtype, free_memory, lacks_memory
from micropref.pipeline.backbone.loading import loading
from micropref.pipeline.backbone.matmul import fast_products
from micropref.pipeline.backbone.packing import Packed
from micropref.pipeline.backbone.pooling import Pooling, choose_pooling
from micropref.pipeline.backbone.tree_attention import Layout, NotFollowedError, attending_to_trees
from micropref.pipeline.options import DeviceName, EmbedDtype, PoolingName
from micropref.pipeline.text.tokenizer import PairTokenizer, Tokenizing
from micropref.pipeline.text.tokens import Tokens

_LOADING_ERRORS = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)
_UNUSED_WEIGHTS = ("pooler.",)
"""Weights a checkpoint may lack: they come after the hidden states."""


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
    pooling: Pooling
    """How the vector of a text is made."""
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
    reward_head: Tensor | None
    """[1, D] float32 `score.weight` of a sequence-classification checkpoint with one label."""
    trust_remote_code: bool
    """Whether the checkpoint's own Python code may run."""

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

        `dtype` auto is bfloat16 where the device multiplies in it, else float32; `pooling` auto is the last token for
        causal backbones, what an encoder's own modules.json asks for otherwise; `max_length` None is the backbone's
        position limit, at most 4096; `revision` is a branch, tag or commit of a hub id; `trust_remote_code` lets the
        checkpoint's own Python code run. Without `weights` the trunk is an outline on the meta device that embeds
        nothing but knows all the rest; the weights need not be there.

        Raises BadInput where nothing can be loaded under that name, or where this backbone or this machine cannot
        follow an option.
        """
        checkpoint = find_checkpoint(name, revision, weights=weights)
        where = choose_device(device) if weights else torch.device("meta")
        number = choose_dtype(dtype, where)
        trunk, tokenizer = _load_parts(checkpoint, number, trust_remote_code=trust_remote_code, weights=weights)
        _move(name, trunk, where)
        causal = is_causal(trunk.config)
        offset = position_offset(trunk)
        width = int(trunk.config.get_text_config().hidden_size)
        return cls(
            checkpoint=checkpoint,
            trunk=trunk,
            tokenizer=tokenizer,
            causal=causal,
            pooling=choose_pooling(pooling, checkpoint.folder, causal=causal),
            device=where,
            dtype=number,
            width=width,
            max_length=_choose_max_length(name, max_length, position_limit(trunk.config, offset)),
            first_position=offset,
            reward_head=_read_reward_head(checkpoint, trunk, width),
            trust_remote_code=trust_remote_code,
        )

    def settings(self) -> dict[str, Any]:
        """Return what changes a vector apart from `PairTokenizer.settings`, as JSON: part of the features id."""
        return {
            "checkpoint": self.checkpoint.digest(),
            "tokenizer": self.checkpoint.tokenizer_digest(),
            "pooling": self.pooling.settings(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "trust_remote_code": self.trust_remote_code,
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
        }

    def pair_tokenizer(self, options: Tokenizing) -> PairTokenizer:
        """Return the tokenizer of preference pairs for this backbone.

        Raises BadInput on options that this backbone cannot follow.
        """
        if options.max_length > self.max_length:
            raise BadInput(f"max length {options.max_length}: this backbone was loaded for at most {self.max_length}")
        return PairTokenizer(self.tokenizer, options, segments=not self.causal)

    def embed(self, batch: Sequence[Tokens], *, padding_side: Literal["right", "left"] = "right") -> Tensor:
        """Return the vectors [B, D] of B texts, float32 on the CPU; on lack of memory, half a batch at a time.

        Raises Failure where not even one text fits into memory.
        """
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
        accepted = inspect.signature(self.trunk.forward).parameters
        if "position_ids" not in accepted:
            raise NotFollowedError(f"{type(self.trunk).__name__} counts positions itself")
        inputs = {"input_ids": packed.ids, "position_ids": packed.positions + self.first_position}
        if packed.type_ids is not None and self._has_segments(accepted):
            inputs["token_type_ids"] = packed.type_ids
        placed: dict[str, Any] = {name: tensor[None].to(self.device) for name, tensor in inputs.items()}
        placed["layout"] = Layout(packed.segments, self.causal, self.device)
        with attending_to_trees(self.trunk), fast_products(torch.float32):
            hidden = self.trunk(**placed).last_hidden_state[0]
        return self.pooling(hidden, packed.rows.to(self.device), packed.lengths.to(self.device)).cpu()

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Tokens], padding_side: str) -> Tensor:
        inputs = self._pad(batch, padding_side)
        rows = inputs["attention_mask"].flatten().nonzero().flatten().to(self.device)
        lengths = inputs["attention_mask"].sum(1).to(self.device)
        with fast_products(torch.float32):
            hidden = self.trunk(**{name: tensor.to(self.device) for name, tensor in inputs.items()}).last_hidden_state
        return self.pooling(hidden.flatten(0, 1), rows, lengths).cpu()

    def _pad(self, batch: Sequence[Tokens], padding_side: str) -> dict[str, Tensor]:
        """Return the trunk's arguments, [B, T] each. Padding is known by the mask alone: its id never matters."""
        longest = max(map(len, batch))
        shape = (len(batch), longest)
        ids = torch.full(shape, self._padding_id(), dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.int64)
        types = torch.zeros(shape, dtype=torch.int64)
        for row, tokens in enumerate(batch):
            span = slice(len(tokens)) if padding_side == "right" else slice(longest - len(tokens), None)
            ids[row, span] = torch.from_numpy(tokens.ids)
            mask[row, span] = 1
            if tokens.type_ids is not None:
                types[row, span] = torch.from_numpy(tokens.type_ids)
        inputs = {"input_ids": ids, "attention_mask": mask}
        accepted = inspect.signature(self.trunk.forward).parameters
        if self._has_segments(accepted):
            inputs["token_type_ids"] = types
        if "position_ids" in accepted and padding_side == "left":
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0) + self.first_position
        return inputs

    def _has_segments(self, accepted: Mapping[str, inspect.Parameter]) -> bool:
        return "token_type_ids" in accepted and getattr(self.trunk.config, "type_vocab_size", 0) > 1

    def _padding_id(self) -> int:
        # RoBERTa-like models count positions by their own padding id, so it is used where there is a usable one.
        config = self.trunk.config.get_text_config()
        own = getattr(config, "pad_token_id", None)
        return own if isinstance(own, int) and 0 <= own < config.vocab_size else 0


def _move(name: str, trunk: nn.Module, device: torch.device) -> None:
    try:
        nn.Module.to(trunk, device)
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        raise Failure(
            f"backbone {name} does not fit into the memory of {device.type}: use a smaller one or another device"
        ) from None


def _load_parts(
    checkpoint: Checkpoint, dtype: torch.dtype, *, trust_remote_code: bool, weights: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        with loading():
            config = AutoConfig.from_pretrained(checkpoint.folder, **options)
            if config.is_encoder_decoder:
                raise BadInput(
                    f"backbone {checkpoint.name}: {config.model_type} is an encoder-decoder; expected a causal model "
                    "or an encoder"
                )
            config.use_cache = False
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, **options)
            if not weights:
                with torch.device("meta"):
                    outline = AutoModel.from_config(config, dtype=dtype, **options)  # type: ignore[no-untyped-call]
                return outline.eval(), tokenizer
            trunk, report = AutoModel.from_pretrained(
                checkpoint.folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
    except _LOADING_ERRORS as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadInput(
            f"backbone {checkpoint.name}: transformers cannot load {checkpoint.folder} "
            f"({type(error).__name__}: {reason})"
        ) from None
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(_UNUSED_WEIGHTS))
    if missing:
        raise BadInput(
            f"backbone {checkpoint.name}: its safetensors lack {len(missing)} weights of a {type(trunk).__name__} "
            f"({missing[0]}, ...): expected a complete checkpoint"
        )
    return trunk.eval(), tokenizer


def _choose_max_length(name: str, asked: int | None, limit: int | None) -> int:
    if asked is None:
        return min(LONGEST, limit or LONGEST)
    if asked < 1 or (limit is not None and asked > limit):
        most = f"at most {limit}, the backbone's positions" if limit else "at least 1"
        raise BadInput(f"max length {asked}: backbone {name} takes {most}")
    return asked


def _read_reward_head(checkpoint: Checkpoint, trunk: PreTrainedModel, width: int) -> Tensor | None:
    if not any(name.endswith("ForSequenceClassification") for name in trunk.config.architectures or ()):
        return None
    for path in sorted(checkpoint.folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            if "score.weight" in weights.keys():  # noqa: SIM118 - not a mapping
                head: Tensor = weights.get_tensor("score.weight").float()
                return head if head.shape == (1, width) else None
    return None
