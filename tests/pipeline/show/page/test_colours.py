"""Colours can be read: every text on its background, every line on the page."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from micropref.pipeline.show.page.colours import LINES, PAPER, SHADES, Scheme, contrast, shade, step_of, style_sheet


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((255, 255, 255), (118, 118, 118)) == pytest.approx(4.54, abs=0.01)
    assert contrast((255, 0, 0), (255, 255, 255)) == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_every_shade_and_line_of_the_style_sheet_can_be_read(scheme: Scheme) -> None:
    rules = style_sheet(scheme)

    def rgb(text: str) -> tuple[int, int, int]:
        red, green, blue = (int(text[start : start + 2], 16) for start in (0, 2, 4))
        return red, green, blue

    shades = re.findall(r"\.([dr]\d+)\{background:#(\w{6});color:#(\w{6})\}", rules)
    assert len({name for name, _, _ in shades}) == 2 * SHADES
    assert all(contrast(rgb(paper), rgb(ink)) >= 4.5 for _, paper, ink in shades)
    lines = re.findall(r"--k\d+:#(\w{6})", rules)
    assert len(set(lines)) == LINES
    assert all(contrast(rgb(line), PAPER[scheme]) >= 4.5 for line in lines)
    names = dict(re.findall(r"--(ink|paper):#(\w{6})", rules))
    assert contrast(rgb(names["ink"]), rgb(names["paper"])) >= 7


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_a_larger_value_is_further_from_the_page(scheme: Scheme) -> None:
    rising = [contrast(shade(step, "rising", scheme).paper, PAPER[scheme]) for step in range(SHADES)]
    assert rising == sorted(rising)
    middle = (SHADES - 1) // 2
    for side in (range(middle, SHADES), range(middle, -1, -1)):
        away = [contrast(shade(step, "diverging", scheme).paper, PAPER[scheme]) for step in side]
        assert away == sorted(away)
    assert shade(0, "diverging", scheme) != shade(SHADES - 1, "diverging", scheme)


def test_steps_of_a_scale() -> None:
    assert [step_of(value, 0.0, 1.0) for value in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [0, 0, 10, 20, 20]
    assert step_of(0.3, 0.3, 0.3) == 10
