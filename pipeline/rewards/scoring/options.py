"""Options that score, export, serve and `Run.scorer` have in common. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from micropref.pipeline.options import DeviceName, PassName


@dataclass(frozen=True)
class BackboneOptions:
    """How the backbone that made a run's features is loaded, and reads texts."""

    backbone: str | None = None
    """Where it lies now; None: where it was when the features were embedded."""
    device: DeviceName = "auto"
    """Where it computes."""
    trust_remote_code: bool = False
    """Whether its own Python code may run."""
    packing: PassName = "auto"
    """How texts are put together for the backbone."""
    tokens_per_batch: int | None = None
    """Tokens of a batch, padding included; None: what is good for the device."""
