"""Parquet rows that hold a preference pair and the vectors of its texts.

D width of the vectors. The vector columns are VECTOR_COLUMNS; those of a context may lack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from micropref.cache.errors import BadInput
from micropref.cache.keys import canonical_json, sha256_hex
from micropref.cache.schemas import KEY_BYTES
from micropref.cache.vectors.features import Features
from micropref.pipeline.sources.columns import OWN_NAME, ColumnReading, SourceReading
from micropref.pipeline.sources.pairs import PreferencePair, prompt_id, response_id
from micropref.pipeline.sources.rows import Record, Row, RowError, describe, is_blank
from micropref.pipeline.sources.scalars import to_id

REQUIRED = ("prompt_vector", "chosen_vector", "rejected_vector")
OF_CONTEXTS = ("context_vector", "context_only_vector")
"""Of the context with the prompt, and of the context by itself."""
VECTOR_COLUMNS = ("prompt_vector", "context_vector", "chosen_vector", "rejected_vector", "context_only_vector")
IDS = {"prompt": "prompt_id", "chosen": "chosen_id", "rejected": "rejected_id"}
"""Text → the id that stands for it where a file has no texts."""
BATCH_BYTES = 1 << 25
"""Bytes of vectors decoded at a time."""
READ_BYTES = 1 << 20
"""Bytes of a column read at a time."""
ROWS_AT_MOST = 1024
SAME_WITHIN = 0.01
"""Two vectors of one text are the same if their distance is at most this share of the longer one: rounding to 16 bits
and another batch change less."""
SKETCH = 16
"""Numbers that stand for a vector until another of the same text comes."""
EXPECTED = "FLOAT[D]: lists of equally many floating-point numbers"

Vector: TypeAlias = npt.NDArray[Any]
LARGEST = 1e15
"""Size of a value beyond which sums of squares may leave float32."""


@dataclass(frozen=True)
class VectorFiles:
    """What the schemas of the files of one import say."""

    width: int
    """D."""
    halves: bool
    """Whether all vectors are float16."""
    columns: tuple[str, ...]
    """Those of VECTOR_COLUMNS that are there."""
    ids: bool
    """Whether ids stand for the texts."""


def look_at(files: Sequence[Path]) -> VectorFiles:
    """Return what files hold, their vectors not read but for the first. Raises BadInput where they do not fit."""
    found = {file: _look_at_file(file) for file in files}
    first = files[0]
    for file, one in found.items():
        if one.width != found[first].width:
            raise BadInput(
                f"{file}: found vectors of {one.width} numbers; expected {found[first].width}, as in {first}"
            )
        _check_alike(file, one, first, found[first])
    one = found[first]
    return replace(one, halves=all(each.halves for each in found.values()))


def _check_alike(file: Path, one: VectorFiles, first: Path, expected: VectorFiles) -> None:
    """Raise BadInput unless two files of one import say of the same things what they are."""
    has = {**{f"a column {name!r}": name in one.columns for name in OF_CONTEXTS}, "ids in place of texts": one.ids}
    should = [*(name in expected.columns for name in OF_CONTEXTS), expected.ids]
    for (what, there), wanted in zip(has.items(), should, strict=True):
        if there != wanted:
            found, these = ("", "none") if there else ("no rows with ", "these")
            raise BadInput(f"{file}: found {found}{what}; expected {these}, as in {first}")


def _look_at_file(file: Path) -> VectorFiles:
    if file.suffix.lower() != ".parquet":
        raise BadInput(f"{file}: found a file of another kind; expected .parquet, which holds vectors")
    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            missing = [name for name in REQUIRED if name not in schema.names]
            if missing:
                raise BadInput(
                    f"{file}: found no column {missing[0]!r} (there: {', '.join(schema.names)}); expected a row for "
                    f"each pair with its texts and {', '.join(REQUIRED)}"
                )
            there = [name for name in VECTOR_COLUMNS if name in schema.names]
            items = [_item_type(file, schema.field(name)) for name in there]
            kind = schema.field(REQUIRED[0]).type
            width = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_width(file, opened)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{file}: cannot be read as Parquet ({reason}); expected a complete file") from None
    names = set(schema.names)
    ids = not {"chosen", "rejected"} & names and set(IDS.values()) <= names
    return VectorFiles(width, all(map(pa.types.is_float16, items)), tuple(there), ids)


def _item_type(file: Path, field: pa.Field) -> pa.DataType:
    listed = any(
        is_kind(field.type) for is_kind in (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    )
    if not listed or not pa.types.is_floating(field.type.value_type):
        raise BadInput(f"{file}: column {field.name!r}: found {field.type}; expected {EXPECTED}")
    return field.type.value_type


def _first_width(file: Path, opened: pq.ParquetFile) -> int:
    for batch in opened.iter_batches(batch_size=16, columns=list(REQUIRED)):
        widths = [width for column in batch.columns for width in pc.list_value_length(column).to_pylist() if width]
        if widths:
            return int(widths[0])
    raise BadInput(f"{file}: found no vector in {REQUIRED[0]!r}; expected {EXPECTED}")


class VectorReader:
    """Reads the rows of an import, and checks each pair's vectors.

    Of each distinct text the first vector is kept as a few random projections, so that memory does not grow with D.
    """

    def __init__(self, files: VectorFiles, features: Features) -> None:
        """Take what the files hold, and the features that the vectors will belong to."""
        self._files, self._features = files, features
        self._projections = np.random.default_rng(0).normal(size=(files.width, SKETCH)).astype(np.float32)
        self._first: dict[bytes, tuple[bytes, str]] = {}  # text -> the projections of its vector, where it was found
        self._stored = {key: at for at, key in reversed(list(enumerate(features.keys().to_pylist())))}
        self._filled = Counter[str]()  # vector column -> rows that have one
        self.same_sides: set[str] = set()
        """Rows whose two responses have the same vector."""

    def records(self, path: Path) -> Iterator[Record]:
        """Yield (1-based row, fields) of a Parquet file, a vector as an array or None."""
        for start, batch in batches(path, self._files):
            vectors = {name: vectors_of(batch.column(name)) for name in self._files.columns}
            texts = batch.drop_columns(list(vectors)).to_pylist()
            for at, values in enumerate(texts):
                fields = _with_ids(values) if self._files.ids else values
                found = {name: column[at] for name, column in vectors.items()}
                self._filled.update(name for name, vector in found.items() if vector is not None)
                yield start + at + 1, fields | found if isinstance(fields, dict) else fields

    def texts(self, path: Path) -> Iterator[Record]:
        """Yield the same rows without their vectors."""
        names = [name for name in pq.read_schema(path).names if name not in VECTOR_COLUMNS]
        for start, batch in batches(path, self._files, names):
            for at, values in enumerate(batch.to_pylist()):
                yield start + at + 1, _with_ids(values) if self._files.ids else values

    @property
    def roles(self) -> dict[str, str]:
        """Return the roles that ids have."""
        return IDS if self._files.ids else {}

    def added_to(self, reading: SourceReading) -> SourceReading:
        """Return a reading of the columns of texts with those of the vectors added, their rows not yet counted."""
        self._filled.clear()
        return self.counted(reading)

    def counted(self, reading: SourceReading) -> SourceReading:
        """Return the same with the rows that have been read."""
        kind, there = f"FLOAT[{self._files.width}]", self._files.columns
        vectors = (ColumnReading(name, name, kind, self._filled[name], OWN_NAME) for name in there)
        return replace(reading, columns=(*(one for one in reading.columns if one.role not in there), *vectors))

    def check(self, row: Row, pair: PreferencePair) -> None:
        """Raise RowError unless the row has one finite vector for each text of its pair."""
        found: dict[bytes, bytes] = {}
        for name in self._files.columns:
            vector = row.values.get(name)
            if name in OF_CONTEXTS and pair.context is None:
                if vector is not None:
                    raise RowError(name, "a vector", "null, or a 'context' whose vector it is")
                continue
            text = text_digest(name, pair)
            found[text] = self._check_same(name, text, self._checked(name, vector), found)
        chosen, rejected = (row.values[name] for name in ("chosen_vector", "rejected_vector"))
        if np.array_equal(chosen, rejected):
            self.same_sides.add(str(row.origin))
        for text, sketch in found.items():
            self._first.setdefault(text, (sketch, str(row.origin)))

    def _checked(self, name: str, vector: Vector | None) -> Vector:
        """Return a vector in float32. Raises RowError where it cannot be stored."""
        if vector is None:
            raise RowError(name, "null", f"a vector of {self._files.width} numbers")
        if len(vector) != self._files.width:
            raise RowError(name, f"{len(vector)} numbers", f"{self._files.width}, as in the first row")
        with np.errstate(over="ignore"):
            stored = vector.astype(self._features.dtype)
            bad = np.flatnonzero(~np.isfinite(stored) | (np.abs(vector) > LARGEST))
        if len(bad):
            raise RowError(
                name,
                f"{vector[bad[0]]} at place {bad[0] + 1} of {len(vector)}",
                f"finite numbers that {self._features.dtype} can hold, and whose squares float32 can",
            )
        return vector.astype(np.float32)

    def _check_same(self, name: str, text: bytes, vector: Vector, row: dict[bytes, bytes]) -> bytes:
        """Return a vector's projections. Raises RowError where the same text had another vector before."""
        key = text_key(self._features.id, text)
        if key in self._stored:
            stored = self._features.gather(np.array([self._stored[key]]))[0].astype(np.float32)
            if _differ(stored, vector):
                raise RowError(
                    name,
                    f"another vector than features {self._features.id} hold for the same text",
                    "the same; vectors made otherwise need another `backbone_name` or `settings` of their own",
                )
        sketch: Vector = vector @ self._projections
        before = row.get(text) or self._first.get(text, (None, ""))[0]
        if before is not None and _differ(np.frombuffer(before, np.float32), sketch):
            where = "this row" if text in row else self._first[text][1]
            raise RowError(name, f"another vector than {where} has for the same text", "one vector for each text")
        return sketch.tobytes()


