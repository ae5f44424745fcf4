"""The backbone's weights and tokenizer files in an exported folder.

Files are copied or linked, not saved anew: that costs no memory, and what transformers 5 saves transformers 4 reads
otherwise (rope). Only a backbone with an adapter, whose weights lie in no file, is saved.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import save_file

from micropref.pipeline.backbone.adapter import CONFIG as ADAPTER_CONFIG
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.weight_files import INDEX, shards
from micropref.pipeline.rewards.exporting.files import Placing

HEAD = "score.weight"
_NOT_OF_THE_TRUNK = ("lm_head.", "score.", "classifier.", "embed_out.")
_LEFT_OUT = ("generation_config.json", "conversion.json", "README.md", INDEX, ADAPTER_CONFIG)


def put_weights(backbone: Backbone, folder: Path, prefix: str, placing: Placing) -> dict[str, str]:
    """Put the weights into shards of a folder, the trunk's names behind a prefix; return the file of each weight."""
    if backbone.checkpoint.adapter is not None:
        put_merged(backbone, folder, "trunk", prefix, placing)
        return {name: path.name for path in sorted(folder.glob("trunk*.safetensors")) for name in _names(path)}
    found = shards(backbone.checkpoint.folder, backbone.checkpoint.name)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(found, 1):
        target = folder / f"model-{number:05d}-of-{len(found) + 1:05d}.safetensors"
        weight_map |= dict.fromkeys(_place(shard, target, prefix, placing), target.name)
    return weight_map


def put_merged(backbone: Backbone, folder: Path, stem: str, prefix: str, placing: Placing) -> None:
    """Save the weights of a backbone with its adapter merged into them, in files that begin with a stem."""
    state = {prefix + name: weight.cpu() for name, weight in backbone.trunk.state_dict().items()}
    save_torch_state_dict(placing.converted(state), folder, filename_pattern=stem + "{suffix}.safetensors")


def put_small_files(backbone: Backbone, folder: Path) -> None:
    """Copy config and tokenizer files; an adapter may have brought a tokenizer."""
    for source in dict.fromkeys((backbone.checkpoint.folder, backbone.checkpoint.tokenizer_folder)):
        for path in source.iterdir():
            if path.is_file() and path.suffix in (".json", ".txt", ".model", ".jinja") and path.name not in _LEFT_OUT:
                shutil.copyfile(path, folder / path.name)


def _place(shard: Path, target: Path, prefix: str, placing: Placing) -> list[str]:
    """Put a shard into the folder and return the names of its weights.

    Those of a checkpoint of the trunk alone lack the prefix that a classifier's have: they are written under it.
    """
    names = _names(shard)
    bare = {name for name in names if not name.startswith((prefix, *_NOT_OF_THE_TRUNK))}
    if not bare:
        placing.put(shard, target)
        return [name for name in names if name != HEAD]
    with safe_open(shard, framework="pt") as weights:
        kept = {prefix + name if name in bare else name: weights.get_tensor(name) for name in names if name != HEAD}
    save_file(placing.converted(kept), target, metadata={"format": "pt"})
    return list(kept)


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as weights:
        return list(weights.keys())
