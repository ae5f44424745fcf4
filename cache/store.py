"""Where things lie in a store, and which names are allowed there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from micropref.cache.errors import BadInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MARKS = {"features": "features.json", "runs": "run.json"}
"""The file written last: a folder without it is a command at work, or one that was stopped."""
ORIGIN = "origin"
"""Commit that says where a run, or vectors, came from: `unpack` and `pull` write it."""


def check_name(kind: str, name: str) -> str:
    """Return a name that is safe as a folder or file stem. Raises BadInput naming what kind of name it is."""
    if not NAME.fullmatch(name):
        raise BadInput(f"{kind} {name!r}: expected 1 to 64 letters, digits, '-' or '_', the first a letter or digit")
    return name


@dataclass(frozen=True)
class StoreFolder:
    """The folder that holds features, data sets and runs."""

    root: Path

    def features(self, features_id: str) -> Path:
        """Return the folder of one features id."""
        return self.root / "features" / check_name("features id", features_id)

    def dataset(self, name: str) -> Path:
        """Return the folder of one data set."""
        return self.root / "datasets" / check_name("data set", name)

    def run(self, run_id: str) -> Path:
        """Return the folder of one run."""
        return self.root / "runs" / check_name("run", run_id)

    def names(self, kind: str) -> list[str]:
        """Return what there is of `features`, `datasets` or `runs`, sorted; links are never followed."""
        folder = self.root / kind
        if not folder.is_dir():
            return []
        entries = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
        whole = (path for path in entries if kind not in MARKS or (path / MARKS[kind]).is_file())
        return sorted(path.name for path in whole if NAME.fullmatch(path.name))

    def existing(self, kind: str, name: str) -> Path:
        """Return the folder of something that is there. Raises BadInput listing what is there instead."""
        label = {"features": "features id", "datasets": "data set", "runs": "run"}[kind]
        check_name(label, name)
        found = self.names(kind)
        if name not in found:
            there = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "none yet"
            raise BadInput(f"unknown {label} {name!r} in store {self.root} (there: {there})")
        return self.root / kind / name
