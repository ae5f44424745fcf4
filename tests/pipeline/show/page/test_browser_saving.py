"""What a page saves: figures as SVG that look as on the page, their numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from micropref.pipeline.show.page.figures import Charts, Figure
from micropref.pipeline.show.page.texts import visible
from tests.support.browser import Open, Opened
from tests.support.reported import Made

pytestmark = pytest.mark.browser
Pages = Callable[[str], Made]
AT_ONCE = 8
"""Files that Chromium lets a page save: keys pressed by a program do not count as a person's."""
PLACE = """(name) => {
    const figure = document.querySelector(name);
    figure.querySelectorAll('.scroll').forEach((one) => { one.style.overflow = 'visible'; });
    const boxes = [...figure.querySelectorAll('.drawn, .chart h4')].map((one) => one.getBoundingClientRect());
    const left = Math.min(...boxes.map((box) => box.left)), right = Math.max(...boxes.map((box) => box.right));
    const top = Math.min(...boxes.map((box) => box.top)), bottom = Math.max(...boxes.map((box) => box.bottom));
    return {x: left + scrollX, y: top + scrollY, width: right - left, height: bottom - top};
}"""
SVG = "{http://www.w3.org/2000/svg}"


def save(opened: Opened, figure: Figure, kind: str, folder: Path) -> Path:
    """Save a figure by keyboard."""
    page = opened.page
    opened.saved += 1
    if opened.saved % AT_ONCE == 0:
        page.reload()
    page.locator(f'figure[id="{figure.id}"] button[data-save={kind}]').focus()
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    path = folder / waiting.value.suggested_filename
    assert path.name == f"{figure.id}.{kind}"
    waiting.value.save_as(path)
    return path


def read(value: str) -> object:
    try:
        return float(value)
    except ValueError:
        return value


def as_saved(value: Any) -> object:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return (
        float(f"{value:.8g}")
        if isinstance(value, float)
        else float(value)
        if isinstance(value, int)
        else visible(value)
    )


@pytest.mark.parametrize("name", ["curves", "hostile", "bare", "wide"])
def test_numbers_are_saved_as_csv(open_page: Open, made: Pages, name: str, tmp_path: Path) -> None:
    with open_page(made(name).path, 390) as opened:
        for figure in made(name).figures:
            text = save(opened, figure, "csv", tmp_path).read_bytes().decode()
            names, *rows = csv.reader(io.StringIO(text, newline=""))
            assert names == list(figure.numbers.columns)
            assert len(rows) == len(figure.numbers.rows)
            for found, wanted in zip(rows, figure.numbers.rows, strict=True):
                assert [read(value) for value in found] == [
                    read(one) if isinstance(one := as_saved(value), str) else one for value in wanted
                ]
        opened.check_quiet()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
@pytest.mark.parametrize("name", ["curves", "hostile", "one attribute"])
def test_figures_are_saved_as_svg_with_titles_and_numbers(
    open_page: Open, made: Pages, name: str, width: int, scheme: str, tmp_path: Path
) -> None:
    with open_page(made(name).path, width, scheme) as opened:
        for figure in made(name).figures:
            root = ElementTree.parse(save(opened, figure, "svg", tmp_path)).getroot()
            assert root.tag == f"{SVG}svg"
            title = root.find(f"{SVG}title")
            assert title is not None
            assert title.text == visible(figure.title)
            drawn = "".join("".join(one.itertext()) for one in root.iter(f"{SVG}text"))
            written = "".join(drawn.split())
            assert "".join(visible(figure.title).split()) in written
            if isinstance(figure.body, Charts):
                titles = [one.text for one in root.iter(f"{SVG}title")]
                for chart in figure.body.charts:
                    assert "".join(visible(chart.title).split()) in written
                    marked = [
                        point for one in chart.series if one.marks for point in one.points if math.isfinite(point.y)
                    ]
                    assert all(any(f"{point.y:.4f}" in (text or "") for text in titles) for point in marked)
                continue
            cells = opened.page.locator(f'figure[id="{figure.id}"] table.drawn').locator("td, th").all_inner_texts()
            for cell in cells:
                assert "".join(cell.split()) in written
        opened.check_quiet()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1400, "light"), (1400, "dark")])
def test_a_saved_figure_looks_as_on_the_page(
    open_page: Open, made: Pages, width: int, scheme: str, tmp_path: Path
) -> None:
    with open_page(made("curves").path, width, scheme) as opened:
        for figure in made("curves").figures:
            path = save(opened, figure, "svg", tmp_path)
            root = ElementTree.parse(path).getroot()
            size = [math.ceil(float(root.attrib[name])) for name in ("width", "height")]
            # As wide as the whole figure, so that nothing of it is scrolled away.
            here = f'figure[id="{figure.id}"]'
            place = opened.page.evaluate(PLACE, here)
            picture = pixels(opened.page.screenshot(clip=place, full_page=True))
            with open_page(path, max(size[0], 400), scheme) as saved:
                saved.page.set_viewport_size({"width": size[0], "height": size[1]})
                drawn = pixels(saved.page.screenshot())
            height, wide = min(picture.height, drawn.height - 8) - 4, min(picture.width, drawn.width - 8) - 4
            below = drawn.height - 10 - height
            first = in_blocks(picture.crop((2, 2, 2 + wide, 2 + height)))
            # The screen rounds places to whole pixels: the closest of those next to it.
            places = [(10 + x, below + y) for x in (-1, 0, 1) for y in (-2, -1, 0, 1, 2)]
            others = (in_blocks(drawn.crop((x, y, x + wide, y + height))) for x, y in places)
            apart = min((np.abs(first - other) for other in others), key=np.mean)
            drawn_on = np.abs(first - np.median(first)).mean()
            assert apart.mean() < drawn_on / 3, f"{figure.id}: {apart.mean():.1f} apart, {drawn_on:.1f} drawn, of 255"


def pixels(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("L")


def in_blocks(picture: Image.Image) -> np.ndarray[Any, Any]:
    """Return the mean of each square of 8 pixels: letters may lie a pixel apart."""
    return np.asarray(picture.reduce(8), dtype=float)
