"""Runs as text: their names and notes, one in full, two side by side, and what `rm` removes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.cache.maintenance.description import Difference, RunDescription, Shown
    from micropref.cache.maintenance.removal import Removal
from micropref.pipeline.show.tables import counted

WIDTH = 80
NAME_WIDTH = 22


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
    return f"run {noted.run} has no note\n" if noted.note is None else f"{printable(noted.note)}\n"


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
    what = {"run": "run", "data": "data set"}[planned.kind]
    lines = [f"{verb} {what} {planned.id}: {counted(planned.files, 'file')}, {planned.bytes / 1e6:,.1f} MB"]
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


def printable(text: str) -> str:
    """Return a text of a user's without what could drive a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


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
    blocks = [f"run {run.run}\n" + _entries(heads)]
    blocks += [f"{title}\n{_entries(entries)}" for title, entries in run.sections.items() if entries]
    return "\n".join(blocks)


def _entries(entries: dict[str, Any]) -> str:
    """Return names and values in two columns; what is not there is left out."""
    told = {name: value for name, value in entries.items() if value not in (None, "", [], {})}
    return "".join(_row([name, _value(value)], [NAME_WIDTH, WIDTH - NAME_WIDTH - 4]) for name, value in told.items())


def _two(first: RunDescription, second: RunDescription, differences: Iterable[Difference]) -> str:
    column = (WIDTH - NAME_WIDTH - 6) // 2
    widths = [NAME_WIDTH, column, column]
    lines = [_row(["", first.run, second.run], widths), _row(["-" * width for width in widths], widths)]
    section = "run"
    for one in differences:
        if one.section != section:
            section = one.section
            lines.append(f"\n{section}\n")
        lines.append(_row([one.name, _value(one.first), _value(one.second)], widths))
    return "".join(lines)


def _row(cells: list[str], widths: list[int]) -> str:
    """Return cells side by side, those that are too long on several lines."""
    wrapped = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    lines = zip(*(cell + [""] * (height - len(cell)) for cell in wrapped), strict=True)
    padded = ("  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "".join(f"  {line}\n" for line in padded)


def _wrap(cell: str, width: int) -> list[str]:
    return [part for line in cell.split("\n") for part in textwrap.wrap(line, width) or [""]]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return printable(value) if "\\n" not in json.dumps(value) or len(value) > 30 else json.dumps(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4f}" if 0.001 <= abs(value) < 1e6 else f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(map(_value, value)) if any(isinstance(one, dict) for one in value) else _listed(value)
    return str(value)


def _listed(values: list[Any] | tuple[Any, ...]) -> str:
    return ", ".join(map(_value, values)) or "none"
