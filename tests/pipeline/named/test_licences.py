"""Licences of data and backbones: known ones, those of cards, and none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from micropref.cache.commits import commit
from micropref.cache.store import StoreFolder
from micropref.pipeline.named.licences import Licences, licences_of, sources_on_hub

COMMIT = "a" * 40


def part(store: StoreFolder, data: str, source: str) -> None:
    commit(
        store.dataset(data) / "pairs", f"train-{len(source)}", {}, {"source": source, "split": "train", "ordinal": 1}
    )


def cached_card(cache: Path, folder: str, text: str) -> None:
    snapshot = cache / folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text(text)
    (cache / folder / "refs").mkdir()
    (cache / folder / "refs" / "main").write_text(COMMIT)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_of_data(store: StoreFolder, cache: Path) -> None:
    cached_card(cache, "datasets--ann--own", "---\nlicense: cc0-1.0\n---\n# Data\n")
    part(store, "known", f"nvidia/HelpSteer2@{COMMIT}")
    part(store, "copied", "nvidia/HelpSteer2 from /data/copy")
    part(store, "card", f"ann/own@{COMMIT}")
    part(store, "unstated", f"THU-KEG/RM-Bench@{COMMIT}")
    part(store, "file", "/data/pairs.jsonl")
    part(store, "mixed", f"nvidia/HelpSteer2@{COMMIT}")
    part(store, "mixed", "pairs.jsonl")

    def of(*data: str) -> str | None:
        return licences_of(store, data, {}).data

    assert (of("known"), of("copied"), of("card")) == ("CC-BY-4.0", "CC-BY-4.0", "cc0-1.0")
    assert of("known", "card") == "CC-BY-4.0; cc0-1.0"
    assert [of(name) for name in ("unstated", "file", "mixed", "gone")] == [None] * 4
    assert sources_on_hub(store, "copied") == ["nvidia/HelpSteer2"]
    assert sources_on_hub(store, "mixed") == []


def test_of_backbones(store: StoreFolder, cache: Path, tmp_path: Path) -> None:
    cached_card(cache, "models--ann--model", "---\nlicense: other\nlicense_name: own-terms\n---\n")
    folders = {"own": "---\nlicense: mit\n---\n", "silent": "# Nothing", "odd": "---\nlicense: [\n---\n"}
    for name, text in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(text)

    def of(**about: Any) -> str | None:
        return licences_of(store, [], about).backbone

    assert (of(name="minilm"), of(name="smollm2")) == ("apache-2.0", "apache-2.0")
    assert of(name="ann/model", revision=COMMIT) == "own-terms"
    assert of(name="ann/other", revision=COMMIT) is None
    assert [of(name=str(tmp_path / name)) for name in (*folders, "none")] == ["mit", None, None, None]
    assert of(name=None) is None


def test_what_a_card_says() -> None:
    assert Licences().front is None
    assert Licences(data="MIT").front is None
    assert Licences(data="MIT", backbone="mit").front == "mit"
    assert Licences(data="CC-BY-4.0", backbone="mit").front == "other"
    assert Licences(own="apache-2.0").front == "apache-2.0"
    assert Licences(data="MIT").unknown == ["backbone"]
    assert Licences().filled({"data": "MIT", "own": None}) == Licences(data="MIT")