def batches(
    path: Path, files: VectorFiles, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (rows before it, batch) of a file, few enough rows at a time that memory does not grow with it."""
    size = max(1, min(ROWS_AT_MOST, BATCH_BYTES // (len(files.columns) * 8 * files.width)))
    start = 0
    try:
        # By default Arrow reads all row groups ahead, and each column of one whole: that would be the file.
        reading = {"pre_buffer": False, "buffer_size": READ_BYTES}
        with pq.ParquetFile(path, page_checksum_verification=True, **reading) as opened:
            there = None if columns is None else [name for name in columns if name in opened.schema_arrow.names]
            for batch in opened.iter_batches(batch_size=size, columns=there):
                yield start, batch
                start += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{path}:{start + 1}: cannot be read as Parquet ({reason}); expected a complete file: copy it again"
        ) from None


def text_digest(column: str, pair: PreferencePair) -> bytes:
    """Return the name of the text that a vector column of a pair is about: equal texts have equal names."""
    prompt = prompt_id(pair.prompt)
    said: list[str | None]
    if column == "prompt_vector":
        said = ["prompt", prompt]
    elif column == "context_vector":
        said = ["context", pair.context, prompt]
    elif column == "context_only_vector":
        said = ["context", pair.context]
    else:
        said = ["response", response_id(pair.prompt, pair.chosen if column == "chosen_vector" else pair.rejected)]
    return bytes.fromhex(sha256_hex(canonical_json(said)))[:KEY_BYTES]


def text_key(features_id: str, digest: bytes) -> bytes:
    """Return the key of a text's vector: a hash of the features id and the text's name."""
    return bytes.fromhex(sha256_hex(features_id.encode() + digest))[:KEY_BYTES]


def vectors_of(column: pa.Array) -> list[Vector | None]:
    """Return the vectors of a list column, views of its values; None where there is none."""
    lengths = pc.list_value_length(column).to_pylist()
    values = column.flatten().to_numpy(zero_copy_only=False)
    found: list[Vector | None] = []
    start = 0
    for length in lengths:
        found.append(None if length is None else values[start : start + length])
        start += length or 0
    return found


def _with_ids(values: dict[str, Any]) -> dict[str, Any] | RowError:
    """Return a row's fields, its ids as texts."""
    found = {name: to_id(values[name]) for name in IDS.values()}
    for name, value in found.items():
        if value is None or is_blank(value):
            return RowError(name, describe(values[name]), "an id: a text or a whole number")
    return values | found


def _differ(one: Vector, other: Vector) -> bool:
    longer = max(np.linalg.norm(one), np.linalg.norm(other))
    return bool(np.linalg.norm(one - other) > SAME_WITHIN * longer)
