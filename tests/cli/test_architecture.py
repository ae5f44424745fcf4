"""The house's own rules: imports run downwards, start-up is light, the command line offers what the modules take."""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import gc
import graphlib
import json
import re
import subprocess
import sys
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cache", "heads", "pipeline")
SOURCES = sorted([ROOT / "cli.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))])
FLOORS = (
    {"cache"},
    {"cache.runs"},
    {"cache.vectors"},
    {"cache.maintenance", "cache.sql"},
    {"heads", "heads.evaluation"},
    {"heads.fitting"},
    {"heads.methods"},
    {"heads.adaptation"},
    {"pipeline"},
    {"pipeline.sources"},
    {"pipeline.named.adapters", "pipeline.text", "pipeline.training"},
    {"pipeline.named"},
    {"pipeline.backbone", "pipeline.evaluation"},
    {"pipeline.forwarding", "pipeline.people", "pipeline.evaluation.reporting"},
    {"pipeline.forwarding.engines", "pipeline.routing"},
    {"pipeline.embedding", "pipeline.comparison", "pipeline.rewards", "pipeline.rewards.scoring"},
    {"pipeline.benchmarks", "pipeline.demo", "pipeline.rewards.exporting", "pipeline.rewards.people"},
    {"pipeline.rewards.serving.bodies"},
    {"pipeline.rewards.serving", "pipeline.sharing"},
    {"pipeline.show", "pipeline.show.page"},
    {"pipeline.show.sections"},
    {"pipeline.api"},
    {"cli"},
)
"""Folders from the lowest floor up: a file imports from its own folder and from floors below, not from neighbours."""
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


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for name, ones in project["optional-dependencies"].items() if name != "dev" for one in ones]
    declared = {re.split("[^A-Za-z0-9_-]", one)[0].replace("-", "_") for one in project["dependencies"] + extras}
    names = {name.partition(".")[0] for path in SOURCES for name in imported(path)}
    standard = sys.stdlib_module_names | {"micropref", "_typeshed", *(module.partition(".")[0] for module in MODULES)}
    assert names - standard - declared == {"sklearn"}  # which scikit-learn is imported as
    always = {re.split("[^A-Za-z0-9_-]", one)[0].replace("-", "_") for one in project["dependencies"]}
    assert {one.replace("scikit_learn", "sklearn") for one in always} <= names


def literals(path: Path) -> list[frozenset[str]]:
    """Return the sets of two or more texts that a file writes as `Literal[...]`."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Subscript)]
    found = []
    for node in nodes:
        if isinstance(node.value, ast.Name) and node.value.id == "Literal" and isinstance(node.slice, ast.Tuple):
            texts = [one.value for one in node.slice.elts if isinstance(one, ast.Constant)]
            found.append(frozenset(str(text) for text in texts))
    return [texts for texts in found if len(texts) > 1]


def test_choices_are_written_once() -> None:
    written = collections.Counter(texts for path in SOURCES for texts in literals(path))
    assert frozenset({"mixture", "static", "single", "ensemble"}) in written
    assert [sorted(texts) for texts, times in written.items() if times > 1] == []


def test_choices_are_those_that_exist() -> None:
    from micropref.heads.methods.registry import methods
    from micropref.pipeline import options
    from micropref.pipeline.benchmarks.registry import benchmarks
    from micropref.pipeline.comparison.published import FILE
    from micropref.pipeline.sources.formats import COLUMNS, ONE_PAIR_A_ROW

    def choices(kind: object) -> set[str]:
        return set(typing.get_args(kind))

    assert choices(options.Shape) == {"auto", *COLUMNS}
    assert choices(options.ImportShape) == {"auto", *ONE_PAIR_A_ROW}
    assert choices(options.Method) == set(methods())
    assert choices(options.SweptMethod) == choices(options.FitMethod) - {"single"}
    assert choices(options.Paper) == set(json.loads(FILE.read_text()))
    assert choices(options.BenchmarkName) == set(benchmarks())


def defaults(method: str) -> dict[str, Any]:
    """Return the defaults of a method of the Python API, which are those of the command."""
    import inspect

    from micropref import Store

    return {name: one.default for name, one in inspect.signature(getattr(Store, method)).parameters.items()}


def test_the_defaults_of_embed_are_those_of_the_stage() -> None:
    from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions

    told = defaults("embed")
    told["packing"] = told["pass_"]
    expected = dataclasses.asdict(EmbedOptions()) | dataclasses.asdict(EngineOptions())
    assert {name: told[name] for name in expected if name in told} == {
        name: value for name, value in expected.items() if name in told
    }
    assert len(set(expected) & set(told)) >= 14


def test_the_defaults_of_train_are_those_of_the_stage() -> None:
    from micropref.heads.fitting.settings import FitPlan, FitSetting
    from micropref.pipeline.training.train import TrainOptions

    told = defaults("train")
    setting, plan, options = FitSetting("mixture", 5), FitPlan(), TrainOptions()
    assert told["method"] == "mixture"
    for name in ("prior", "hidden", "lr", "l2", "seed"):
        assert told[name] == getattr(setting, name), name
    assert told["wd"] == setting.weight_decay
    assert told["lam"] is None  # by what the router reads
    assert told["solver"] is None  # by method: scikit-learn or that of the plan
    for name in ("epochs", "batch", "data_seed", "dtype", "device", "patience"):
        assert told[name] == getattr(plan, name), name
    for name in (
        "router_input",
        "reward_input",
        "restarts",
        "features",
        "projection",
        "prune",
        "router_features",
        "merge",
    ):
        assert told[name] == getattr(options, name), name


def test_the_defaults_of_route_are_those_of_the_stage() -> None:
    from micropref.heads.adaptation.routing_budget import RouteSetting
    from micropref.pipeline.routing.route import RouteOptions

    told = defaults("route")
    setting, options = RouteSetting(), RouteOptions()
    for name in ("target", "anchor", "epochs", "solver", "batch", "lr", "seed"):
        assert told[name] == getattr(setting, name), name
    assert (told["budget"],) == options.budgets
    assert told["tau"] is options.tau
    assert told["reward_input"] is options.reward_input


def test_the_defaults_of_compare_are_those_of_the_stage() -> None:
    from micropref.pipeline.comparison.experiment import ExperimentOptions

    told = defaults("compare")
    told["gate"] = told["armo_gate"]
    asked = dataclasses.asdict(ExperimentOptions())
    assert {name: told[name] for name in asked} == asked


def test_the_defaults_of_sweep_are_those_of_the_stage_and_of_train() -> None:
    from micropref.pipeline.training.sweep import Grid
    from micropref.pipeline.training.train import TrainOptions

    train, told = defaults("train"), defaults("sweep")
    assert Grid(told["k"], told["lam"]) == Grid()
    assert told["seeds"] == TrainOptions().restarts
    own = ("k", "lam", "seeds", "html")
    assert {name: value for name, value in told.items() if name not in own}.items() <= train.items()


def test_every_command_has_an_example() -> None:
    from micropref import cli

    for command in cli.app.registered_commands:
        assert "Example:" in (command.callback.__doc__ or ""), command.callback
