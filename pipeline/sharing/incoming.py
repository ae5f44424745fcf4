"""What came from elsewhere, checked and written into the store: a run, or vectors.

Everything is read with suspicion: sizes and digests are those of the list, records hold what may be shared and nothing
else, weights are those of a method that is known here, and what makes a run or features exist is written last.
"""

from __future__ import annotations

import io
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load

from micropref.cache.errors import BadInput
from micropref.cache.keys import canonical_json, sha256_hex, short_id
from micropref.cache.vectors.parquet_layout import LAYOUT_VERSION
from micropref.pipeline.sharing.manifest import Manifest, Member, Role
from micropref.pipeline.sharing.people import PERSON
from micropref.pipeline.sharing.record_types import all_finite, check_types
from micropref.pipeline.sharing.records import check_settings, shared_about, shared_run

MOST_MEMORY = 4 << 30
"""Largest file that is read."""


class Incoming(Protocol):
    """A pack, or a folder elsewhere, open for reading."""

    @property
    def where(self) -> str:
        """What it is called in errors."""
        ...

    @property
    def manifest(self) -> Manifest:
        """Its list, checked."""
        ...

    def open(self, member: Member) -> AbstractContextManager[BinaryIO]:
        """Open one of its files."""
        ...


@dataclass(frozen=True)
class IncomingRun:
    """A run that may be written."""

    record: dict[str, Any]
    heads: bytes
    people: list[dict[str, Any]]


@dataclass(frozen=True)
class IncomingFeatures:
    """The description of features, which may be written."""

    settings: dict[str, Any]
    about: dict[str, Any]
    reward_head: Any
    """[1, D] of the checkpoint; None: it has none."""


def read_member(source: Incoming, member: Member) -> bytes:
    """Return a file's bytes. Raises BadInput where they are not those of the list."""
    if member.bytes > MOST_MEMORY:
        raise BadInput(f"{source.where}: {member.name} has {member.bytes:,} bytes, more than is read; it is not used")
    with source.open(member) as file:
        data = file.read(member.bytes + 1)
    if len(data) != member.bytes or sha256_hex(data) != member.digest:
        raise BadInput(f"{source.where}: {member.name} is damaged or was changed; ask for a whole copy")
    return data


def read_json(source: Incoming, member: Member) -> Any:
    """Return what a JSON file holds. Raises BadInput where it is none."""
    try:
        value = json.loads(read_member(source, member), parse_constant=_refused)
        if not all_finite(value):
            raise ValueError("numbers beyond the largest")
        return value
    except (ValueError, RecursionError):
        raise _odd(source, member, "no JSON") from None


def read_table(source: Incoming, member: Member, schema: pa.Schema) -> pa.Table:
    """Return a table of exactly these columns. Raises BadInput where it is another."""
    data = read_member(source, member)
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        size = sum(file.metadata.row_group(at).total_byte_size for at in range(file.metadata.num_row_groups))
        if not file.schema_arrow.equals(schema) or file.metadata.num_rows != member.rows or size > MOST_MEMORY:
            raise _odd(source, member, f"columns {', '.join(file.schema_arrow.names)}, {file.metadata.num_rows} rows")
        table: pa.Table = file.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _odd(source, member, str(error).partition("\n")[0]) from None
    return table


def read_run(source: Incoming, name: str) -> IncomingRun:
    """Return a run that may be written. Raises BadInput where it is not what a pack may hold."""
    manifest = source.manifest
    member = manifest.one("run", name)
    record = read_json(source, member)
    heads = manifest.one("heads", name)
    try:
        check_types(record)
        if "groups" in record and record["groups"] is None:
            raise ValueError("groups is null")
        apart = {key: record[key] for key in ("units", "groups") if key in record}
        same = shared_run(record).record | apart == record
        _check_names(record)
        if not same or record["run"] != name or record["heads_digest"] != heads.digest:
            raise ValueError("fields that are never shared, or of another run")
    except (KeyError, TypeError, ValueError, AttributeError, BadInput) as error:
        raise _odd(source, member, f"no record of run {name} ({error})") from None
    data = read_member(source, heads)
    _check_tensors(source, heads, data)
    people = []
    for one in manifest.of("people", name):
        rows = read_json(source, one)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise _odd(source, one, "no list of people")
        people += rows
    return IncomingRun(record, data, people)


