"""The folder of some features without the vectors: their settings, what is said of the backbone, its own reward head.

D embedding width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from micropref.cache.atomic import write_bytes
from micropref.cache.commits import commit, read_commit, write_file
from micropref.cache.errors import Damaged, cannot_read
from micropref.cache.keys import canonical_json, signed, unsigned
from micropref.cache.store import ORIGIN

REWRITTEN = "embed again, or import again, with the same backbone and options: it is written anew, the vectors stay"


@dataclass(frozen=True)
class FeaturesFolder:
    """One features id of a store."""

    folder: Path
    settings: dict[str, Any]
    """Everything that changes a vector, plus `width` and `store_dtype`."""

    @property
    def id(self) -> str:
        """Return the short hash that names these features."""
        return self.folder.name

    @property
    def width(self) -> int:
        """Return D."""
        return int(self.settings["width"])

    @property
    def imported(self) -> str | None:
        """Return what made vectors that were imported, as the user named it; None where micropref computed them."""
        record = self.settings.get("imported")
        return None if record is None else str(record["backbone"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype vectors are stored in."""
        dtype: np.dtype[Any] = np.dtype(str(self.settings["store_dtype"]))
        return dtype

    @property
    def row_bytes(self) -> int:
        """Return the size of a stored vector."""
        return self.width * self.dtype.itemsize

    def about(self) -> dict[str, Any]:
        """Return what the embedding command said of the backbone: its name, revision, architecture.

        Raises Damaged where that is not as it was written; what earlier versions wrote has no digest of itself.
        """
        path = self.folder / "about.json"
        try:
            about = json.loads(path.read_bytes()) if path.is_file() else {}
            about = unsigned(about) if isinstance(about, dict) and "digest" in about else about
        except OSError as error:
            raise cannot_read(path, error) from error
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict):
            raise Damaged(f"{path}: damaged; {REWRITTEN}")
        return about

    def origin(self) -> dict[str, Any] | None:
        """Return what is known of where vectors were pulled from; None: they were made here."""
        found = read_commit(self.folder / f"{ORIGIN}.json")
        return None if found is None else found.record

    def create(self, about: dict[str, Any], reward_head: npt.NDArray[np.float32] | None) -> None:
        """Make the features' folder exist; `reward_head` [1, D] is the checkpoint's own, kept next to the vectors."""
        path, settings = self.folder / "features.json", canonical_json(self.settings).encode()
        if self._is_described(path, settings):
            return
        write_bytes(self.folder / "about.json", canonical_json(signed(about)).encode())
        if reward_head is not None:
            data = save({"score.weight": np.ascontiguousarray(reward_head)})
            file = write_file(self.folder, "reward_head", "weights", "safetensors", lambda out: out.write(data) and 1)
            commit(self.folder, "reward_head", {"weights": file}, {})
        write_bytes(path, settings)

    def _is_described(self, path: Path, settings: bytes) -> bool:
        """Say whether the files next to the shards are there and whole."""
        try:
            if not path.is_file() or path.read_bytes() != settings:
                return False
            self.about()
            self.reward_head()
        except Damaged:
            return False
        except OSError as error:
            raise cannot_read(path, error) from error
        return True

    def reward_head(self) -> npt.NDArray[np.float32] | None:
        """Return the checkpoint's own reward head [1, D], None where it has none. Raises Failure on damage."""
        item = read_commit(self.folder / "reward_head.json")
        return load(item.checked_path("weights").read_bytes())["score.weight"] if item else None
