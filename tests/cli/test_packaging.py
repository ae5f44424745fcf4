"""What is installed: the wheel's files, the same from the sdist, and a command that no folder of a user's disturbs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("cache/", "heads/", "pipeline/")


def build(kind: str, source: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(target)]
    subprocess.run(command, check=True, cwd=source, capture_output=True)
    (built,) = target.iterdir()
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/RECORD" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_product_and_nothing_else(wheel: Path) -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, check=True, cwd=ROOT, capture_output=True, text=True).stdout.split()
    there = [name for name in files if (ROOT / name).is_file()]
    expected = {f"micropref/{name}" for name in there if name.startswith(OURS) or name == "cli.py"}
    expected |= {f"micropref/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
    assert {name for name in contents(wheel) if ".dist-info/" not in name} == expected


def test_the_wheel_built_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = build("wheel", source, tmp_path / "again")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


@pytest.mark.parametrize("start", [["-m", "micropref"], ["-c", "from micropref.cli import app; app()"]], ids=str)
def test_a_users_own_modules_do_not_disturb_it(wheel: Path, tmp_path: Path, start: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    for name in ("cache", "heads", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not mine')")
    (tmp_path / "cli.py").write_text("raise RuntimeError('not mine')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    for words in (["--help"], ["sql", "SELECT 1 AS one", "--store", "store", "--json"]):
        (tmp_path / "store").mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, *start, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == '[{"one": 1}]\n' or '"one"' in done.stdout
