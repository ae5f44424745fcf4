"""A browser and pages to open in it."""

from __future__ import annotations

from tests.support.browser import open_page
from tests.support.reported import made

__all__ = ["made", "open_page"]  # fixtures
