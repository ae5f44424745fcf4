"""Draw docs/pictures: figures of the pages that docs/tour.md makes, as a browser shows them in a light scheme.

    PYTHONPATH=. python tests/support/screenshots.py      (`make screenshots`)

Needs playwright and a chromium: `pip install playwright`, and Debian's package or `playwright install chromium`.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
import sys
from pathlib import Path

from tests.support.tour import FOLDER, ROOT, walk

PICTURES = ROOT / "docs" / "pictures"
COLOURS = 64
"""Pages have few colours: a palette of so many shows the same in a third of the bytes."""
MOST_BYTES = 150_000
SHOTS = {
    "heads": ("tour.html", 860, 'figure:has(h3:text-is("Accuracy of heads by attribute"))'),
    "card": ("tour.html", 640, 'article.card:has(h4:has-text("head 2"))'),
    "router": ("tour.html", 860, 'figure:has(h3:text-is("Mixture weights by context"))'),
    "sweep": ("sweep.html", 860, 'figure:has(h3:text-is("Choice of K"))'),
}
"""Picture -> its page, the width of the window in px, and the first thing to match on the page."""


def picture(png: bytes) -> bytes:
    """Return a PNG with a palette."""
    from PIL import Image

    out = io.BytesIO()
    palette = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    palette.save(out, "PNG", optimize=True)
    return out.getvalue()


def draw(pages: Path) -> dict[str, bytes]:
    """Return each picture, taken from pages in a folder."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"))
        drawn = {}
        for name, (page_name, width, place) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            page.goto((pages / page_name).as_uri())
            drawn[name] = picture(page.locator(place).first.screenshot())
            page.close()
        browser.close()
    return drawn


def main() -> None:
    """Run the tour, draw, and write what is small enough to be kept in the repository."""
    if importlib.util.find_spec("playwright") is None:
        sys.exit("screenshots: playwright is not installed; pip install playwright, and install a chromium")
    from playwright.sync_api import Error

    walk(FOLDER)
    try:
        drawn = draw(FOLDER)
    except Error as error:
        sys.exit(f"screenshots: no chromium, or it fails: {str(error).strip().splitlines()[0]}")
    PICTURES.mkdir(exist_ok=True)
    for name, content in drawn.items():
        if len(content) > MOST_BYTES:
            sys.exit(f"screenshots: {name}.png has {len(content):,} bytes, at most {MOST_BYTES:,} are kept")
        (PICTURES / f"{name}.png").write_bytes(content)
        print(f"docs/pictures/{name}.png: {len(content):,} bytes")


if __name__ == "__main__":
    main()
