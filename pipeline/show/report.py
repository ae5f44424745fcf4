"""What `report` wrote, as text."""

from __future__ import annotations

from dataclasses import dataclass

from micropref.pipeline.show.entries import size_of
from micropref.pipeline.show.figures import counted
from micropref.pipeline.show.lines import paragraphs


@dataclass(frozen=True)
class Reported:
    """The result of `report`."""

    path: str
    """The page."""
    runs: list[str]
    """Ids of the runs it tells of."""
    data: list[str]
    """Data set and split of each, such as demo/test."""
    pairs: list[int]
    """Scored pairs of each."""
    figures: int
    """Figures, each of which the page saves as SVG and CSV."""
    bytes: int


def show_reported(reported: Reported) -> str:
    """Return where the page is and what it has."""
    runs = [
        f"{run} on {data} ({counted(pairs, 'pair')})"
        for run, data, pairs in zip(reported.runs, reported.data, reported.pairs, strict=True)
    ]
    about = f"{counted(reported.figures, 'figure')}, {size_of(reported.bytes)}, of {', '.join(runs)}"
    return paragraphs([f"{reported.path}: {about}"])
