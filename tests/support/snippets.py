"""Code that documents show: taken out of them, and run as it stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def page_snippets(path: Path) -> list[str]:
    """Return the Python blocks of a Markdown page."""
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def docstring_examples(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, code) of each docstring's section `Example:` in a module, whose lines are indented by four."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            found = re.search(r"^Example:\n((?: {4}.*\n?|\n)+)", text, re.MULTILINE)
            if found:
                yield (
                    getattr(node, "name", path.parent.name),
                    "\n".join(line.removeprefix("    ") for line in found[1].splitlines()),
                )


def run_snippets(snippets: Sequence[str], label: str, names: dict[str, Any]) -> None:
    """Run snippets one after the other in one namespace, as a reader would who types them."""
    for number, code in enumerate(snippets):
        exec(compile(code, f"{label}, snippet {number}", "exec"), names)
