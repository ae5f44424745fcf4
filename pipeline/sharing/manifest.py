"""The list of what is shared: every file with its size, digest and columns. Packs and pushed folders are read by it.

It is read with suspicion, for it may come from anybody.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from micropref.cache.errors import BadInput
from micropref.cache.keys import canonical_json, sha256_hex
from micropref.cache.store import NAME
from micropref.pipeline.named.licences import Licences

FORMAT = 1
FILE = "micropref-share.json"
"""Name of the list; it is written last, and what lies around it without it is not complete."""
MOST_BYTES = 16 << 20
"""Largest list that is read."""
MOST_FILES = 100_000
Kind = Literal["run", "features"]
Role = Literal[
    "run", "heads", "people", "settings", "about", "reward_head", "vectors", "pairs", "ratings", "links", "contexts"
]
ROLES: tuple[str, ...] = get_args(Role)
_STEM = r"[A-Za-z0-9][A-Za-z0-9_-]{0,120}"
_FILE_NAME = re.compile(
    rf"(?P<of>{_STEM})/(?P<stem>{_STEM})\.(?P<role>[a-z_]+)\.(?P<digits>[0-9a-f]{{12}})\.[a-z]{{4,12}}"
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Member:
    """One file that is shared."""

    name: str
    """OF/STEM.ROLE.<first 12 digits of its sha256>.<ending>: other bytes have another name."""
    bytes: int
    digest: str
    """sha256 of its bytes."""
    rows: int
    """Rows of a table or vectors; 1 where it is neither."""
    columns: tuple[str, ...]
    """Fields, tensors or columns, each by its name."""

    @property
    def of(self) -> str:
        """Return the run, features id or data set that it belongs to."""
        return self.name.partition("/")[0]

    @property
    def stem(self) -> str:
        """Return its name without folder, role, digits and ending."""
        return self.name.partition("/")[2].partition(".")[0]

    @property
    def role(self) -> str:
        """Return what it is."""
        return self.name.split(".")[1]


@dataclass(frozen=True)
class Manifest:
    """All that is shared of a run or of some features."""

    kind: Kind
    id: str
    """The run, or the features id."""
    members: tuple[Member, ...]
    """In the order of their names."""
    named: dict[str, list[str]]
    """Texts and names that go out: `data`, `attribute`, `context` -> each of them."""
    left_out: tuple[str, ...]
    """What stays in the store, in words."""
    licences: Licences
    format: int = FORMAT

    def of(self, role: Role, name: str | None = None) -> list[Member]:
        """Return the files of a role, of one run, features id or data set, or of all."""
        return [one for one in self.members if one.role == role and name in (None, one.of)]

    def one(self, role: Role, name: str) -> Member:
        """Return the only file of a role. Raises BadInput where there is none, or several."""
        found = self.of(role, name)
        if len(found) != 1:
            raise BadInput(f"{FILE}: found {len(found)} files `{role}` of {name}, expected one; ask for a whole copy")
        return found[0]

    def owners(self, role: Role) -> list[str]:
        """Return the runs, features ids or data sets that have a file of a role, sorted."""
        return sorted({one.of for one in self.of(role)})

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(one.bytes for one in self.members)

    @property
    def digest(self) -> str:
        """Return the sha256 that stands for all of it."""
        return sha256_hex(canonical_json(self._value()))

    def encoded(self) -> bytes:
        """Return the list as it is written."""
        value = {**self._value(), "digest": self.digest}
        return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    def _value(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return value


def read_manifest(data: bytes, where: str) -> Manifest:
    """Return the list that was read at `where`. Raises BadInput where it is no such list, or asks for anything odd."""
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise BadInput(
                f"{where}: {FILE} is of format {str(value['format'])[:20]}, this version reads {FORMAT}; update it"
            )
        digest = value.pop("digest")
        members = tuple(_member(entry) for entry in value.pop("members"))
        licences = Licences(**{name: _text(text) for name, text in value.pop("licences").items()})
        if not all(text is None or (text.isprintable() and len(text) <= 500) for text in vars(licences).values()):
            raise ValueError("licences that are no names")
        left_out = tuple(str(_text(text)) for text in value.pop("left_out"))
        found = Manifest(**value, members=members, left_out=left_out, licences=licences)
        _check(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{where}: {FILE} is damaged ({type(error).__name__}: {error}); ask for a whole copy") from None
    if found.digest != digest:
        raise BadInput(f"{where}: {FILE} was changed after it was written; ask for a whole copy")
    return found


def _member(entry: dict[str, Any]) -> Member:
    if set(entry) != {field.name for field in fields(Member)}:
        raise ValueError("a file has other entries")
    member = Member(**{**entry, "columns": tuple(str(_text(name)) for name in entry["columns"])})
    parts = _FILE_NAME.fullmatch(member.name)
    if parts is None or parts["role"] not in ROLES or not _DIGEST.fullmatch(member.digest):
        raise ValueError(f"no name of a file: {member.name!r}")
    if parts["digits"] != member.digest[:12] or not NAME.fullmatch(parts["of"]):
        raise ValueError(f"no name of a file: {member.name!r}")
    if not all(type(number) is int and number >= 0 for number in (member.bytes, member.rows)):
        raise ValueError(f"{member.name}: sizes are no numbers")
    return member


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"found {value!r}, expected a text")
    return value


def _check(found: Manifest) -> None:
    names = [one.name for one in found.members]
    if found.kind not in get_args(Kind) or not NAME.fullmatch(found.id):
        raise ValueError("neither a run nor features")
    if len(names) > MOST_FILES or names != sorted(set(names)):
        raise ValueError("files twice, too many, or in no order")
    for what, texts in found.named.items():
        if not isinstance(what, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError("names that are no texts")
