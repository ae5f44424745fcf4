"""A page is one file of text: parsed as HTML, everything that came from users is text in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from micropref.pipeline.show.page.document import render_figures, render_page
from micropref.pipeline.show.page.figures import Figure, Numbers, Page, PlainTable, Section
from micropref.pipeline.show.page.texts import visible
from tests.support.hostile import HIDDEN, MARKUP, RIGHT_TO_LEFT
from tests.support.pages import every_kind

TEXTS = (*MARKUP, *HIDDEN, RIGHT_TO_LEFT, "\ud800 alone")


class Parsed(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.comments: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag in ("script", "style"):
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            (self.scripts if self.inside == "script" else self.styles)[-1] += data
        else:
            self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


@pytest.fixture(scope="module")
def html() -> str:
    return render_page(every_kind(TEXTS))


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


ELEMENTS = """
    a article bdi body button circle details div fieldset figcaption figure form g h1 h2 h3 h4 h5 head header html
    input label legend li main meta nav option output p path script section select small span style summary svg table
    tbody td text th thead title tr ul
"""
KNOWN = set(ELEMENTS.split())


def test_no_text_becomes_an_element_or_a_comment(parsed: Parsed) -> None:
    plain = Parsed(render_page(every_kind(["w" * len(visible(text)) for text in TEXTS])))
    assert "".join(f"<{tag}>" for tag, _ in parsed.elements) == "".join(f"<{tag}>" for tag, _ in plain.elements)
    assert {tag for tag, _ in parsed.elements} <= KNOWN
    assert parsed.comments == []
    assert len(parsed.scripts) == 6  # numbers of four figures, the pairs, and the page's own


def test_every_text_is_shown_with_what_was_hidden_in_it(html: str, parsed: Parsed) -> None:
    assert all(parsed.text.count(visible(text)) > 10 for text in TEXTS)
    assert set(re.findall(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u2028\ud800-\udfff]", html)) == set()
    html.encode()


def test_the_data_of_a_page_is_json_with_every_text(parsed: Parsed) -> None:
    numbers, *_, pairs, _ = (script for script in parsed.scripts)
    assert json.loads(numbers) == {"columns": ["name", "value"], "rows": [[visible(text), 0.5] for text in TEXTS]}
    assert [row["prompt"] for row in json.loads(pairs)] == [visible(text) for text in TEXTS]


def test_the_policy_lets_the_pages_own_style_and_script_through_and_nothing_else(parsed: Parsed) -> None:
    (policy,) = (
        found["content"] for _, found in parsed.elements if found.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.keys() == {"default-src", "style-src", "script-src", "base-uri", "form-action"}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for name, texts in (("style-src", parsed.styles), ("script-src", parsed.scripts[-1:])):
        (text,) = texts
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    # Data is no script, and needs no permission.
    own = [found for tag, found in parsed.elements if tag == "script"]
    assert [found.get("type") for found in own] == ["application/json"] * 5 + [None]


def test_a_page_names_no_address_and_no_handler(html: str, parsed: Parsed) -> None:
    for _, found in parsed.elements:
        assert not [name for name in found if name.startswith("on") or name in ("src", "style", "srcset", "action")]
        assert (found.get("href") or "#").startswith("#")
    plain = render_page(every_kind(["name"]))
    assert set(re.findall(r"https?://[^\s\"'<>)]+", plain)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in plain
    assert "@import" not in plain


def test_ids_are_unique_and_every_link_has_its_place(parsed: Parsed) -> None:
    ids = [found["id"] for _, found in parsed.elements if "id" in found]
    assert len(ids) == len(set(ids))
    linked = {found["href"][1:] for _, found in parsed.elements if found.get("href")}  # type: ignore[index]
    assert linked <= set(ids)
    assert {found["aria-labelledby"] for _, found in parsed.elements if "aria-labelledby" in found} <= set(ids)


def test_numbers_that_json_has_no_word_for_are_null() -> None:
    rows = ((float("nan"), float("inf"), 1 / 3, None, 7, "\x00"),)
    figure = Figure("f", "t", "c", PlainTable(("x",), (("1",),)), Numbers(tuple("abcdef"), rows))
    found = Parsed(render_page(Page("t", (), (Section("s", "s", (), (figure,)),))))
    assert json.loads(found.scripts[0])["rows"] == [[None, None, 0.33333333, None, 7, "[U+0000]"]]


def test_the_fragment_of_a_notebook_has_figures_and_no_script() -> None:
    fragment = render_figures(every_kind(TEXTS))
    found = Parsed(fragment)
    assert found.scripts == []
    assert {tag for tag, _ in found.elements} <= KNOWN - {"html", "head", "body", "script", "button", "form"}
    assert sum(tag == "figure" for tag, _ in found.elements) == 4
    (style,) = found.styles
    assert style.startswith("@scope (.micropref){")
    assert ":root" not in style
    for text in TEXTS:
        assert visible(text) in found.text
