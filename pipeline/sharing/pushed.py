"""What every place has in common."""

from __future__ import annotations

from dataclasses import dataclass

README = "README.md"
CARD_MARK = "<!-- written by `micropref push`; remove this line to keep your own card -->"


@dataclass(frozen=True)
class Pushed:
    """What `push` sent."""

    files: int
    """Files that were not there."""
    bytes: int
    revision: str | None
    """The hub's commit; None elsewhere."""
