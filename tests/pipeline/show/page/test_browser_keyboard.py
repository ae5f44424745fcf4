"""A page by keyboard alone: everything is reached, seen where it is, and filters show what the data says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.browser import Open
from tests.support.reported import Made

pytestmark = pytest.mark.browser
Pages = Callable[[str], Made]
Pair = dict[str, Any]


def test_everything_is_reached_in_its_order_and_seen(open_page: Open, made: Pages) -> None:
    with open_page(made("curves").path, 390) as opened:
        page = opened.page
        wanted = page.evaluate(
            """() => {
                window.order = [...document.querySelectorAll('a, button, select, input, summary, [tabindex]')]
                    .filter((one) => one.checkVisibility());
                return window.order.length;
            }"""
        )
        for place in range(wanted):
            page.keyboard.press("Tab")
            found = page.evaluate(
                """() => {
                    const one = document.activeElement, style = getComputedStyle(one);
                    const box = one.getBoundingClientRect();
                    return [window.order.indexOf(one), style.outlineStyle, parseFloat(style.outlineWidth),
                        box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth];
                }"""
            )
            assert found[0] == place
            assert found[1] != "none"
            assert found[2] >= 1
            assert found[3], f"element {place} has the focus outside the window"


def test_the_skip_link_comes_first_and_leads_to_the_figures(open_page: Open, made: Pages) -> None:
    with open_page(made("curves").path) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        skip = page.locator(":focus")
        assert skip.inner_text() == "Skip to the figures"
        assert skip.bounding_box()["x"] >= 0
        page.keyboard.press("Enter")
        assert page.url.endswith("#main")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")


def shown(page: Any) -> list[str]:
    """Return the prompts and choices of the pairs on the page."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.pair')].map(
            (one) => [...one.querySelectorAll('.long')].map((text) => text.textContent).join('|'))"""
    )


def as_shown(pair: Pair) -> str:
    names = [pair["attribute"], None if pair["user"] is None else f"person {pair['user']}", pair["context"]]
    meta = [" · ".join(name for name in names if name is not None)]
    return "|".join([*(one for one in meta if one), pair["prompt"], pair["chosen"], pair["rejected"]])


def choose(page: Any, name: str, steps: int) -> str:
    """Move a choice down from its top by keyboard; return what it says then."""
    select = page.locator(f"select[name={name}]")
    select.focus()
    page.keyboard.press("Home")
    for _ in range(steps):
        page.keyboard.press("ArrowDown")
    return select.evaluate("(one) => one.selectedOptions[0].textContent")


def test_pairs_are_filtered_by_keyboard_as_the_data_says(open_page: Open, made: Pages) -> None:
    (browser,) = made("curves").browsers
    pairs = list(browser.pairs)
    with open_page(made("curves").path) as opened:
        page = opened.page
        apart = sorted(pairs, key=lambda pair: -pair["spread"])
        assert shown(page) == [as_shown(pair) for pair in apart[:20]]
        assert page.locator(".count").inner_text() == f"{len(pairs)} of {len(pairs)} pairs, 20 shown"

        page.locator(".more").focus()
        page.keyboard.press("Enter")
        assert shown(page) == [as_shown(pair) for pair in apart[:40]]
        assert page.evaluate("document.activeElement.matches('.more')")

        for name in ("attribute", "user", "context"):
            said = choose(page, name, 1)
            kept = [pair for pair in apart if pair[name] == said]
            assert 0 < len(kept) < len(pairs)
            assert shown(page) == [as_shown(pair) for pair in kept[:20]]
            assert (
                page.locator(".count").inner_text() == f"{len(kept)} of {len(pairs)} pairs, {min(20, len(kept))} shown"
            )
            page.keyboard.press("Home")
        assert len(shown(page)) == 20

        choose(page, "attribute", 3)  # those without an attribute come last
        kept = [pair for pair in apart if pair["attribute"] is None]
        assert kept
        assert shown(page) == [as_shown(pair) for pair in kept[:20]]
        page.keyboard.press("Home")

        assert choose(page, "head", 2) == "head 1 is wrong"
        wrong = sorted((pair for pair in pairs if pair["m"][1] < 0), key=lambda pair: pair["m"][1])
        assert shown(page) == [as_shown(pair) for pair in wrong[:20]]
        page.keyboard.press("Home")

        assert choose(page, "order", 1) == "run most wrong"
        assert shown(page) == [as_shown(pair) for pair in sorted(pairs, key=lambda pair: pair["p"])[:20]]
        opened.check_quiet()


def test_words_are_searched_in_all_texts_of_a_pair(open_page: Open, made: Pages) -> None:
    pairs = made("hostile").browsers[0].pairs
    with open_page(made("hostile").path) as opened:
        page = opened.page
        box = page.locator(".browser").first
        for word in ("ONERROR", "</script>", "[U+202E]", "{{ 7 * 7 }}", "no such word"):
            box.get_by_label("Words").focus()
            page.keyboard.press("Control+A")
            page.keyboard.type(word)
            texts = ["\n".join((pair["prompt"], pair["chosen"], pair["rejected"])).lower() for pair in pairs]
            kept = sum(word.lower() in text for text in texts)
            assert box.locator(".count").inner_text().startswith(f"{kept} of {len(pairs)} pairs")
            assert box.locator(".pair").count() == min(20, kept)
        opened.check_quiet()


def test_a_run_of_one_head_without_names_offers_no_choice_that_means_nothing(open_page: Open, made: Pages) -> None:
    (browser,) = made("bare").browsers
    with open_page(made("bare").path) as opened:
        page = opened.page
        labels = [one.inner_text() for one in page.locator(".controls label").filter(visible=True).all()]
        assert labels == ["Words"]
        worst = sorted(browser.pairs, key=lambda pair: pair["p"])
        assert shown(page) == [as_shown(pair) for pair in worst[:20]]
        assert "apart" not in page.locator(".pair .meta").first.inner_text()
        opened.check_quiet()
