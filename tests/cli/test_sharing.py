"""`pack`, `unpack`, `push` and `pull` as they are typed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from micropref.cli import app
from tests.support.stores import first_release_store

RUN = "mixture-0bf27c74"
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return `invoke(*words)`, which runs a command on the store of the first release, in a folder of its own."""
    store = first_release_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICROPREF_STORE", str(store))
    return lambda *words: CliRunner().invoke(app, list(words))


def test_a_run_goes_elsewhere(invoke: Invoke) -> None:
    planned = invoke("pack", RUN, "a.run", "--plan")
    assert planned.exit_code == 0, planned.output
    assert "20,776 bytes would leave" in planned.stdout
    assert "leaves the store: data: 'mine'" in planned.stderr
    assert not Path("a.run").exists()
    packed = json.loads(invoke("pack", RUN, "a.run", "--license", "mit", "--json").stdout)
    assert (packed["planned"], packed["people"], packed["licences"]["own"]) == (False, 0, "mit")
    assert invoke("pack", RUN, "a.run").exit_code == 2
    done = invoke("unpack", "a.run", "--store", "other")
    assert done.exit_code == 0, done.output
    assert f"next: micropref score {RUN}" in done.stdout.replace("\n  ", " ")
    (row,) = json.loads(invoke("ls", "--json", "--store", "other").stdout)["runs"]
    assert row["came_from"] == "a.run"
    assert "these came from elsewhere, without their data" in invoke("ls", "--store", "other").stdout
    shown = json.loads(invoke("show", RUN, "--json", "--store", "other").stdout)["runs"][0]["sections"]
    assert shown["made with"]["came from"] == "a.run"
    assert shown["made with"]["licence of own"] == "mit"
    assert shown["data"]["now"] == "elsewhere"
    assert invoke("verify", "--store", "other").exit_code == 0
    gone = invoke("rm", RUN, "--yes", "--store", "other")
    assert gone.exit_code == 0, gone.output


def test_pushed_and_pulled(invoke: Invoke) -> None:
    refused = invoke("push", RUN, "./team/run")
    assert refused.exit_code == 2
    assert f"micropref push {RUN} ./team/run --license NAME" in refused.stderr
    assert "Traceback" not in refused.output
    assert not Path("team").exists()
    assert invoke("push", RUN, "./team/run", "--license", "mit").exit_code == 0
    assert json.loads(invoke("pull", "./team/run", "--store", "other", "--json").stdout)["runs"] == [RUN]
    refused = invoke("push", RUN, "./team/run", "--public")
    assert refused.stderr.splitlines()[-1].startswith("micropref: --public is True: only repositories of the hub")
    assert invoke("pull", "./nothing").exit_code == 2
    assert invoke("pull", "./team/run", "--revision", "main").exit_code == 2
    assert invoke("push", RUN, "./team/x", "--with-texts", "--license", "mit").exit_code == 2
    assert invoke("push", "features", "./team/x", "--with-people", "--license", "mit").exit_code == 2
    assert invoke("push", RUN, "./team/x", "--license", "").exit_code == 2
