"""The people of a run, and what an import of choices did, as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from micropref.pipeline.show.figures import counted
from micropref.pipeline.show.lines import next_step, paragraphs
from micropref.pipeline.show.tables import show_rows

if TYPE_CHECKING:
    from micropref.pipeline.rewards.people.folding import Imported
    from micropref.pipeline.rewards.people.people import RunPeople

MOST_ROWS = 50
"""People who are printed; JSON has all."""
PLACES = {
    "people": "people folder",
    "feedback": "server's file",
    "adapted": "run of adapt",
    "trained": "training",
}


def show_people(found: RunPeople, store: Path) -> str:
    """Return who there are weights for, who is forgotten, and what to do next."""
    rows = [
        {
            "person": one.user,
            "choices": one.choices,
            "learned by": one.method,
            "learned": one.learned[:19].replace("T", " "),
            "kept in": PLACES[one.kept_in],
        }
        for one in found.people[:MOST_ROWS]
    ]
    lines = [] if found.imported is None else _imported(found.imported)
    named = f"run {found.run}" if found.adapted is None else f"run {found.run}, adapted as {found.adapted}"
    lines.append(f"{named}: weights for {_people(len(found.people))}")
    after = []
    if len(found.people) > len(rows):
        after.append(f"{_people(len(found.people) - len(rows))} more: --json lists all")
    if found.forgotten:
        after.append(f"forgotten: {found.forgotten}")
    if found.still_named:
        after.append(
            f"their weights are still in {', '.join(found.still_named)}, which no longer uses them; "
            "`micropref rm` removes a run"
        )
    after += [f"warning: {line}" for line in found.problems]
    text = f"{paragraphs(lines)}{show_rows(rows)}{paragraphs(after)}"
    if found.not_imported is None:
        return text
    return text + next_step("people", found.adapted or found.run, "--import", found.not_imported, store=store)


def _imported(done: Imported) -> list[str]:
    counts = {
        "written": done.written,
        "unchanged": done.unchanged,
        "newer here": done.newer_here,
        "forgotten since": done.forgotten,
    }
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing to write"
    lines = [
        f"{done.file}: choices of {_people(done.people)}: {told}; weights by shrunk, s² = {done.strength:g} "
        f"({done.strength_from})"
    ]
    if done.choices_left_out:
        lines.append(f"left out: {counted(done.choices_left_out, 'choice')} from before the person was forgotten")
    if done.removed:
        lines.append(f"removed: {counted(done.removed, 'file')} of forgotten people")
    return lines


def _people(count: int) -> str:
    return counted(count, "person").replace("persons", "people")
