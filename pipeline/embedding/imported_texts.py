"""The distinct texts of an import's pairs, and which of them each of its vectors is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from micropref.cache.schemas import KEY_COLUMNS
from micropref.pipeline.embedding.vector_rows import OF_CONTEXTS, VectorFiles, VectorReader, text_digest, text_key
from micropref.pipeline.sources.pairs import PreferencePair


@dataclass(frozen=True)
class ImportedTexts:
    """The distinct texts of N pairs, numbered in order of first use, as `linking` takes them."""

    keys: list[bytes]
    """Each text's content address."""
    roles: npt.NDArray[np.int64]
    """Text [roles, N] of each pair in the role of each of KEY_COLUMNS; -1: none."""
    indistinguishable: npt.NDArray[np.bool_]
    """Which pairs [N] have the same vector for both responses."""
    alone: npt.NDArray[np.int64]
    """Text of each pair's context by itself [N]; -1: none."""

    def of(self, row: int, column: str) -> int:
        """Return the text that a vector column of a pair is about; -1: none."""
        if column == "context_only_vector":
            return int(self.alone[row])
        return int(self.roles[KEY_COLUMNS.index(column.replace("_vector", "_key")), row])

    @property
    def lengths(self) -> Sequence[int]:
        """Return nothing: nobody counted tokens."""
        return ()

    @property
    def trimmed(self) -> npt.NDArray[np.bool_]:
        """Return that no [N] prompt was cut here."""
        return np.zeros(self.roles.shape[1], dtype=np.bool_)

    @property
    def overlong(self) -> npt.NDArray[np.bool_]:
        """Return that every pair [N] has its texts."""
        return np.zeros(self.roles.shape[1], dtype=np.bool_)

    @property
    def special(self) -> npt.NDArray[np.bool_]:
        """Return that no text [N] was tokenized here."""
        return np.zeros(self.roles.shape[1], dtype=np.bool_)

    @property
    def lost(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Return that no template wrote texts here."""
        return {}

    @property
    def set_aside(self) -> dict[int, str]:
        """Return that every pair has its texts."""
        return {}

    def context_keys(self, pairs: Sequence[PreferencePair]) -> dict[str, bytes]:
        """Return the key of each context that has a vector by itself, in the order of the pairs."""
        found = {}
        for pair, number in zip(pairs, self.alone, strict=True):
            if pair.context is not None and number >= 0:
                found[pair.context] = self.keys[number]
        return found


def number_texts(
    pairs: Sequence[PreferencePair], features_id: str, files: VectorFiles, reader: VectorReader
) -> ImportedTexts:
    """Return the texts of pairs under the keys of their vectors, one number for each distinct text."""
    numbers: dict[bytes, int] = {}
    roles = np.full((len(KEY_COLUMNS), len(pairs)), -1, dtype=np.int64)
    alone = np.full(len(pairs), -1, dtype=np.int64)
    for row, pair in enumerate(pairs):
        for column in files.columns:
            if column in OF_CONTEXTS and pair.context is None:
                continue
            number = numbers.setdefault(text_digest(column, pair), len(numbers))
            if column == "context_only_vector":
                alone[row] = number
            else:
                roles[KEY_COLUMNS.index(column.replace("_vector", "_key")), row] = number
    same = np.array([str(pair.origin) in reader.same_sides for pair in pairs], dtype=np.bool_)
    return ImportedTexts([text_key(features_id, digest) for digest in numbers], roles, same, alone)
