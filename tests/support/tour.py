"""docs/tour.md as commands with the output that follows them; run as a script it writes the outputs anew.

    PYTHONPATH=. python tests/support/tour.py      (`make tour`)

The runs, sweep.html and topics.csv of the tour then lie in build/tour, the demo's store in build/tour/data.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from micropref import cli
from micropref.cache.store import StoreFolder
from micropref.pipeline.demo.demo import run_demo

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tour.md"
FOLDER = ROOT / "build" / "tour"
RUNS = {
    "RUN": "mixture, router reads context",
    "SINGLE": "single reward",
    "PROMPT": "mixture, router reads prompt",
}
"""Variable of the tour -> the demo's name of its run."""


@dataclass(frozen=True)
class Step:
    """One command of the tour."""

    command: str
    """As it is typed in, behind the prompt, with `$RUN` and the like in it."""
    shown: str | None
    """The output printed below it; None for commands other than `sql`, whose output the tour leaves out."""
    start: int
    """Where in the page `shown` begins."""


def steps(text: str) -> list[Step]:
    """Return the commands of a page's console blocks, those of `sql` with the output below them."""
    found: list[Step] = []
    for block in re.finditer(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for part in re.finditer(r"^\$ (.*?)(?=^\$ |\Z)", block[1], re.DOTALL | re.MULTILINE):
            command = _command(part[1])
            start = block.start(1) + part.start(1) + len(command)
            has_output = command.startswith("micropref sql")
            found.append(Step(command, part[1][len(command) :] if has_output else None, start))
    return found


def _command(part: str) -> str:
    """Return the lines that a command takes: up to the one that closes its quotes."""
    lines = part.splitlines(keepends=True)
    for end in range(1, len(lines) + 1):
        with contextlib.suppress(ValueError):
            shlex.split("".join(lines[:end]))
            return "".join(lines[:end])
    raise ValueError(f"a quote that is never closed: {part}")


def given_files(text: str) -> dict[str, str]:
    """Return the files that a page says to have: "With this as `NAME`:" and a block."""
    return dict(re.findall(r"^With this as `([\w.]+)`:\n\n```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def outputs(found: list[Step], runs: Mapping[str, str]) -> Iterator[str]:
    """Run the commands in the current folder, and yield what each prints; `runs` has an id for `RUN` and the others."""
    for step in found:
        typed = re.sub(r"\$(\w+)", lambda name: runs[name[1]], step.command)
        program, *words = shlex.split(typed)
        assert program == "micropref"
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == 0, f"{typed}\n{done.output}"
        yield done.stdout


def rewritten(text: str, found: list[Step], printed: list[str]) -> str:
    """Return the page with other outputs."""
    for step, output in reversed(list(zip(found, printed, strict=True))):
        if step.shown is not None:
            text = text[: step.start] + output + text[step.start + len(step.shown) :]
    return text


def walk(folder: Path) -> tuple[str, str]:
    """Build the demo's store and run the whole tour in a folder; return the page as it is and as it was found."""
    text = PAGE.read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        demo = run_demo(StoreFolder(Path("data")), lambda line: print(line, file=sys.stderr))
        for name, content in given_files(text).items():
            Path(name).write_text(content, encoding="utf-8")
        found = steps(text)
        printed = list(outputs(found, {name: demo.runs[model] for name, model in RUNS.items()}))
    return text, rewritten(text, found, printed)


def main() -> None:
    """Write docs/tour.md with the outputs of this machine, and print what changed."""
    before, after = walk(FOLDER)
    PAGE.write_text(after, encoding="utf-8")
    sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "before", "after"))


if __name__ == "__main__":
    main()
