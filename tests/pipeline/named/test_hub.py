"""Names of the hub, on caches made by hand: nothing is fetched."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.named.hub import HubName, hub_name, snapshot

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def cached(cache: Path, repository: str, files: dict[str, Any], commit: str = COMMIT) -> Path:
    folder = cache / f"datasets--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    for name, rows in files.items():
        file = folder / "snapshots" / commit / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "snapshots" / commit


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nvidia/HelpSteer2", HubName("nvidia/HelpSteer2", None)),
        ("nvidia/HelpSteer2@main", HubName("nvidia/HelpSteer2", "main")),
        (Path("a/b-1.0@refs/pr/3"), HubName("a/b-1.0", "refs/pr/3")),
        ("folder/pairs.jsonl", None),
        ("folder/pairs.json.gz", None),
        ("./a/b", None),
        ("/a/b", None),
        ("a/b/c", None),
        ("pairs", None),
        ("here/is", None),  # a path wins
    ],
)
def test_what_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | Path, expected: HubName | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here/is").mkdir(parents=True)
    if isinstance(source, str) and source.startswith("./"):
        source = str(tmp_path / source)
    assert hub_name(source) == expected


def test_a_name_is_a_data_set_of_the_store_too() -> None:
    assert HubName("Skywork/Skywork-Reward-Preference-80K-v0.2", None).short == "Skywork-Reward-Preference-80K-v0-2"


def test_the_cache_is_enough(cache: Path) -> None:
    folder = cached(cache, "owner/name", {"train.jsonl": [{"a": 1}]})
    assert snapshot(HubName("owner/name", None)) == (folder, COMMIT)
    assert snapshot(HubName("owner/name", COMMIT), ("train.jsonl",)) == (folder, COMMIT)


def test_what_is_not_cached_says_what_to_do(cache: Path) -> None:
    with pytest.raises(BadInput) as refusal:
        snapshot(HubName("owner/name", None))
    assert str(refusal.value) == (
        "owner/name: no such path here, not in the hub's cache, and the hub cannot be reached: go online once (and "
        "without HF_HUB_OFFLINE), or give a copy with --from DIR"
    )
    cached(cache, "owner/name", {"train.jsonl": []})
    with pytest.raises(BadInput, match="not in the hub's cache at revision 'v2'"):
        snapshot(HubName("owner/name", "v2"))


def response(status: int, code: str) -> Any:
    """Return an answer of a server in the library that the hub's client uses, which its versions call otherwise."""
    httpx = importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx")
    return httpx.Response(status, headers={"X-Error-Code": code}, request=httpx.Request("GET", "https://hub/x"))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "RepoNotFound", "owner/name: no such path here, and no such data set on the hub, or a private one"),
        (401, "RepoNotFound", "owner/name: no such path here, and no such data set on the hub, or a private one"),
        (403, "GatedRepo", "owner/name: the hub asks for consent first: accept its terms at https://"),
        (404, "RevisionNotFound", "owner/name: the hub has no revision 'v2' of it; see https://"),
        (500, "", "owner/name: no such path here, not in the hub's cache at revision 'v2', and the hub cannot be"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, expected: str
) -> None:
    """The hub's own errors, raised by its own client from the answers that a server gives."""
    from huggingface_hub import HfApi, hf_raise_for_status

    def answer(*_: Any, **__: Any) -> Any:
        hf_raise_for_status(response(status, code))

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "repo_info", answer)
    with pytest.raises(BadInput) as refusal:
        snapshot(HubName("owner/name", "v2"))
    assert str(refusal.value).startswith(expected)
    assert "\n" not in str(refusal.value)
