"""What `pack`, `unpack`, `push` and `pull` did, or would do, as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from micropref.pipeline.show.lines import next_step, paragraphs

if TYPE_CHECKING:
    from micropref.pipeline.sharing.install import Installed
    from micropref.pipeline.sharing.share import SharedReport


def show_shared(report: SharedReport) -> str:
    """Return what left the store; of a plan every file with its columns."""
    what = f"{report.kind} {report.id}"
    if report.planned:
        lines = [
            f"{what} to {report.to}: {len(report.files)} files, {report.bytes:,} bytes would leave; nothing was sent"
        ]
        lines += [
            f"{one['name']}: {one['bytes']:,} bytes, {one['rows']:,} rows: {', '.join(one['columns'])}"
            for one in report.files
        ]
    else:
        there = len(report.files) - report.sent_files
        known = f" ({there} were there)" if there else ""
        lines = [f"{what} to {report.to}: {report.sent_files} files, {report.sent_bytes:,} bytes{known}"]
    if report.revision is not None:
        lines.append(f"revision {report.revision}")
    if report.private is not None:
        lines.append("private: nobody else reads it" if report.private else "public: everybody reads it")
    lines.append(f"people: {report.people:,}" + (", under keyed hashes" if report.people else ""))
    lines.append(_licences(report.licences))
    if not report.planned:
        taken = "unpack" if report.private is None and "://" not in report.to else "pull"
        lines.append(f"elsewhere: micropref {taken} {report.to}{_at(report.revision)}")
    return paragraphs(lines)


def show_installed(report: Installed, store: Path | None = None) -> str:
    """Return what is new in the store, and the command that uses it."""
    new = [*report.runs, *(f"features {name}" for name in report.features), *(f"data {one}" for one in report.datasets)]
    at = f" at revision {report.revision}" if report.revision else ""
    lines = [f"{report.kind} {report.id} from {report.came_from.partition('@')[0]}{at}: "
             + (", ".join(new) if new or report.vectors else "all of it was here already")]  # fmt: skip
    if report.vectors:
        lines.append(f"vectors that are new here: {report.vectors:,}")
    if report.people:
        lines.append(f"people, under keyed hashes: {report.people:,}")
    lines.append(_licences(report.licences))
    option = ("--backbone", report.backbone or "FOLDER")
    if report.kind == "run":
        words = ["score", report.id, "candidates.jsonl", *(() if report.backbone else option)]
    elif report.datasets:
        words = ["train", report.datasets[0]]
    else:
        lines.append("vectors of the same texts are reused")
        words = ["embed", "SOURCE", "--name", "NAME", *option]
    return paragraphs(lines) + next_step(*words, store=store)


def _licences(licences: dict[str, str | None]) -> str:
    told = {name: licences[name] for name in ("own", "data", "backbone") if name != "own" or licences[name]}
    return "licences: " + ", ".join(f"{name} {text or 'not known'}" for name, text in told.items())


def _at(revision: str | None) -> str:
    return f"@{revision}" if revision else ""
