"""Arguments of the wrong kind are named before anything is done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import micropref
from micropref.pipeline.api.checks import checked


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("train", {"name": "mine", "router_input": "x"}, "router_input is 'x': expected one of auto, prompt, context"),
        ("train", {"name": "mine", "method": "foo"}, "method is 'foo': expected one of mixture, static, single"),
        ("train", {"name": "mine", "k": "5"}, "k is '5': expected a whole number or None"),
        ("train", {"name": "mine", "k": True}, "k is True: expected a whole number"),
        ("train", {"name": "mine", "lam": "x"}, "lam is 'x': expected a number"),
        ("train", {"name": 5}, "name is 5: expected a text"),
        ("sweep", {"name": "mine", "k": [1, "2"]}, "k is .*: expected a whole number or a list, each a whole number"),
        ("adapt", {"run": "r", "by": "bogus"}, "by is 'bogus': expected one of user, attribute, context"),
        ("adapt", {"run": "r", "by": "user", "shots": 2.5}, "shots is 2.5: expected a whole number"),
        ("embed", {"source": [], "name": "m", "replace": "yes"}, "replace is 'yes': expected True or False"),
        ("import_vectors", {"source": [], "name": "m", "backbone_name": "b", "settings": []}, "settings is .*a dict"),
    ],
)
def test_a_wrong_kind_is_named(tmp_path: Path, method: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(micropref.BadInput, match=f"^{message}"):
        getattr(micropref.Store(tmp_path), method)(**arguments)
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_are_numbers() -> None:
    @checked
    def add(*, first: int, others: float | list[float] = 0.0) -> float:
        return first + float(np.sum(others))

    assert add(first=np.int64(1), others=np.float32(2)) == 3  # type: ignore[arg-type]
    assert add(first=1, others=[np.float64(2), 3]) == 6
