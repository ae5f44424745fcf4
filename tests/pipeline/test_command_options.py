"""Commands made from methods: options, defaults and help as the method has them, values as it takes them."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import pytest
import typer
from typer.testing import CliRunner

from micropref import cli
from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.pipeline.command_options import CommandOptions, Form, completion, with_flags

FIRST_RELEASE = Path(__file__).parents[1] / "data" / "store-0.1.0.tar.gz"


class Machine:
    """A small API."""

    def make(
        self,
        name: str,
        *,
        size: int | None = None,
        mode: Literal["slow", "fast"] = "fast",
        steps: int | Sequence[int] = (1, 2),
        smooth: bool = True,
        dry: bool = False,
        out: str | Path | None = None,
        pass_: str = "a\nb",
    ) -> None:
        """Make something.

        Args:
            name: the thing.
            size: how large, see `mode`; None: as large as it
                gets.
            mode: fast or not.
            steps: of the `mode`.
            smooth: smooth it.
            dry: make nothing.
            out: file to write.
            pass_: two lines.

        """

    def repair(self, *, mode: Literal["slow", "fast"] = "slow") -> None:
        """Repair something.

        Args:
            mode: as in `make`.

        """


def whole(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


OPTIONS = CommandOptions(
    Machine.make, Machine, {"steps": Form(metavar="N,N", kind=str, parse=whole), "pass_": Form("--pass")}
)


def run(*words: str) -> dict[str, Any]:
    """Return the arguments that a command line comes to."""
    found: dict[str, Any] = {}
    app = typer.Typer(rich_markup_mode=None)

    def command(ctx: typer.Context, **typed: Any) -> None:
        given = frozenset(name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE")
        found.update(OPTIONS.values(typed, given))

    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *OPTIONS.parameters()])  # type: ignore[attr-defined]
    command.__annotations__ = {}
    app.command()(command)
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return found | {"help": CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output}


def test_arguments_are_as_python_has_them_by_default() -> None:
    found = run("x")
    assert {name: value for name, value in found.items() if name != "help"} == {
        "name": "x", "size": None, "mode": "fast", "steps": (1, 2), "smooth": True, "dry": False, "out": None,
        "pass_": "a\nb",
    }  # fmt: skip


def test_arguments_are_typed_in_as_their_forms_say() -> None:
    found = run(
        "x", "--size", "3", "--mode", "slow", "--steps", "4,5", "--no-smooth", "--dry", "--out", "f", "--pass", "p"
    )
    assert {name: value for name, value in found.items() if name != "help"} == {
        "name": "x", "size": 3, "mode": "slow", "steps": [4, 5], "smooth": False, "dry": True, "out": Path("f"),
        "pass_": "p",
    }  # fmt: skip


def test_help_is_what_the_docstring_says() -> None:
    lines = [" ".join(line.split()) for line in run("x")["help"].splitlines()]
    told = " ".join(lines)
    assert "NAME <str> The thing. [required]" in told
    assert "--size <int> How large, see --mode. [default: as large as it gets]" in told
    assert "--mode <slow|fast> fast or not. [default: fast]" in told
    assert "--steps N,N Of the --mode. [default: 1,2]" in told
    assert "--smooth / --no-smooth Smooth it. [default: smooth]" in told
    assert "--pass <str> Two lines. [default: 'a\\nb']" in told


def test_help_of_one_method_may_be_that_of_another() -> None:
    (mode,) = CommandOptions(Machine.repair, Machine, {}).parameters()
    assert mode.annotation.__metadata__[0].help == "fast or not."


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("k is 0: expected at least 1", "--k is 0: expected at least 1"),
        (
            "data_seed has no effect; give `k`, `name` or `pass_`",
            "--data-seed has no effect; give --k, `name` or --pass",
        ),
        ("k-means is not known", "k-means is not known"),
        ("data set 'k' is unknown", "data set 'k' is unknown"),
        ("K is 0", "K is 0"),
    ],
)
def test_errors_name_options_on_the_command_line(message: str, expected: str) -> None:
    assert (
        with_flags(message, {"k": "--k", "data_seed": "--data-seed", "pass_": "--pass", "data": "--data"}) == expected
    )


def test_names_in_the_store_are_completed(tmp_path: Path) -> None:
    for name in ("mine", "minor", "other"):
        (tmp_path / "datasets" / name).mkdir(parents=True)
    context = typer.Context(click.Command("train"))
    context.params = {"store": tmp_path}
    assert completion("datasets")(context, "min") == ["mine", "minor"]
    assert completion("runs")(context, "") == []
    context.params = {"store": None}
    context.parent = typer.Context(click.Command("micropref"))
    context.parent.params = {"store": tmp_path}
    assert completion("datasets")(context, "o") == ["other"]


def test_a_shell_completes_runs_by_name_and_id(tmp_path: Path) -> None:
    shutil.unpack_archive(FIRST_RELEASE, tmp_path)
    (store,) = (path.parent for path in tmp_path.rglob("runs"))
    (run, *_) = StoreFolder(store).names("runs")
    done = CliRunner().invoke(cli.app, ["name", run, "best", "--store", str(store)])
    assert done.exit_code == 0, done.output

    def completed(word: str) -> list[str]:
        typed = f"micropref --store {store} eval {word}"
        environment = {"_MICROPREF_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": "4"}
        return CliRunner().invoke(cli.app, [], prog_name="micropref", env=environment).output.split()

    assert completed("be") == ["best"]
    assert run in completed(run[:4])


SETTINGS = cli._assignments("settings", "KEY=VALUE, such as pooling=mean")


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (cli._numbers("k", int), "1,2", [1, 2]),
        (cli._numbers("lam", float), "0, .5", [0, 0.5]),
        (cli._tau, "auto", None),
        (cli._tau, "2", 2.0),
        (cli._projection, "64", 64),
        (cli._projection, "auto", "auto"),
        (SETTINGS, ["a=b=c", "d="], {"a": "b=c", "d": ""}),
        (cli.COLUMNS.parse, ["user=who is it", "context="], {"user": "who is it", "context": ""}),
        (cli.ATTRIBUTES.parse, "depth,tone", ["depth", "tone"]),
    ],
)
def test_text_is_read_as_values(parse: Callable[[Any], Any], text: Any, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (cli._numbers("k", int), "1,x", "k is '1,x': expected a number, or numbers such as 1,2,5"),
        (cli._numbers("lam", float), "", "lam is '': expected a number, or numbers such as 0,0.1,0.3"),
        (cli._numbers("budget", int), "5.5", "budget is '5.5'"),
        (cli._tau, "hot", "tau is 'hot': expected auto or a number above 0"),
        (cli.COLUMNS.parse, ["user_id"], "columns is 'user_id': expected ROLE=NAME"),
        (SETTINGS, ["pooling"], "settings is 'pooling': expected KEY=VALUE"),
        (SETTINGS, ["a=1", "a=2"], "twice"),
    ],
)
def test_text_that_cannot_be_read_is_named(parse: Callable[[Any], Any], text: Any, message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        parse(text)
