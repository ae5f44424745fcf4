"""Values of the Python API: sizes as bytes or as text, refused where they are neither."""

from __future__ import annotations

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.api.values import size


@pytest.mark.parametrize(
    ("value", "count"),
    [("6GB", 6 * 10**9), ("800MB", 8 * 10**8), (" 1.5 gb", 15 * 10**8), ("2TB", 2 * 10**12), (12345, 12345)],
)
def test_sizes(value: str | int, count: int) -> None:
    assert size(value) == count


def test_no_size_is_none() -> None:
    assert size(None) is None


@pytest.mark.parametrize("value", ["6", "GB", "-1GB", "6 GiB", "0MB", "all", "", 0, -5])
def test_what_is_no_size_is_refused(value: str | int) -> None:
    with pytest.raises(BadInput, match=r"memory is .*: expected bytes, or a size such as 6GB or 800MB"):
        size(value)
