"""One module of a package that is installed without what it needs, loaded by itself.

Everything that the module imports and this environment lacks is replaced by a mock, so that only code that needs none
of it can be called.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock


def load(package: str, module: str) -> ModuleType:
    """Return a module, such as `openrlhf.utils.agent` of the package openrlhf."""
    path = Path(str(distribution(package).locate_file(module.replace(".", "/") + ".py")))
    names = _imported(path, module)
    tops = {name.partition(".")[0] for name in names}
    absent = {top for top in tops if top == package or _is_absent(top)}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1) if parts[0] in absent else ():
            sys.modules.setdefault(".".join(parts[:end]), MagicMock())
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def _is_absent(top: str) -> bool:
    """Say whether this environment lacks a package, mocked for an earlier module or not."""
    return isinstance(sys.modules.get(top), MagicMock) or importlib.util.find_spec(top) is None


def _imported(path: Path, module: str) -> set[str]:
    """Return the names of what a module imports when it is loaded."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(module.split(".")[: -node.level]) if node.level else ""
            found.add(".".join(part for part in (above, node.module) if part))
    return found
