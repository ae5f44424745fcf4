"""A page as a file: it replaces an earlier page, and no other file."""

from __future__ import annotations

from pathlib import Path

from micropref.cache.atomic import check_new_file, write_bytes
from micropref.cache.errors import BadInput, cannot_read
from micropref.pipeline.show.page.document import GENERATOR, render_page
from micropref.pipeline.show.page.figures import Page

SIGN = f'<meta name="generator" content="{GENERATOR}">'.encode()
HEAD = 4096
"""Bytes at the start of a page that its sign is in."""


def check_page_file(path: Path) -> None:
    """Raise BadInput where a page cannot have this name: no folder, or another file is there. To be asked first."""
    check_new_file(path)
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            known = SIGN in file.read(HEAD)
    except OSError as error:
        raise cannot_read(path, error) from error
    if not known:
        raise BadInput(f"{path}: there is a file already, and it is no page of micropref; give another name")


def write_page(path: Path, page: Page) -> int:
    """Write a page, whole or not at all; return its size in bytes. Raises as `check_page_file` does."""
    check_page_file(path)
    data = render_page(page).encode()
    write_bytes(path.absolute(), data)
    return len(data)
