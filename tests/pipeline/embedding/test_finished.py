"""The same `embed` again costs nothing as long as nothing changed, and takes the whole way as soon as anything did."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import micropref
from micropref.cache import memory
from micropref.pipeline.embedding import embed as stage

OPTIONS: dict[str, Any] = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32"}


class Counted:
    """`Store.embed` of one file, and how often it took the whole way."""

    def __init__(self, folder: Path, backbone: Path, source: Path) -> None:
        self.said: list[str] = []
        self.store = micropref.Store(folder / "store", self.said.append)
        self.backbone, self.source, self.whole = backbone, source, 0

    def run(self, name: str = "mine", **options: Any) -> dict[str, Any]:
        self.said.clear()
        report = self.store.embed(self.source, name, backbone=self.backbone, **{**OPTIONS, **options})
        return asdict(report) | {"seconds": 0.0, "said": list(self.said)}


@pytest.fixture
def command(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    write_rows: Callable[..., Path],
    tiny_backbone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Counted]:
    """Return the command after it has embedded, and once more had nothing to do."""
    monkeypatch.setenv("MICROPREF_CACHE", str(tmp_path / "memory"))
    memory._memory.cache_clear()
    backbone = tmp_path / "backbone"
    shutil.copytree(tiny_backbone("llama"), backbone)
    found = Counted(tmp_path, backbone, write_rows(rows))
    real = stage.embed

    def counted(*given: Any, **named: Any) -> Any:
        found.whole += 1
        return real(*given, **named)

    monkeypatch.setattr(stage, "embed", counted)
    found.run()
    found.run()
    assert found.whole == 2
    yield found
    memory._memory.cache_clear()


def test_it_says_what_the_whole_way_says(command: Counted) -> None:
    whole = command.run(recheck=True)
    assert command.whole == 3
    assert command.run() == whole
    assert command.whole == 3
    assert whole["texts_embedded"] == 0
    assert command.run(name="mine", store_dtype="auto") == whole
    assert command.whole == 3


@pytest.mark.parametrize(
    "change",
    ["a row", "the backbone", "an option", "a part is gone", "a shard is gone", "a new file", "plan", "another name"],
)
def test_whatever_changed_takes_the_whole_way(command: Counted, change: str) -> None:
    options: dict[str, Any] = {}
    if change == "a row":
        lines = command.source.read_text().splitlines()
        command.source.write_text("\n".join([*lines, lines[0].replace("thing 0", "thing X")]) + "\n")
    elif change == "the backbone":
        weights = command.backbone / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
    elif change == "an option":
        options["max_length"] = 100
    elif change == "a part is gone":
        next(command.store.folder.glob("datasets/mine/pairs/test*.json")).unlink()
    elif change == "a shard is gone":
        next(command.store.folder.glob("features/*/shards/*.json")).unlink()
    elif change == "a new file":
        (command.store.folder / "features" / "note.txt").write_text("x")
    elif change == "plan":
        options["plan"] = True
    else:
        options["name"] = "other"
    command.run(**options)
    assert command.whole == 3


def test_a_lost_shard_is_embedded_again_and_then_nothing(command: Counted) -> None:
    next(command.store.folder.glob("features/*/shards/*.json")).unlink()
    assert command.run()["texts_embedded"] > 0
    assert command.run()["texts_embedded"] == 0
    assert command.whole == 4
    command.run()
    assert command.whole == 4


def test_no_backbone_is_loaded(command: Counted) -> None:
    code = (
        "import json, sys, micropref\n"
        f"found = micropref.Store({str(command.store.folder)!r}).embed({str(command.source)!r}, 'mine', "
        f"backbone={str(command.backbone)!r}, **{OPTIONS!r})\n"
        "print(json.dumps([found.texts, [name for name in ('torch', 'transformers') if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    texts, loaded = json.loads(done.stdout)
    # The path is given as a text here, and as a path above: another request, which the whole way answers once.
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == [texts, []], (loaded, done.stderr)
