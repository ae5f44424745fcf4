"""Runs as text: their names and notes, one in full, two side by side, and what `rm` removes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.cache.maintenance.description import Difference, RunDescription, Shown
    from micropref.cache.maintenance.removal import Removal
from micropref.cache.sql.columns import printable
from micropref.pipeline.show.entries import NAME_WIDTH, as_text, show_entries, show_row, size_of
from micropref.pipeline.show.figures import counted
from micropref.pipeline.show.lines import WIDTH


@dataclass(frozen=True)
class Named:
    """What `name` says."""

    run: str
    names: list[str]
    """All names the run has now."""


@dataclass(frozen=True)
class Noted:
    """What `note` says."""

    run: str
    note: str | None


def show_named(named: Named) -> str:
    """Return the names of a run."""
    return f"run {named.run}: {'names ' if named.names else 'no name'}{', '.join(named.names)}\n"


def show_noted(noted: Noted) -> str:
    """Return the note of a run."""
    if noted.note is None:
        return f"run {noted.run} has no note\n"
    return printable(noted.note, kept="\n") + "\n"


def show_runs(shown: Shown) -> str:
    """Return one run in full, or what sets two apart."""
    if len(shown.runs) == 1:
        return _one(shown.runs[0])
    first, second = shown.runs
    if not shown.differences:
        return f"runs {first.run} and {second.run} do not differ\n"
    return _two(first, second, shown.differences)


def show_removal(planned: Removal, *, asked: bool) -> str:
    """Return what is about to go, or has gone."""
    verb = "removed" if planned.removed else "will remove" if asked else "would remove"
    what = "data set" if planned.kind == "data" else "run" if planned.finished else "unfinished run"
    lines = [f"{verb} {what} {planned.id}: {counted(planned.files, 'file')}, {size_of(planned.bytes)}"]
    if planned.names:
        lines.append(f"its names go with it: {', '.join(planned.names)}")
    if planned.people:
        lines.append(f"the weights of {counted(planned.people, 'person')} go with it".replace("persons", "people"))
    if planned.trained:
        stays = "learned from it and stays" if len(planned.trained) == 1 else "learned from it and stay"
        lines.append(f"{counted(len(planned.trained), 'run')} {stays}, marked by `ls`: {', '.join(planned.trained)}")
    if planned.kind == "data":
        lines.append("its vectors stay until `micropref gc` finds that no other data set needs them")
    return "".join(f"{part}\n" for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  "))


def _one(run: RunDescription) -> str:
    kept = f"{counted(run.people, 'person')}".replace("persons", "people") if run.people else None
    heads = {
        "names": ", ".join(run.names),
        "note": run.note,
        "method": run.method,
        "derives from": run.parent,
        "derived from it": ", ".join(run.derived),
        "people": kept,
    }
    blocks = [f"run {run.run}\n" + show_entries(heads)]
    blocks += [f"{title}\n{show_entries(entries)}" for title, entries in run.sections.items() if entries]
    return "\n".join(blocks)


def _two(first: RunDescription, second: RunDescription, differences: Iterable[Difference]) -> str:
    column = (WIDTH - NAME_WIDTH - 6) // 2
    widths = [NAME_WIDTH, column, column]
    lines = [show_row(["", first.run, second.run], widths), show_row(["-" * width for width in widths], widths)]
    section = "run"
    for one in differences:
        if one.section != section:
            section = one.section
            lines.append(f"\n{section}\n")
        lines.append(show_row([one.name, as_text(one.first), as_text(one.second)], widths))
    return "".join(lines)
