"""Files of an exported folder: JSON read and written one way, and the backbone's own linked or copied."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from micropref.cache.errors import BadInput


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that people can read too."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def dtype_entries(dtype: torch.dtype) -> dict[str, str]:
    """Return what config.json says of a dtype, in the words of transformers 5 and 4."""
    name = str(dtype).removeprefix("torch.")
    return {"dtype": name, "torch_dtype": name}


@dataclass(frozen=True)
class Placing:
    """How files of the backbone get into the folder."""

    dtype: torch.dtype
    """What the folder is read in."""
    convert: bool
    """Whether weights are stored in it; otherwise as the backbone has them."""
    link: bool
    """Whether files of weights are hard links where they stay as they are."""

    def put(self, source: Path, target: Path) -> None:
        """Put a file into the folder. Raises BadInput where it cannot be linked."""
        if source.suffix != ".safetensors":
            shutil.copyfile(source.resolve(), target)
        elif self.convert and _differs(source, self.dtype):
            save_file(self.converted(load_file(source)), target, metadata={"format": "pt"})
        elif self.link:
            _link(source, target)
        else:
            shutil.copyfile(source.resolve(), target)

    def converted(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return weights as they are stored; numbers that are no floats stay."""
        if not self.convert:
            return weights
        return {name: one.to(self.dtype) if one.is_floating_point() else one for name, one in weights.items()}


def _differs(path: Path, dtype: torch.dtype) -> bool:
    """Say whether a file has a weight of another floating dtype; nothing but its header is read."""
    stored = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    with safe_open(path, framework="pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - no mapping
    return any(kind != stored and kind[0] in "FB" and kind != "BOOL" for kind in kinds)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise BadInput(
            f"{source}: cannot be linked into the folder ({error.strerror}): leave `link` out, then it is copied"
        ) from None
