"""Options of `embed`: backbone, texts and machines; those of sources are in pipeline.sources."""

from __future__ import annotations

from dataclasses import dataclass

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.options import (
    CONTEXT_TEMPLATE,
    MINILM,
    PINNED_DATE,
    DeviceName,
    EmbedDtype,
    EngineName,
    Overlong,
    PassName,
    PoolingName,
    Responses,
    SpecialTokens,
    StoreDtype,
    TemplateName,
)


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `embed`: backbone and texts."""

    backbone: str = MINILM
    """`minilm`, `smollm2`, a folder, a .gguf file, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    pooling: PoolingName = "auto"
    """How a text's vector is made; see Backbone.load."""
    max_length: int | None = None
    """Most tokens of a text; None: the backbone's positions, at most 4096."""
    overlong: Overlong = "trim-prompt"
    """What becomes of pairs that do not fit."""
    template: TemplateName = "auto"
    """How prompt and response become one text."""
    date: str = PINNED_DATE
    """Date passed to chat templates."""
    special_tokens: SpecialTokens = "auto"
    """Whether control tokens that users typed stay text, or become tokens as in the first release; auto: as the data
    set has it, else text."""
    context_template: str = CONTEXT_TEMPLATE
    """How a context goes before a prompt."""
    responses: Responses = "plain"
    """Behind which prompt responses are embedded."""
    dtype: EmbedDtype = "auto"
    """Compute dtype."""
    store_dtype: StoreDtype = "auto"
    """auto: float16 for vectors computed in 16 bits, else float32."""
    device: DeviceName = "auto"
    """Where the backbone computes."""
    packing: PassName = "auto"
    """How texts are put together for the backbone; the vectors are the same."""
    tokens_per_batch: int | None = None
    """Tokens of a batch, padding included; None: a size that is near the best on CPUs."""
    trust_remote_code: bool = False
    """Whether the checkpoint's own Python code may run."""

    def __post_init__(self) -> None:
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise BadInput(f"tokens_per_batch is {self.tokens_per_batch}: expected at least 1")

    def load(self, *, weights: bool = True) -> Backbone:
        """Load the backbone; without its weights only what they would be is known: widths, tokens, settings."""
        return Backbone.load(
            self.backbone,
            dtype=self.dtype,
            device=self.device,
            pooling=self.pooling,
            max_length=self.max_length,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            weights=weights,
        )


@dataclass(frozen=True)
class EngineOptions:
    """Options of `embed`: where the shards are forwarded."""

    engine: EngineName = "local"
    """This machine, or a Ray cluster."""
    workers: int | None = None
    """Processes with a backbone each; None: one for each GPU, or this process alone."""
    ray_address: str | None = None
    """Ray's head, such as `auto` or `ray://host:10001`; None: the cluster here, or one of this machine alone."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise BadInput(f"workers is {self.workers}: expected at least 1")
        if self.ray_address is not None and self.engine != "ray":
            raise BadInput(f"ray_address is {self.ray_address!r}: give `engine` ray with it, or leave it out")
