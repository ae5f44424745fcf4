"""Which prompts train, validate and test. By hash of the prompt, so every run and machine agrees; never by row."""

from __future__ import annotations

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.errors import BadInput
from micropref.cache.keys import sha256_hex

VALIDATION_SHARE = 0.1
"""Share of train prompts set aside for choosing among models."""


def part_of(split: str, prompt_id: str) -> str:
    """Return the part a prompt's pairs play: `fit` or `validation` inside train, `test` in any other split."""
    if split != TRAIN:
        return TEST
    return "validation" if _uniform("part", prompt_id) < VALIDATION_SHARE else "fit"


def split_of(prompt_id: str, test_share: float) -> str:
    """Return the split of a prompt under `split_by_prompt`."""
    return TEST if _uniform("split", prompt_id) < test_share else TRAIN


def check_test_share(share: float) -> None:
    """Raise BadInput unless a share of prompts leaves both splits some."""
    if not 0 < share < 1:
        raise BadInput(f"split_by_prompt is {share}: expected a share of prompts between 0 and 1, for example 0.1")


def _uniform(purpose: str, prompt_id: str) -> float:
    """Return a number in [0, 1) that only the purpose and the prompt decide."""
    return int(sha256_hex(f"{purpose}:{prompt_id}")[:13], 16) / 16**13
