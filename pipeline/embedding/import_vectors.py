"""Vectors that a user already has become features of the store, and their pairs a data set, as `embed` makes them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from micropref.cache.errors import BadInput
from micropref.cache.maintenance.gc import tidy_vectors
from micropref.cache.maintenance.leases import Leases
from micropref.cache.schemas import KEY_BYTES, KEY_COLUMNS
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import add_context_keys
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import whole_features
from micropref.cache.vectors.storage_error import delta_error
from micropref.pipeline.embedding.embed_report import SourceCounts
from micropref.pipeline.embedding.imported_texts import ImportedTexts, number_texts
from micropref.pipeline.embedding.linking import (
    commit_parts,
    finished_sources,
    forget_damaged,
    open_to_fill,
    read_unfinished,
    retired_parts,
    store_and_link,
)
from micropref.pipeline.embedding.source_counts import count_sources
from micropref.pipeline.embedding.vector_rows import (
    OF_CONTEXTS,
    Vector,
    VectorFiles,
    VectorReader,
    batches,
    look_at,
    vectors_of,
)
from micropref.pipeline.options import StoreDtype
from micropref.pipeline.progress import Announce, progress_bar
from micropref.pipeline.sources.earlier import kept_version
from micropref.pipeline.sources.ingest import SourceOptions, known_parts
from micropref.pipeline.sources.pairs import PreferencePair
from micropref.pipeline.sources.rows import is_blank

SHARD_TEXTS = 8192
"""Vectors of a shard at most."""
SHARD_BYTES = 1 << 26
"""Bytes of a shard's vectors at most."""


@dataclass(frozen=True)
class ImportOptions:
    """What a user says of the vectors."""

    backbone_name: str
    """What made them."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What else tells them from others of the same backbone, such as pooling."""
    store_dtype: StoreDtype = "auto"
    """In which numbers they are stored; auto: float16 where all are float16, else float32."""

    def __post_init__(self) -> None:
        if is_blank(self.backbone_name):
            raise BadInput("backbone_name is empty: expected what made the vectors, such as qwen3-8b-layer-30")

    def record(self, files: VectorFiles) -> dict[str, Any]:
        """Return the features record: its hash is the features id."""
        halves = "float16" if files.halves else "float32"
        return {
            "imported": {"backbone": self.backbone_name, "settings": dict(self.settings)},
            "width": files.width,
            "store_dtype": halves if self.store_dtype == "auto" else self.store_dtype,
        }


@dataclass(frozen=True)
class ImportReport(SourceCounts):
    """What `import-vectors` did."""

    features: str
    """Features id, the name of these vectors under their record."""
    backbone: str
    """What made them, as the user says."""
    width: int
    """Numbers of a vector."""
    store_dtype: str
    """In which numbers they are stored."""
    texts: int
    """Distinct texts the pairs have."""
    texts_imported: int
    """Vectors stored now."""
    texts_reused: int
    """Texts whose vectors were there already."""
    indistinguishable: int
    """Pairs whose two responses have the same vector: their margin is always 0."""
    delta_storage_error: float | None
    """Median relative error of Δ by the storage dtype, on the first shard stored now."""
    store_bytes: int
    """Size of these texts' vectors as stored."""
    seconds: float
    """Wall time of the command."""


def import_vectors(
    store: StoreFolder,
    paths: Sequence[Path],
    name: str,
    sources: SourceOptions,
    options: ImportOptions,
    *,
    announce: Announce = lambda _: None,
) -> ImportReport:
    """Import Parquet files of pairs and their vectors into a data set. What is stored is not stored again.

    Files are read twice, in batches: every row is checked before anything is written. Raises BadInput, naming row and
    column, for what cannot be used.
    """
    start = time.monotonic()
    dataset = open_to_fill(store, name, announce)
    sources = sources if sources.replace else replace(sources, version=kept_version(dataset))
    known = known_parts(dataset, paths, sources)
    files = look_at([file for one in known for file in one.files])
    features, damaged = whole_features(store, options.record(files))
    for line in damaged.values():
        announce(f"{line}; what it held is stored again where these files have it")
    finished = finished_sources(dataset, features, known, "plain", sources.on_bad)
    reader = VectorReader(files, features)
    incoming = read_unfinished(dataset, known, finished, sources, announce, reader)
    if files.ids:
        announce(
            f"{next(iter(known)).name}: ids stand for texts: the views show ids, and parts are drawn from prompt ids"
        )
    pairs = [pair for one in incoming for pair in one.pairs]
    if bare := {pair.context for pair in pairs if pair.context is not None and not {*OF_CONTEXTS} & {*files.columns}}:
        announce(
            f"warning: {len(bare)} contexts have no vectors, so that no router reads them; expected a column "
            "context_only_vector"
        )
    texts = number_texts(pairs, features.id, files, reader)
    unread = [file for one in known if one not in finished for file in one.files]
    features.create({"name": options.backbone_name, "imported": True}, None)
    writer = _Writer(features, files, unread, pairs, texts)
    with ExitStack() as leased:
        retired = retired_parts(dataset, sources, incoming, known, finished, announce)

        def link() -> None:
            nonlocal dataset
            dataset = commit_parts(dataset, features, incoming, texts, "plain", retired)
            add_context_keys(features, texts.context_keys(pairs))

        store_and_link(store, features, announce, leased, writer.put, link)
        if sources.replace:
            dataset = forget_damaged(dataset, {split for one in known for split in sources.splits_of(one)})
    for line in tidy_vectors(store, features):
        announce(f"warning: {line}")
    unchanged = [part for parts in finished.values() for part in parts]
    links = [item for part in unchanged if (item := dataset.links(part, features.id))]
    counts, old = count_sources(dataset.reopened(), incoming, unchanged, links, left_out=[{} for _ in incoming])
    distinct = len(old | set(texts.keys))
    return ImportReport(
        **vars(counts),
        features=features.id,
        backbone=options.backbone_name,
        width=features.width,
        store_dtype=str(features.dtype),
        texts=distinct,
        texts_imported=writer.stored,
        texts_reused=distinct - writer.stored,
        indistinguishable=int(texts.indistinguishable.sum()) + sum(item.record["indistinguishable"] for item in links),
        delta_storage_error=writer.error,
        store_bytes=distinct * (features.row_bytes + KEY_BYTES),
        seconds=time.monotonic() - start,
    )


