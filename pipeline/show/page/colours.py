"""Colours of the page, in light and dark, chosen so that every text on them can be read.

Contrasts are WCAG 2.2's: at least 4.5 to 1 for text.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal

SHADES = 21
"""Steps of a heat table's scale; odd, so that there is a middle one."""
LINES = 8
"""Colours of lines and marks; further ones repeat them with other marks."""
_LINE_HUES = ((215, 0.65), (24, 0.85), (150, 0.7), (275, 0.6), (340, 0.65), (190, 0.8), (45, 0.9), (0, 0.0))
"""Hue in degrees and saturation of each line's colour: distinct for the common forms of colour blindness."""
BLUE, ORANGE = 215, 28
INK = {"light": (26, 26, 26), "dark": (238, 238, 238)}
PAPER = {"light": (255, 255, 255), "dark": (20, 22, 26)}
Scheme = Literal["light", "dark"]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Shade:
    """A background and the ink on it."""

    paper: Colour
    ink: Colour


def contrast(first: Colour, second: Colour) -> float:
    """Return how well two colours can be told apart, 1 to 21 (WCAG 2.2, contrast ratio)."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def shade(step: int, kind: str, scheme: Scheme) -> Shade:
    """Return the colours of a step of a diverging or a rising scale."""
    middle = (SHADES - 1) / 2
    share = (step - middle) / middle if kind == "diverging" else step / (SHADES - 1)
    light = 0.97 - 0.47 * abs(share) if scheme == "light" else 0.14 + 0.36 * abs(share)
    paper = _colour(BLUE if share >= 0 else ORANGE, 0.75 if scheme == "light" else 0.6, light)
    return Shade(paper, max(((0, 0, 0), (255, 255, 255)), key=lambda ink: contrast(paper, ink)))


def line_colour(number: int, scheme: Scheme) -> Colour:
    """Return the colour of a series, told from the page at 4.5 to 1."""
    hue, saturation = _LINE_HUES[number % LINES]
    steps = range(45, 10, -1) if scheme == "light" else range(55, 95)
    colours = (_colour(hue, saturation, step / 100) for step in steps)
    return next(one for one in colours if contrast(one, PAPER[scheme]) >= 4.5)


def style_sheet(scheme: Scheme) -> str:
    """Return the rules of a scheme's shades and lines: classes `d0`…, `r0`…, and variables `--k0`…."""
    rules = []
    for kind in ("diverging", "rising"):
        for step in range(SHADES):
            found = shade(step, kind, scheme)
            rules.append(f".{kind[0]}{step}{{background:{_hex(found.paper)};color:{_hex(found.ink)}}}")
    lines = ";".join(f"--k{number}:{_hex(line_colour(number, scheme))}" for number in range(LINES))
    return f":root{{--ink:{_hex(INK[scheme])};--paper:{_hex(PAPER[scheme])};{lines}}}" + "".join(rules)


def step_of(value: float, least: float, most: float) -> int:
    """Return the step of a value on a scale from least to most, its ends for values beyond them."""
    share = (value - least) / (most - least) if most > least else 0.5
    return round(min(1.0, max(0.0, share)) * (SHADES - 1))


def _colour(hue: float, saturation: float, light: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue / 360, light, saturation))
    return red, green, blue


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _luminance(colour: Colour) -> float:
    parts = (part / 255 for part in colour)
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
