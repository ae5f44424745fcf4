"""The file that a command writes its figures to, asked for by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micropref.pipeline.show.page.figures import Page


def page_file(path: str | Path | None, announce: Callable[[str], None]) -> Callable[[Page], None]:
    """Return what writes a page to a file, nothing where none is named. Raises BadInput before the work begins."""
    from micropref.pipeline.show.page.file import check_page_file, write_page

    if path is None:
        return lambda _: None
    file = Path(path)
    check_page_file(file)

    def write(page: Page) -> None:
        size = write_page(file, page)
        announce(f"{file}: a page of {size / 1000:,.0f} kB")

    return write
