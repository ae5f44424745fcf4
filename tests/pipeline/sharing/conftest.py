"""A store to share from, and one to receive."""

from __future__ import annotations

from pathlib import Path

import pytest

import micropref
from tests.support.stores import first_release_store


@pytest.fixture
def opened(tmp_path: Path) -> micropref.Store:
    """Return the store of the first release, quiet."""
    return micropref.Store(first_release_store(tmp_path), announce=lambda _: None)


@pytest.fixture
def other(tmp_path: Path) -> micropref.Store:
    """Return an empty store elsewhere, quiet."""
    return micropref.Store(tmp_path / "elsewhere", announce=lambda _: None)