class _Writer:
    """Stores the vectors of an import's files, a shard at a time, in the order of their rows."""

    def __init__(
        self,
        features: Features,
        files: VectorFiles,
        paths: Sequence[Path],
        pairs: Sequence[PreferencePair],
        texts: ImportedTexts,
    ) -> None:
        self._features, self._files, self._paths, self._texts = features, files, paths, texts
        self._pair_of = {(pair.origin.path, pair.origin.line): row for row, pair in enumerate(pairs)}
        self.stored = 0
        """Vectors stored so far."""
        self.error: float | None = None
        """Relative error of Δ in the first shard that has both sides of a pair."""

    def put(self, leases: Leases) -> list[bytes]:
        """Store what has no vector yet, and return the keys of all texts."""
        keys = self._texts.keys
        there = leases.stored(keys)
        wanted = {number for number, key in enumerate(keys) if key not in there}
        if wanted:
            with progress_bar(len(wanted), "storing", "vector") as advance:
                for numbers, vectors in self._shards(wanted):
                    shard = [keys[number] for number in numbers]
                    leases.expect(shard)
                    if not self._features.has_shard(shard):  # another writer was faster
                        self._features.write_shard(shard, vectors, {})
                        self.stored += len(shard)
                    if self.error is None:
                        self.error = self._storage_error(numbers, vectors)
                    advance(len(shard))
        return keys

    def _shards(self, wanted: set[int]) -> Iterator[tuple[list[int], npt.NDArray[Any]]]:
        """Yield (texts, their vectors [n, D] in memory that the next shard uses again), a pair's new ones together."""
        most = max(len(self._files.columns), min(SHARD_TEXTS, SHARD_BYTES // (4 * self._files.width)))
        vectors = np.empty((most, self._files.width), dtype=np.float32)
        waiting: list[int] = []
        for found in self._rows():
            for number in [one for one in found if one in wanted]:
                vectors[len(waiting)] = found[number]
                waiting.append(number)
            wanted -= found.keys()
            if len(waiting) > most - len(self._files.columns):
                yield waiting, vectors[: len(waiting)]
                waiting = []
        if waiting:
            yield waiting, vectors[: len(waiting)]

    def _rows(self) -> Iterator[dict[int, Vector]]:
        """Yield each used row's texts and their vectors."""
        for path in self._paths:
            for start, batch in batches(path, self._files, self._files.columns):
                columns = {name: vectors_of(batch.column(name)) for name in batch.schema.names}
                for at in range(batch.num_rows):
                    row = self._pair_of.get((str(path), start + at + 1))
                    if row is not None:
                        yield self._of_row(row, {name: column[at] for name, column in columns.items()})

    def _of_row(self, row: int, vectors: Mapping[str, Vector | None]) -> dict[int, Vector]:
        found: dict[int, Vector] = {}
        for name, vector in vectors.items():
            number = self._texts.of(row, name)
            if number >= 0 and vector is not None:
                found.setdefault(number, vector)
        return found

    def _storage_error(self, numbers: list[int], vectors: npt.NDArray[Any]) -> float | None:
        place = np.full(len(self._texts.keys), -1, dtype=np.int64)
        place[numbers] = np.arange(len(numbers))
        columns = [KEY_COLUMNS.index(f"{side}_key") for side in ("chosen", "rejected")]
        sides = place[self._texts.roles[columns]]
        return delta_error(vectors, vectors.astype(self._features.dtype), sides[:, (sides >= 0).all(axis=0)])
