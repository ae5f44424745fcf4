"""Weight files of a checkpoint: whether all are there and readable as numbers, and the reward head among them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from micropref.cache.errors import BadInput

INDEX = "model.safetensors.index.json"
_LFS_POINTER = b"version https://git-lfs"
_ADAPTED = "base_model.model."
"""What adapters put in front of a weight's name."""
_SMALL = 1 << 30
"""Bytes of weights that are loaded in about a second."""
_FLOATS = ("F64", "F32", "F16", "BF16")
_HEADS = ("score", "classifier", "v_head", "value_head", "reward_head", "rm_head", "classification_head")
"""First parts of the names that heads of reward models and classifiers have."""


@dataclass(frozen=True, eq=False)
class RewardHead:
    """A checkpoint's own head that gives a text its reward."""

    weight: Tensor | None = None
    """[1, D] float32, where the reward is this times the text's vector; else None."""
    unread: str = ""
    """What was found instead, where there is a head of a form that is not read; else empty."""


def shards(folder: Path, name: str) -> list[Path]:
    """Return the safetensors files that an index names, all there; without an index those of the folder.

    Raises BadInput where the index cannot be read, or names files that are not there.
    """
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(map(str, json.loads(index.read_bytes())["weight_map"].values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"backbone {name}: {index} names no weight files ({type(error).__name__}); fetch it again"
        ) from None
    missing = [one for one in names if not (folder / one).is_file()]
    if missing:
        raise BadInput(
            f"backbone {name}: {folder} lacks {len(missing)} of the {len(names)} weight files that {INDEX} names "
            f"({missing[0]}{', ...' if len(missing) > 1 else ''}); fetch them again"
        )
    return [folder / one for one in names]


def check_weight_files(folder: Path, name: str) -> None:
    """Raise BadInput where a weight file is missing, a pointer to one, broken, or holds numbers of 8 bits or fewer."""
    for path in shards(folder, name):
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise BadInput(
                f"backbone {name}: {path} is a pointer to a file that Git LFS keeps elsewhere; run `git lfs pull` there"
            )
        found = next((kind for key, kind in _kinds(path) if key.endswith("weight") and kind not in _FLOATS), None)
        if found is not None:
            raise BadInput(
                f"backbone {name}: {path.name} holds quantised weights ({found}); give the model in 16 or 32 bit floats"
            )


def check_not_quantised(config: Any, name: str) -> None:
    """Raise BadInput naming the method where a config says that the weights are quantised."""
    text = config.get_text_config()
    found = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
    if found is None:
        return
    found = found if isinstance(found, dict) else found.to_dict()
    method = found.get("quant_method") or "an unnamed method"
    bits = found.get("bits") or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
    raise BadInput(
        f"backbone {name}: its weights are quantised ({method}{f', {bits} bit' if bits else ''}), which is not read "
        "here: give the model that it was made from, in 16 or 32 bit floats, or a .gguf file"
    )


def check_names_and_shapes(folder: Path, name: str, outline: PreTrainedModel) -> None:
    """Raise BadInput where the files that are there hold no weight of a model, or one of another shape.

    Their names may have a prefix, or parts that transformers turns into others: only weights of the same name behind
    one prefix are compared, and those of the same numbers of rows and columns in another order are left to it.
    """
    there = {key: shape for path in sorted(folder.glob("*.safetensors")) for key, shape in _shapes(path)}
    if not there:
        return
    kind = type(outline).__name__
    expected = {key: list(weight.shape) for key, weight in outline.named_parameters()}
    prefixes = Counter(prefix for key in there for prefix, rest in _splits(key) if rest in expected)
    if not prefixes:
        raise BadInput(
            f"backbone {name}: none of the {len(there)} weights in {folder} ({min(there)}, ...) has the name of one "
            f"of a {kind} ({min(expected)}, ...): expected a checkpoint of that model"
        )
    prefix = prefixes.most_common(1)[0][0]
    for key, shape in expected.items():
        found = there.get(prefix + key)
        if found is not None and sorted(found) != sorted(shape):
            raise BadInput(
                f"backbone {name}: {key} has shape {found} in {folder}, but a {kind} of its config.json has {shape}: "
                "config and weights are of two models"
            )


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to take a name for a prefix and the rest."""
    parts = key.split(".")
    for at in range(len(parts)):
        yield "".join(f"{part}." for part in parts[:at]), ".".join(parts[at:])


def are_small(folder: Path) -> bool:
    """Return whether weights are so small that a plan can load them to see that they can be."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= _SMALL


def read_reward_head(folder: Path, adapter: Path | None, architectures: list[str], width: int) -> RewardHead:
    """Return the reward head of a checkpoint: `score.weight` [1, D], or in words what there is instead.

    An adapter may bring its own.
    """
    found: dict[str, tuple[Path, str, list[int]]] = {}
    for path in (*sorted(folder.glob("*.safetensors")), *(adapter.glob("*.safetensors") if adapter else ())):
        for key, shape in _shapes(path):
            own = key.removeprefix(_ADAPTED)
            if own.split(".")[0] in _HEADS:
                found[own] = path, key, shape
    if not any(key.endswith("weight") for key in found):
        return RewardHead()
    classifies = adapter is not None or any(one.endswith("ForSequenceClassification") for one in architectures)
    path, key, shape = found.get("score.weight", (folder, "", []))
    if classifies and shape == [1, width]:
        with safe_open(path, framework="pt") as file:
            head: Tensor = file.get_tensor(key).float()
        return RewardHead(head)
    parts = ", ".join(f"{key} {shape}" for key, (_, _, shape) in sorted(found.items()))
    return RewardHead(unread=f"{architectures[0] if architectures else 'its files'} with {parts}")


def _shapes(path: Path) -> Iterator[tuple[str, list[int]]]:
    with suppress(SafetensorError), safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            yield key, list(file.get_slice(key).get_shape())


def _kinds(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the dtype of each tensor; nothing of a broken file, which loading reports."""
    with suppress(SafetensorError), safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            yield key, str(file.get_slice(key).get_dtype())
