"""A causal backbone with one reward head as a `...ForSequenceClassification` folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.weight_files import INDEX
from micropref.pipeline.rewards.exporting.files import Placing, dtype_entries, read_json, write_json
from micropref.pipeline.rewards.exporting.trunk import HEAD, put_small_files, put_weights


def write_weights(backbone: Backbone, folder: Path, head: torch.Tensor, placing: Placing) -> str:
    """Put a backbone's files into a folder, add a shard with the heads [L, D], and return the class's name.

    Raises BadInput where transformers has no such class for this architecture.
    """
    name, prefix = _classifier(backbone)
    weight_map = put_weights(backbone, folder, prefix, placing)
    count = len(set(weight_map.values())) + 1
    last = folder / f"model-{count:05d}-of-{count:05d}.safetensors"
    save_file({HEAD: head.to(placing.dtype).contiguous()}, last, metadata={"format": "pt"})
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": {**weight_map, HEAD: last.name}})
    put_small_files(backbone, folder)
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
