"""A causal backbone with one reward head as a `...ForSequenceClassification` folder.

The backbone's files are copied, not saved anew: that costs no memory, and what transformers 5 saves transformers 4
reads otherwise (rope).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.rewards.exporting.files import Placing, dtype_entries, read_json, write_json

_LEFT_OUT = ("generation_config.json", "conversion.json", "README.md", "model.safetensors.index.json")
HEAD = "score.weight"


def write_weights(backbone: Backbone, folder: Path, head: torch.Tensor, placing: Placing) -> str:
    """Put a backbone's files into a folder, add a shard with the heads [L, D], and return the class's name.

    Raises BadInput where transformers has no such class for this architecture.
    """
    source = backbone.checkpoint.folder
    name, prefix = _classifier(backbone)
    shards = sorted(source.glob("*.safetensors"))
    count = len(shards) + 1
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        target = folder / f"model-{number:05d}-of-{count:05d}.safetensors"
        weight_map |= dict.fromkeys(_place(shard, target, prefix, placing), target.name)
    last = folder / f"model-{count:05d}-of-{count:05d}.safetensors"
    save_file({HEAD: head.to(placing.dtype).contiguous()}, last, metadata={"format": "pt"})
    weight_map[HEAD] = last.name
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".txt", ".model", ".jinja") and path.name not in _LEFT_OUT:
            shutil.copy(path, folder / path.name)
    _write_config(folder, name, len(head), placing.dtype)
    return name


def patch_config(folder: Path, **changes: Any) -> None:
    """Change entries of a folder's config.json."""
    path = folder / "config.json"
    write_json(path, read_json(path) | changes)


def _classifier(backbone: Backbone) -> tuple[str, str]:
    """Return the class that has a reward head on this trunk, and what its names of the trunk's weights begin with."""
    config = backbone.trunk.config
    known = AutoModelForSequenceClassification._model_mapping
    found = known.get(type(config), None)
    chosen = found[0] if isinstance(found, tuple) else found
    if chosen is None:
        raise BadInput(
            f"backbone {backbone.checkpoint.name}: transformers has no sequence classifier for {config.model_type}; "
            "score with `micropref score` instead"
        )
    return chosen.__name__, f"{chosen.base_model_prefix}."


def _place(shard: Path, target: Path, prefix: str, placing: Placing) -> list[str]:
    """Put a shard into the folder and return the names of its weights.

    Those of a checkpoint of the trunk alone lack the prefix that a classifier's have: they are written under it.
    """
    with safe_open(shard, framework="pt") as weights:
        names = list(weights.keys())
        heads = ("lm_head.", "score.", "classifier.", "embed_out.")
        bare = [name for name in names if not name.startswith(prefix) and not name.startswith(heads)]
        if bare:
            renamed = {(name if name not in bare else prefix + name): weights.get_tensor(name) for name in names}
            renamed.pop(HEAD, None)
            save_file(placing.converted(renamed), target, metadata={"format": "pt"})
            return list(renamed)
    placing.put(shard, target)
    return [name for name in names if name != HEAD]


def _write_config(folder: Path, architecture: str, labels: int, dtype: torch.dtype) -> None:
    """Say which class reads the folder and in which dtype, in the words of transformers 4 and 5."""
    config = read_json(folder / "config.json")
    names = {str(at): "reward" if labels == 1 else f"head_{at}" for at in range(labels)}
    changes: dict[str, Any] = {
        "architectures": [architecture],
        "id2label": names,
        "label2id": {name: int(at) for at, name in names.items()},
        "num_labels": labels,
        **dtype_entries(dtype),
    }
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:  # flat: one rope for all layers
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        changes |= {
            "rope_theta": rope["rope_theta"],
            "rope_scaling": None if scaling.get("rope_type", "default") == "default" else scaling,
        }
    patch_config(folder, **changes)
