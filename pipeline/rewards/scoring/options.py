"""Options that score, export, serve and `Run.scorer` have in common. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from micropref.pipeline.options import DeviceName


@dataclass(frozen=True)
class BackboneOptions:
    """How the backbone that made a run's features is loaded."""

    backbone: str | None = None
    """Where it lies now; None: where it was when the features were embedded."""
    device: DeviceName = "auto"
    """Where it computes."""
    trust_remote_code: bool = False
    """Whether its own Python code may run."""
