"""Files of an exported folder: JSON read and written one way, and the backbone's own linked or copied."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from micropref.cache.errors import BadInput


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that people can read too."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def link_or_copy(source: Path, target: Path, *, link: bool) -> None:
    """Put a file of the backbone into the folder. Raises BadInput where it cannot be linked."""
    if not link:
        shutil.copyfile(source.resolve(), target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise BadInput(
            f"{source}: cannot be linked into {target.parent.parent} ({error.strerror}): leave `link` out, then it is "
            "copied"
        ) from None
