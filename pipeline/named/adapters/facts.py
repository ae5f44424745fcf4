"""What is known of a public data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from micropref.pipeline.sources.adapters import Adapter


@dataclass(frozen=True, eq=False)
class NamedDataset:
    """A data set of the hub, and how it is read."""

    name: str
    """owner/name on the hub."""
    licence: str
    """As its card says."""
    size: str
    """Rows by split."""
    labels: str
    """What a label is: who preferred what, and how it became a pair here."""
    attributes: str
    """What the pairs' attributes are; "none"."""
    contexts: str
    """What the pairs' contexts are; "none"."""
    users: str
    """Who the pairs' users are; "none"."""
    configs: Mapping[str, Adapter]
    """Config → its adapter; the first is read where none is chosen."""
    protocol: str = ""
    """How the paper uses it; empty: not at all."""
    gated: bool = False
    """Whether the hub gives it only to those who accepted its terms."""

    def adapter(self, config: str | None) -> Adapter | None:
        """Return the adapter of a config; None for a config that has none."""
        return next(iter(self.configs.values())) if config is None else self.configs.get(config)

    def card_config(self, config: str | None) -> str | None:
        """Return which of the README's configs an adapter reads; None: the only one, or files of its own."""
        chosen = next(iter(self.configs)) if config is None else config
        return chosen if len(self.configs) > 1 and not self.configs[chosen].files else None
