"""An encoder with one reward head as a CrossEncoder folder of sentence-transformers.

Its modules: the transformer, the pooling, the scaling to length 1 where the run's features have it, and a linear map.
The transformer lies in a folder of its own. With its config.json at the top, releases before 5.4, which know no
modules of a CrossEncoder, would load it without a word, with a random head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.rewards.exporting.files import Placing, dtype_entries, read_json, write_json
from micropref.pipeline.rewards.exporting.trunk import put_merged, put_small_files

_MODULES = "sentence_transformers.sentence_transformer.modules"
_BASE = "sentence_transformers.base.modules"
TRUNK = "0_Transformer"
"""Folder of the transformer."""
_LEFT_OUT = {"README.md", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"}


def write_cross_encoder(
    backbone: Backbone, folder: Path, head: torch.Tensor, max_length: int, placing: Placing
) -> None:
    """Write a folder that `CrossEncoder(folder).predict([(prompt, response)])` reads as the head's reward [L, D]."""
    trunk, merged = folder / TRUNK, backbone.checkpoint.adapter is not None
    trunk.mkdir()
    for file in backbone.checkpoint.folder.iterdir():
        ours = file.name in _LEFT_OUT or file.name.startswith((".", "adapter_"))
        if file.is_file() and not ours and not (merged and file.suffix == ".safetensors"):
            placing.put(file, trunk / file.name)
    if merged:
        put_small_files(backbone, trunk)
        put_merged(backbone, trunk, "model", "", placing)
    write_json(trunk / "config.json", read_json(trunk / "config.json") | dtype_entries(placing.dtype))
    parts = [(TRUNK, f"{_BASE}.transformer.Transformer"), ("1_Pooling", f"{_MODULES}.pooling.Pooling")]
    if backbone.pooling.normalize:
        parts.append(("2_Normalize", f"{_MODULES}.normalize.Normalize"))
    dense = f"{len(parts)}_Dense"
    parts.append((dense, f"{_BASE}.dense.Dense"))
    modules = [{"idx": at, "name": str(at), "path": path, "type": kind} for at, (path, kind) in enumerate(parts)]
    for path, _ in parts[1:]:
        (folder / path).mkdir()
    write_json(folder / "modules.json", modules)
    method = {"method": "forward", "method_output_name": "last_hidden_state"}
    reads = {"transformer_task": "feature-extraction", "modality_config": {"text": method}}
    write_json(trunk / "sentence_bert_config.json", {**reads, "module_output_name": "token_embeddings"})
    write_json(folder / "1_Pooling" / "config.json", _pooling(backbone))
    if backbone.pooling.normalize:
        same = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
        write_json(folder / "2_Normalize" / "config.json", same)
    tokenizer = trunk / "tokenizer_config.json"
    named = backbone.tokenizer
    pad = named.pad_token or named.unk_token or named.sep_token  # masked, so that any will do
    write_json(tokenizer, {**read_json(tokenizer), "model_max_length": max_length, "pad_token": pad})
    write_json(
        folder / dense / "config.json",
        {
            "in_features": backbone.width,
            "out_features": len(head),
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
            "module_input_name": "sentence_embedding",
            "module_output_name": "scores",
        },
    )
    save_file({"linear.weight": head.float().contiguous()}, folder / dense / "model.safetensors")
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "CrossEncoder",
            "prompts": {},
            "default_prompt_name": None,
            "activation_fn": "torch.nn.modules.linear.Identity",
        },
    )


def _pooling(backbone: Backbone) -> dict[str, Any]:
    mode = {"last": "lasttoken", "mean": "mean", "cls": "cls"}.get(backbone.pooling.mode)
    if mode is None:
        raise BadInput(f"pooling {backbone.pooling.mode}: a CrossEncoder folder has mean, cls or last token")
    return {"embedding_dimension": backbone.width, "pooling_mode": mode, "include_prompt": True}
