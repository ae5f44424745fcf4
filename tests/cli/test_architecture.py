"""The house's own rules: imports run downwards, start-up is light, the command line offers what the modules take."""

from __future__ import annotations

import ast
import dataclasses
import functools
import gc
import graphlib
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cache", "heads", "pipeline")
SOURCES = sorted([ROOT / "cli.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])
FLOORS = (
    {"cache"},
    {"cache.vectors"},
    {"cache.maintenance", "cache.sql"},
    {"heads", "heads.evaluation"},
    {"heads.fitting"},
    {"heads.methods"},
    {"heads.adaptation"},
    {"pipeline"},
    {"pipeline.sources"},
    {"pipeline.text", "pipeline.training"},
    {"pipeline.backbone", "pipeline.evaluation"},
    {"pipeline.forwarding", "pipeline.people"},
    {"pipeline.forwarding.engines", "pipeline.routing"},
    {"pipeline.embedding", "pipeline.comparison"},
    {"pipeline.demo"},
    {"pipeline.show"},
    {"pipeline.api"},
    {"cli"},
)
"""Folders from the lowest floor up: a file imports from its own folder and from floors below, never from beside it."""
FLOOR_OF = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}
FOLDERS = {module_of(path) for path in SOURCES if path.name == "__init__.py"} | {"cli"}


def folder_of(module: str) -> str:
    return module if module in FOLDERS else module.rpartition(".")[0]


@functools.cache
def imported(path: Path) -> set[str]:
    """Return the names of all modules that a file imports, anywhere in it; ours without `micropref.`."""
    found = set()
    # Python 3.11 takes it for an error when another thread parses during a parse, which a collection may let happen.
    gc.disable()
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("micropref.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = (node.module or "").removeprefix("micropref.")
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return found


def ours(path: Path) -> set[str]:
    return imported(path) & set(MODULES) - {module_of(path)}


def test_every_folder_has_a_floor_and_says_what_it_owns() -> None:
    assert set(FLOOR_OF) == FOLDERS
    for folder in FOLDERS - {"cli"}:
        says = ast.get_docstring(ast.parse(MODULES[folder].read_text(encoding="utf-8"))) or ""
        assert "Imports" in says, folder


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    own = folder_of(module_of(path))
    for name in ours(path):
        folder = folder_of(name)
        assert folder == own or FLOOR_OF[folder] < FLOOR_OF[own], f"{own} imports {name}"
    if not own.startswith(("pipeline", "cli")):
        assert "transformers" not in {name.partition(".")[0] for name in imported(path)}


def test_no_module_imports_itself_over_others() -> None:
    graph = {module: ours(path) for module, path in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError naming the circle


def test_a_newcomer_sees_few_entries_and_small_files() -> None:
    for folder, most in (("pipeline", 20), ("heads", 8), ("cache", 14)):
        shown = [path for path in (ROOT / folder).iterdir() if path.name not in ("__pycache__", "__init__.py")]
        assert len(shown) <= most, folder
    long = {module for module, path in MODULES.items() if len(path.read_text(encoding="utf-8").splitlines()) > 300}
    assert long <= {"cli"}


def test_no_pickle_anywhere() -> None:
    for path in SOURCES:
        assert not {name.partition(".")[0] for name in imported(path)} & {"pickle", "joblib", "dill", "shelve"}, path
        assert "torch.load" not in path.read_text(encoding="utf-8"), path


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['micropref', '--help']\n"
        "try: runpy.run_module('micropref', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'transformers', 'numpy', 'pyarrow', 'polars', 'duckdb')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_choices_of_the_command_line_are_those_of_the_modules() -> None:
    from micropref.cache.sql import render as sql_render
    from micropref.heads.adaptation import few_shot as adaptation
    from micropref.heads.adaptation import router_refit as routing
    from micropref.heads.fitting import settings
    from micropref.heads.methods.base import SystemOptions
    from micropref.heads.methods.registry import methods
    from micropref.pipeline import options
    from micropref.pipeline.backbone import devices, pooling
    from micropref.pipeline.forwarding import options as embed_options
    from micropref.pipeline.forwarding import passes
    from micropref.pipeline.people import adapt
    from micropref.pipeline.people import frozen_run as frozen
    from micropref.pipeline.sources import formats as shapes
    from micropref.pipeline.sources import reader as sources
    from micropref.pipeline.text import templates
    from micropref.pipeline.text import tokenizer as tokens
    from micropref.pipeline.training import train

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
    assert choices(options.ImportShape) == {"auto", *shapes.ONE_PAIR_A_ROW}
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

    from micropref import cli
    from micropref.heads.fitting.settings import FitPlan, FitSetting
    from micropref.pipeline.training.train import TrainOptions

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

    from micropref import cli
    from micropref.heads.adaptation.router_refit import RouteSetting
    from micropref.pipeline.routing.route import RouteOptions, parse_budgets, parse_tau

    told = {name: parameter.default for name, parameter in inspect.signature(cli.route).parameters.items()}
    setting, options = RouteSetting(), RouteOptions()
    for name in ("target", "anchor", "epochs", "batch", "lr", "seed"):
        assert told[name] == getattr(setting, name), name
    assert parse_budgets(told["budget"]) == options.budgets
    assert parse_tau(told["tau"]) is options.tau
    assert told["reward_input"] is options.reward_input


def test_the_defaults_of_compare_are_those_of_the_modules() -> None:
    import inspect

    from micropref import cli
    from micropref.pipeline import options
    from micropref.pipeline.comparison.experiment import TrialOptions
    from micropref.pipeline.comparison.published import FILE

    told = {name: parameter.default for name, parameter in inspect.signature(cli.compare).parameters.items()}
    asked = dataclasses.asdict(TrialOptions())
    assert {name: told[name] for name in asked} == asked
    assert set(typing.get_args(options.Paper)) == set(json.loads(FILE.read_text()))


def test_the_defaults_of_sweep_are_those_of_the_modules_and_of_train() -> None:
    import inspect

    from micropref import cli
    from micropref.pipeline.training.sweep import Grid, parse_values
    from micropref.pipeline.training.train import TrainOptions

    train, told = (
        {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
        for command in (cli.train, cli.sweep)
    )
    assert Grid(parse_values("k", told["k"], int), parse_values("lam", told["lam"], float)) == Grid()
    assert told["seeds"] == TrainOptions().restarts
    own = ("k", "lam", "seeds")
    assert {name: value for name, value in told.items() if name not in own}.items() <= train.items()


def test_every_command_has_an_example() -> None:
    from micropref import cli

    for command in cli.app.registered_commands:
        assert "Example:" in (command.callback.__doc__ or ""), command.callback
