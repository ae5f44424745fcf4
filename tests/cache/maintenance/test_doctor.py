"""`doctor` names what is missing or broken, shows no secrets, and never fails."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from micropref.cache.maintenance.doctor import examine
from micropref.cache.store import StoreFolder
from micropref.pipeline.show.doctor import show_doctor


def install(folder: Path, name: str, code: str) -> None:
    """Make a distribution of a name whose module of that name is this code."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")


def test_packages_are_there_missing_or_broken(
    store: StoreFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "fine", "print('[1, 2]'); print('noise')")
    install(site, "raises", "raise ImportError('libfoo.so: not found\\nmore')")
    install(site, "exits", "import os; os._exit(7)")
    install(site, "quits", "raise SystemExit(3)")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    names = ("fine", "raises", "exits", "quits", "absent", "typer")
    found = examine(store, {name: name for name in names})
    assert {name: found.versions[name] for name in names} == {
        "fine": "1.5",
        "raises": "1.5, broken: ImportError: libfoo.so: not found",
        "exits": "1.5, broken: its import ended the process (exit code 7)",
        "quits": "1.5, broken: SystemExit: 3",
        "absent": "not installed",
        "typer": version("typer"),
    }
    assert found.machine["devices"] == ["not known: torch cannot be imported"]
    assert found.store["holds"] == "no store there"


def test_it_tells_of_torch_the_store_and_variables(
    store: StoreFolder, synthetic: Callable[..., str], planted_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted_run(store, synthetic(store, prompts=20))
    monkeypatch.setenv("MICROPREF_STORE", "/somewhere")
    monkeypatch.setenv("MICROPREF_API_TOKEN", "hidden-one")
    monkeypatch.setenv("HF_TOKEN", "hidden-two")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = examine(store, {"torch": "torch"})
    assert found.versions["torch"] == version("torch")
    assert found.machine["devices"][0] == "cpu"
    assert found.machine["threads of torch"] >= 1
    assert {name: found.store[name] for name in ("features", "data sets", "pairs", "runs")} == {
        "features": 1, "data sets": 1, "pairs": 60, "runs": 1,
    }  # fmt: skip
    assert found.environment["MICROPREF_STORE"] == "/somewhere"
    assert found.environment["HF_HUB_OFFLINE"] == "1"
    assert found.environment["MICROPREF_API_TOKEN"] == "set, not shown"
    text = show_doctor(found)
    assert "hidden" not in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_damaged_store_and_no_python_to_start_are_told(
    store: StoreFolder, synthetic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = synthetic(store, prompts=20)
    (store.features(features) / "features.json").write_text("{}")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    found = examine(store, {"typer": "typer"})
    assert found.store["holds"].startswith("cannot be listed: ")
    assert found.versions["typer"].endswith("broken: cannot be tried: the process could not be started "
                                            "(No such file or directory)")  # fmt: skip
