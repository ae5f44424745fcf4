"""What rows a source began with, so that a file that grew extends its part in place of becoming a second source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator

from micropref.pipeline.sources.rows import Row, Unreadable


class RowsRead:
    """Passes rows on, counts them, and says which rows the first N of them were."""

    def __init__(self, rows: Iterable[Row | Unreadable], marks: Collection[int], *, hashed: bool = True) -> None:
        """Take the rows and the N, `marks`, whose digests are wanted; without `hashed` there are none."""
        self._rows, self._marks, self._hashed = rows, frozenset(marks), hashed
        self._hash = hashlib.sha256()
        self.count = 0
        """Rows passed on so far."""
        self.prefixes: dict[int, str] = {}
        """N → digest of the first N rows, for the marks passed so far."""

    def __iter__(self) -> Iterator[Row | Unreadable]:
        for row in self._rows:
            self.count += 1
            if self._hashed:
                self._hash.update(_line(row))
                if self.count in self._marks:
                    self.prefixes[self.count] = self._hash.hexdigest()
            yield row

    @property
    def digest(self) -> str | None:
        """Return the digest of all rows so far; None where they were not hashed."""
        return self._hash.hexdigest() if self._hashed else None


def _line(row: Row | Unreadable) -> bytes:
    """Return a row as text, whatever its values are; where it was read does not enter."""
    value = str(row.error) if isinstance(row, Unreadable) else row.values
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n"
