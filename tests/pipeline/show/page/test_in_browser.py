"""Pages in a real browser: quiet, within the window, readable by everybody, with nothing of a text run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from micropref.pipeline.show.page.document import render_figures
from micropref.pipeline.show.page.texts import visible
from tests.support.browser import Open
from tests.support.hostile import HIDDEN, HOSTILE, LONG_TEXT, LONG_WORD, RIGHT_TO_LEFT
from tests.support.pages import every_kind
from tests.support.reported import MAKERS, Made

pytestmark = pytest.mark.browser
Pages = Callable[[str], Made]
WIDTHS, SCHEMES = (390, 1400), ("light", "dark")
PAPER_WIDTH = 700
"""Of an A4 sheet with margins, in pixels."""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_page_is_quiet_fits_and_can_be_read(open_page: Open, made: Pages, name: str, width: int, scheme: str) -> None:
    with open_page(made(name).path, width, scheme) as opened:
        opened.check_width()
        assert opened.violations() == []
        opened.show_everything()
        opened.check_width()
        if name != "wide":  # 32,000 elements take axe a minute, and are of the same kinds as those of the other pages
            assert opened.violations() == []
        opened.check_quiet()


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_is_cut_in_print(open_page: Open, made: Pages, name: str) -> None:
    with open_page(made(name).path, PAPER_WIDTH, "dark") as opened:
        page = opened.page
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        cut = """() => [...document.querySelectorAll('.scroll, .long, .card, td, th, svg')]
            .filter((one) => one.checkVisibility() && getComputedStyle(one).overflowY !== 'visible'
                && (one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1)
                && one.tagName !== 'svg')
            .map((one) => one.outerHTML.slice(0, 200))"""
        assert page.evaluate(cut) == []
        if name != "hostile":
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        hidden = page.evaluate(
            "[...document.querySelectorAll('.card details > p')].filter((one) => !one.checkVisibility()).length"
        )
        assert hidden == 0
        assert not page.locator(".controls, .save, nav").filter(visible=True).count()
        assert len(page.pdf(format="A4")) > 10_000
        opened.check_quiet()


def test_every_hostile_text_is_shown_as_text(open_page: Open, made: Pages) -> None:
    with open_page(made("hostile").path) as opened:
        opened.show_everything()
        opened.page.evaluate("document.querySelectorAll('script').forEach((one) => one.remove())")
        seen = opened.page.evaluate("document.body.textContent")
        for text in HOSTILE:
            assert visible(text) in seen, text[:40]
        assert opened.page.evaluate("[...document.querySelectorAll('img, iframe, a:not([href^=\"#\"])')].length") == 0
        assert opened.page.evaluate("document.title.includes('best')")
        opened.check_quiet()


@pytest.mark.parametrize("texts", [(*HOSTILE[:12], *HIDDEN, RIGHT_TO_LEFT), (LONG_WORD, LONG_TEXT)])
def test_every_place_of_a_page_takes_any_text(open_page: Open, tmp_path: Path, texts: tuple[str, ...]) -> None:
    from micropref.pipeline.show.page.file import write_page

    path = tmp_path / "every.html"
    write_page(path, every_kind(texts))
    for width in WIDTHS:
        with open_page(path, width) as opened:
            opened.show_everything()
            opened.check_width()
            opened.check_quiet()


def test_directions_of_texts(open_page: Open, made: Pages) -> None:
    with open_page(made("one attribute").path, 390) as opened:
        row = opened.page.locator(f'th[scope=row]:has-text("{RIGHT_TO_LEFT}")').first
        assert row.evaluate("(one) => getComputedStyle(one).direction") == "rtl"
        assert opened.page.evaluate("getComputedStyle(document.body).direction") == "ltr"
    with open_page(made("hostile").path) as opened:
        opened.show_everything()
        mine = opened.page.locator(".pair .long").filter(has_text="a[U+202E]txt.exe").first
        assert mine.evaluate("(one) => getComputedStyle(one).direction") == "ltr"
        theirs = opened.page.locator(".pair .two .long").filter(has_text=RIGHT_TO_LEFT).first
        assert theirs.evaluate("(one) => one.matches(':dir(rtl)')") == theirs.inner_text().startswith(RIGHT_TO_LEFT[0])


@pytest.mark.parametrize("long", [LONG_WORD, LONG_TEXT])
def test_long_texts_are_whole_and_scroll_by_keyboard(open_page: Open, made: Pages, long: str) -> None:
    with open_page(made("hostile").path, 390) as opened:
        page = opened.page
        opened.show_everything()
        box = page.locator(".pair .long[tabindex]").filter(has_text=long[:200]).first
        assert long.strip() in box.evaluate("(one) => one.textContent")
        box.focus()
        before = box.evaluate("(one) => one.scrollTop")
        page.keyboard.press("PageDown")
        page.wait_for_function("([one, before]) => one.scrollTop > before", arg=[box.element_handle(), before])


def test_a_page_without_script_has_its_figures_and_offers_nothing_that_needs_it(open_page: Open, made: Pages) -> None:
    with open_page(made("curves").path, 390, script=False) as opened:
        page = opened.page
        assert page.locator("figure").count() == len(made("curves").figures)
        assert not page.locator("button").filter(visible=True).count()
        assert page.get_by_text("needs the script of this page").is_visible()
        assert not page.locator("form").filter(visible=True).count()


def test_a_fragment_leaves_the_page_around_it_as_it_was(open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    around = (
        '<!doctype html><html lang="en"><title>notebook</title><body><p id="mine">mine</p><table><td>mine</td></table>'
    )
    path.write_text(f"{around}{render_figures(every_kind(['a', 'b']))}</body></html>", encoding="utf-8")
    bare = tmp_path / "bare.html"
    bare.write_text(f"{around}</body></html>", encoding="utf-8")
    style = """(one) => {
        const found = getComputedStyle(one);
        return [found.color, found.font, found.margin, found.padding];
    }"""
    with open_page(path) as opened, open_page(bare) as before:
        for place in ("#mine", "body > table td", "body"):
            assert opened.page.locator(place).first.evaluate(style) == before.page.locator(place).first.evaluate(style)
        colour = opened.page.locator("td.d3").first.evaluate("(one) => getComputedStyle(one).backgroundColor")
        assert colour not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
        assert opened.page.locator("svg.plot .line").first.evaluate("(one) => getComputedStyle(one).stroke") != "none"
        opened.check_quiet()
