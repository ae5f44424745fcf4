"""The card of what is pushed: what it is, how it is used, under which licences, and what was left out."""

from __future__ import annotations

import json
from typing import Any

from micropref.cache.store import StoreFolder
from micropref.pipeline.named.licences import sources_on_hub
from micropref.pipeline.sharing.bundle import Bundle
from micropref.pipeline.sharing.pushed import CARD_MARK


def write_card(store: StoreFolder, bundle: Bundle, url: str) -> bytes:
    """Return README.md with the front matter that model hubs read."""
    manifest = bundle.manifest
    about = _about(bundle)
    data = [one for name in manifest.named.get("data", manifest.named.get("vectors of data", []))
            for one in sources_on_hub(store, name)]  # fmt: skip
    name = about.get("name")
    front: dict[str, Any] = {
        "library_name": "micropref",
        "tags": ["micropref", "reward-model" if manifest.kind == "run" else "embeddings"],
    }
    if manifest.licences.front is not None:
        front["license"] = manifest.licences.front
    if data:
        front["datasets"] = data
    if about.get("revision") is not None and manifest.kind == "run":
        front["base_model"] = name
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [CARD_MARK, "", f"# {_title(bundle)}", "", _said(bundle, name), ""]
    address = "ADDRESS" if url.startswith("file:") else url  # a path of this machine is nobody's business
    lines += ["```", f"micropref pull {address}", *_use(bundle, name), "```", ""]
    lines += ["## Licences", "", *(f"- {line}" for line in manifest.licences.lines()), ""]
    lines += ["## Left out", "", f"{', '.join(manifest.left_out)}.", ""]
    return "\n".join(lines).encode()


def _about(bundle: Bundle) -> dict[str, Any]:
    content = next(one for one in bundle.contents.values() if one.member.role == "about")
    with content.open() as file:
        found: dict[str, Any] = json.loads(file.read())
    return found


def _title(bundle: Bundle) -> str:
    manifest = bundle.manifest
    return f"Reward heads of micropref run {manifest.id}" if manifest.kind == "run" else f"Vectors {manifest.id}"


def _said(bundle: Bundle, backbone: str | None) -> str:
    manifest = bundle.manifest
    of = f"backbone {backbone}" if backbone else "a backbone that has no name on the hub: its digest is in the settings"
    if manifest.kind == "run":
        return f"Heads that make a reward of the vectors of {of}. They hold no text and no vector of the training data."
    vectors = sum(one.rows for one in manifest.of("vectors"))
    texts = "their texts and pairs are here too" if manifest.of("pairs") else "their texts are not here"
    return (
        f"{vectors:,} vectors of texts, made by {of}, under keys that are hashes of the texts; {texts}. Who embeds the "
        "same texts with the same backbone and settings reuses them. A key tells whether a text that one has is among "
        "them, and a vector says something of its text."
    )


def _use(bundle: Bundle, backbone: str | None) -> list[str]:
    manifest = bundle.manifest
    option = "" if backbone else " --backbone FOLDER"
    if manifest.kind == "run":
        return [f"micropref score {manifest.id} candidates.jsonl -o scored.jsonl{option}"]
    return ["micropref ls"] if manifest.of("pairs") else ["micropref embed pairs.jsonl --name mine" + option]
