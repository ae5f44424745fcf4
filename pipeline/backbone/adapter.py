"""Adapters (LoRA and kin): named, and merged into the weights of their model by `peft` where that is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from micropref.cache.errors import BadInput

CONFIG = "adapter_config.json"
ADAPTER_FILES = (CONFIG, "adapter_model*.safetensors")
_WEIGHTS = "adapter_model.safetensors"
_MODEL_CLASSES = {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_CLS": "AutoModelForSequenceClassification"}
"""What an adapter was trained on -> the class whose weights have the names that it knows; others: AutoModel."""


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter, alone or next to a full model."""
    return (folder / CONFIG).is_file()


def has_weights(folder: Path) -> bool:
    """Return whether the weights of an adapter are there."""
    return (folder / _WEIGHTS).is_file()


def base_of(folder: Path, name: str, *, weights: bool) -> str | None:
    """Return the model that an adapter belongs to, a folder or a hub id; None: the model in the same folder.

    Raises BadInput where the adapter cannot be merged here.
    """
    config = _config(folder, name)
    kind = str(config.get("peft_type") or "unknown kind")
    full = (folder / "config.json").is_file() and any(
        not path.name.startswith("adapter_") for path in folder.glob("*.safetensors")
    )
    base = config.get("base_model_name_or_path")
    on = "the model in the same folder" if full else f"{base}" if base else "a model that it does not name"
    if importlib.util.find_spec("peft") is None:
        or_leave = f", or take {CONFIG} out of the folder to read the model without it" if full else ""
        raise BadInput(
            f"backbone {name}: {folder} holds an adapter ({kind}) of {on}; run `pip install 'micropref[adapters]'` to "
            f"have it merged, or merge it once with peft's merge_and_unload and save_pretrained{or_leave}"
        )
    if weights and not has_weights(folder):
        raise BadInput(f"backbone {name}: no {_WEIGHTS} in {folder}; an adapter's pickled weights are never loaded")
    if full:
        return None
    if not base:
        raise BadInput(f"backbone {name}: {folder / CONFIG} does not name its model (base_model_name_or_path)")
    return str(folder / base) if (folder / str(base)).is_dir() else str(base)


def load_merged(model_folder: Path, adapter: Path, name: str, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the trunk of a model with an adapter merged into it, and transformers' report of loading the model.

    Raises BadInput where weights of the adapter find no place in the model, or it cannot be merged.
    """
    transformers, peft = importlib.import_module("transformers"), importlib.import_module("peft")
    kind = _MODEL_CLASSES.get(str(_config(adapter, name).get("task_type")), "AutoModel")
    with _without_adapter(model_folder) as plain:
        model, report = getattr(transformers, kind).from_pretrained(plain, **options)
    wrapped = peft.PeftModel(model, peft.PeftConfig.from_pretrained(str(adapter)))
    result = wrapped.load_adapter(str(adapter), adapter_name="default")
    lost = [key for key in result.missing_keys if ".default." in key or "lora" in key] + list(result.unexpected_keys)
    if lost:
        raise BadInput(
            f"backbone {name}: {len(lost)} weights of the adapter {adapter} do not meet those of its model ({lost[0]}"
            ", ...): expected an adapter of this very model"
        )
    merged = wrapped.merge_and_unload()
    # A head on top may be new to this model, and is not read.
    trunk = {key for key in report["missing_keys"] if key.startswith(f"{merged.base_model_prefix}.")}
    whole = merged.base_model is merged
    return merged.base_model, report if whole else {**report, "missing_keys": trunk}


@contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """Yield a folder with a model's files alone: transformers would put an adapter on without merging it."""
    if not is_adapter(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(made) / path.name).symlink_to(path.resolve())
        yield Path(made)


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_bytes())
    except (ValueError, OSError) as error:
        raise BadInput(f"backbone {name}: {folder / CONFIG} cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise BadInput(f"backbone {name}: {folder / CONFIG} holds no JSON object")
    return found
