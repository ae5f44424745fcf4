"""What `doctor` found, as text for a bug report."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micropref.cache.maintenance.doctor import Diagnosis
from micropref.pipeline.show.entries import show_entries


def show_doctor(found: Diagnosis) -> str:
    """Return a block for each heading."""
    return "\n".join(f"{title}\n{show_entries(entries)}" for title, entries in asdict(found).items() if entries)