def _check_names(record: dict[str, Any]) -> None:
    groups, units = record.get("groups"), record.get("units")
    names = [*(groups or []), *((units or {}).get("names", []))]
    if not all(isinstance(name, str) and len(name) <= 1 << 16 for name in names):
        raise ValueError("names that are no texts")
    kind = record["settings"].get("by") if units is None else units["kind"]
    if kind == "user" and not all(PERSON.fullmatch(name) for name in names):
        raise ValueError("people by their names")
    if units is not None and (set(units) != {"kind", "names"} or units["kind"] not in ("user", "attribute")):
        raise ValueError("units of no known kind")


def _check_tensors(source: Incoming, member: Member, data: bytes) -> None:
    try:
        names = sorted(load(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _odd(source, member, f"no safetensors ({error})") from None
    if names != sorted(member.columns):
        raise _odd(source, member, f"tensors {', '.join(names)}")


def check_method(source: Incoming, run: IncomingRun, width: int) -> None:
    """Raise BadInput where a run is of no known method, or its weights do not fit it and the vectors' width."""
    from safetensors.torch import load as load_tensors

    from micropref.heads.methods.registry import methods

    record, tensors = run.record, load_tensors(run.heads)
    where = f"{source.where}: run {record['run']}"
    heads = tensors.get("heads")
    if odd := [name for name, one in tensors.items() if not (one.is_floating_point() and bool(one.isfinite().all()))]:
        raise BadInput(f"{where} holds weights ({odd[0]}) that are not finite numbers; it is not used")
    if heads is not None and "groups" not in record and heads.ndim == 2 and len(heads) != record["k"]:
        raise BadInput(f"{where} has {len(heads)} heads, and its record says {record['k']}")
    if heads is not None and heads.ndim == 2 and heads.shape[1] != width:
        raise BadInput(f"{where} has heads for vectors of {heads.shape[1]} numbers, its features have {width}")
    if "groups" in record:
        weights, groups = tensors.get("weights"), record["groups"]
        if weights is None or tuple(weights.shape) != (len(groups), record["k"]):
            raise BadInput(f"{where}: its weights are not those of {len(groups)} groups and {record['k']} heads")
        return
    method = methods().get(record["method"])
    if method is None:
        raise BadInput(f"{where} is of the unknown method {record['method']!r}: update micropref")
    try:
        method.restore(tensors)
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        raise BadInput(f"{where}: its weights are not those of {record['method']} ({error})") from None


def read_features(source: Incoming, name: str) -> IncomingFeatures:
    """Return the description of features. Raises BadInput where it is not what its id says."""
    manifest = source.manifest
    member = manifest.one("settings", name)
    settings = read_json(source, member)
    if not isinstance(settings, dict) or short_id(settings) != name:
        raise _odd(source, member, "other settings than its id says")
    check_settings(name, settings)
    width = settings.get("width")
    known = type(width) is int and 0 < width <= 1 << 20 and settings.get("store_dtype") in ("float16", "float32")
    if settings.get("layout_version") != LAYOUT_VERSION or not known:
        raise _odd(source, member, f"layout {settings.get('layout_version')} and width {width}")
    told = manifest.one("about", name)
    about = read_json(source, told)
    if not isinstance(about, dict) or canonical_json(shared_about(about).record) != canonical_json(about):
        raise _odd(source, told, "what is never shared")
    return IncomingFeatures(settings, about, _reward_head(source, name, settings["width"]))


def _reward_head(source: Incoming, name: str, width: int) -> Any:
    found = source.manifest.of("reward_head", name)
    if not found:
        return None
    member = source.manifest.one("reward_head", name)
    data = read_member(source, member)
    _check_tensors(source, member, data)
    head = load(data).get("score.weight")
    if head is None or head.shape != (1, width) or head.dtype != "float32":
        raise _odd(source, member, "no reward head of these features")
    return head


def unused(manifest: Manifest, used: set[Role]) -> list[str]:
    """Return files of a list that have no place where it is read."""
    return [one.name for one in manifest.members if one.role not in used]


def _refused(text: str) -> None:
    raise ValueError(text)


def _odd(source: Incoming, member: Member, what: str) -> BadInput:
    return BadInput(f"{source.where}: {member.name} holds {what[:200]}; it is not used: ask for a whole copy")
