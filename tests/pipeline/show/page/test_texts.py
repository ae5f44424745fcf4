"""Texts of users stay text."""

from __future__ import annotations

import json

import pytest

from micropref.pipeline.show.page.texts import LONGEST, json_in_page, shown, visible
from tests.support.hostile import HIDDEN, HOSTILE, MARKUP


@pytest.mark.parametrize(("text", "expected"), HIDDEN.items())
def test_hidden_characters_are_written_out(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_other_texts_stay_as_they_are() -> None:
    for text in (*MARKUP, "tab\tand\nline", "emoji 👩‍👩‍👧 and é", "שלום"):
        assert visible(text) == text
    assert visible("a\r\nb") == "a\nb"
    assert visible("\ud800 alone") == "[U+D800] alone"


def test_a_very_long_text_says_how_much_of_it_is_cut() -> None:
    assert shown("x" * LONGEST) == "x" * LONGEST
    assert shown("x" * 1500, 200) == "x" * 200 + "… [1,300 more characters]"
    assert shown("\x00ab", 1) == "[U+0000]… [2 more characters]"


def test_json_in_a_page_neither_ends_its_element_nor_begins_a_comment() -> None:
    text = json_in_page({"texts": HOSTILE})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"texts": list(HOSTILE)}
    with pytest.raises(ValueError, match="JSON"):
        json_in_page(float("nan"))
