"""The house's own rules: imports run downwards, start-up is light, the command line offers what the modules take."""

from __future__ import annotations

import ast
import dataclasses
import functools
import gc
import json
import re
import subprocess
import sys
import typing
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
FLOORS = {"cache": 0, "heads": 1, "pipeline": 2, "cli": 3}
PACKAGES = ("cache", "heads", "pipeline")
SOURCES = sorted([ROOT / "cli.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])


@functools.cache
def imported(path: Path) -> set[str]:
    found = set()
    # Python 3.11 takes it for an error when another thread parses during a parse, which a collection may let happen.
    gc.disable()
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return {name.split(".")[0] for name in found}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    floor = FLOORS[path.relative_to(ROOT).parts[0].removesuffix(".py")]
    names = imported(path)
    assert [name for name in names if FLOORS.get(name, -1) > floor] == []
    if floor < FLOORS["pipeline"]:
        assert "transformers" not in names
    if floor == FLOORS["cache"]:
        assert not names & set(FLOORS) - {"cache"}


def test_no_pickle_anywhere() -> None:
    for path in SOURCES:
        assert not imported(path) & {"pickle", "joblib", "dill", "shelve"}, path
        assert "torch.load" not in path.read_text(encoding="utf-8"), path


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['micropref', '--help']\n"
        "try: runpy.run_module('cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'transformers', 'numpy', 'pyarrow', 'polars', 'duckdb')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_choices_of_the_command_line_are_those_of_the_modules() -> None:
    from cache.sql import render as sql_render
    from heads.adaptation import few_shot as adaptation
    from heads.adaptation import router_refit as routing
    from heads.fitting import settings
    from heads.methods.base import SystemOptions
    from heads.methods.registry import methods
    from pipeline import options
    from pipeline.backbone import devices, pooling
    from pipeline.forwarding import options as embed_options
    from pipeline.forwarding import passes
    from pipeline.people import adapt
    from pipeline.people import frozen_run as frozen
    from pipeline.sources import formats as shapes
    from pipeline.sources import reader as sources
    from pipeline.text import templates
    from pipeline.text import tokenizer as tokens
    from pipeline.training import train

    def choices(kind: object) -> set[str]:
        return set(typing.get_args(kind))

    assert choices(options.Pooling) == choices(pooling.PoolingName)
    assert choices(options.Template) == choices(templates.TemplateName)
    assert choices(options.Responses) == choices(tokens.Responses)
    assert choices(options.Overlong) == choices(typing.get_type_hints(tokens.Tokenizing)["overlong"])
    assert choices(options.DeviceName) == choices(devices.DeviceName)
    assert choices(options.EngineName) == choices(embed_options.EngineName)
    assert choices(options.Pass) == choices(passes.PassName)
    assert choices(options.EmbedDtype) == choices(devices.DtypeName)
    assert choices(options.StoreDtype) == choices(embed_options.StoreDtype)
    assert choices(options.Shape) == {"auto", *shapes.COLUMNS}
    assert choices(options.OnBad) == choices(sources.OnBad)
    assert choices(options.FitMethod) == choices(settings.Method)
    assert choices(options.Method) == set(methods())
    assert choices(options.ArmoGate) == choices(typing.get_type_hints(SystemOptions)["gate"])
    assert choices(options.SweptMethod) == choices(settings.Method) - {"single"}
    assert choices(options.Prior) == choices(settings.Prior)
    assert choices(options.Solver) == choices(settings.Solver)
    assert choices(options.FitDtype) == choices(settings.ComputeDtype)
    assert choices(options.RouterInput) == choices(typing.get_type_hints(train.TrainOptions)["router_input"])
    assert choices(options.GroupedBy) == choices(frozen.By)
    assert choices(options.AdaptMethod) == choices(adaptation.AdaptMethod)
    assert choices(options.Target) == choices(routing.Target)
    assert choices(options.Anchor) == choices(routing.Anchor)
    assert choices(options.ShotsFrom) == choices(adapt.ShotsFrom)
    assert choices(options.TableFormat) == choices(sql_render.Format)
    defaults = embed_options.EmbedOptions()
    assert (defaults.backbone, defaults.context_template) == (options.MINILM, options.CONTEXT_TEMPLATE)
    assert defaults.date == options.PINNED_DATE


def test_the_defaults_of_train_are_those_of_the_modules() -> None:
    import inspect

    import cli
    from heads.fitting.settings import FitPlan, FitSetting
    from pipeline.training.train import TrainOptions

    told = {name: parameter.default for name, parameter in inspect.signature(cli.train).parameters.items()}
    setting, plan, options = FitSetting("mixture", 5), FitPlan(), TrainOptions()
    assert told["method"] == "mixture"
    for name in ("lam", "prior", "hidden", "lr", "l2", "seed"):
        assert told[name] == getattr(setting, name), name
    assert told["wd"] == setting.weight_decay
    for name in ("epochs", "batch", "data_seed", "dtype", "device", "patience", "solver"):
        assert told[name] == getattr(plan, name), name
    for name in ("router_input", "reward_input", "restarts", "features", "projection", "prune"):
        assert told[name] == getattr(options, name), name


def test_the_defaults_of_route_are_those_of_the_modules() -> None:
    import inspect

    import cli
    from heads.adaptation.router_refit import RouteSetting
    from pipeline.routing.route import RouteOptions, parse_budgets, parse_tau

    told = {name: parameter.default for name, parameter in inspect.signature(cli.route).parameters.items()}
    setting, options = RouteSetting(), RouteOptions()
    for name in ("target", "anchor", "epochs", "batch", "lr", "seed"):
        assert told[name] == getattr(setting, name), name
    assert parse_budgets(told["budget"]) == options.budgets
    assert parse_tau(told["tau"]) is options.tau
    assert told["reward_input"] is options.reward_input


def test_the_defaults_of_compare_are_those_of_the_modules() -> None:
    import inspect

    import cli
    from pipeline import options
    from pipeline.comparison.experiment import TrialOptions
    from pipeline.comparison.published import FILE

    told = {name: parameter.default for name, parameter in inspect.signature(cli.compare).parameters.items()}
    asked = dataclasses.asdict(TrialOptions())
    assert {name: told[name] for name in asked} == asked
    assert set(typing.get_args(options.Paper)) == set(json.loads(FILE.read_text()))


def test_the_defaults_of_sweep_are_those_of_the_modules_and_of_train() -> None:
    import inspect

    import cli
    from pipeline.training.sweep import Grid, parse_values
    from pipeline.training.train import TrainOptions

    train, told = (
        {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
        for command in (cli.train, cli.sweep)
    )
    assert Grid(parse_values("k", told["k"], int), parse_values("lam", told["lam"], float)) == Grid()
    assert told["seeds"] == TrainOptions().restarts
    own = ("k", "lam", "seeds")
    assert {name: value for name, value in told.items() if name not in own}.items() <= train.items()


def test_the_wheel_holds_the_product_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(LISTED, check=True, cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert names == {name for name in tracked if re.match(r"(cache|heads|pipeline)/|cli\.py$", name)}


def test_every_command_has_an_example() -> None:
    import cli

    for command in cli.app.registered_commands:
        assert "Example:" in (command.callback.__doc__ or ""), command.callback
