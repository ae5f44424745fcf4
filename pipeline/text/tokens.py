"""What a backbone reads of texts: token ids, and which of them the texts of pairs are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """What a backbone reads of one text."""

    ids: npt.NDArray[np.int32]
    """[T] token ids, special tokens included, no padding."""
    type_ids: npt.NDArray[np.int32] | None = None
    """[T] segment of each token, for encoders with segments."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def content(self) -> tuple[bytes, bytes]:
        """Bytes that are equal exactly when the tokens are."""
        return self.ids.tobytes(), b"" if self.type_ids is None else self.type_ids.tobytes()


@dataclass(frozen=True, eq=False)
class TokenizedPairs:
    """The distinct token sequences of N pairs, and which of them each pair uses (-1: none)."""

    texts: list[Tokens]
    """Distinct token sequences, in order of first use."""
    prompt: npt.NDArray[np.int64]
    """[N] the prompt alone: the router's input without a context."""
    context: npt.NDArray[np.int64]
    """[N] the prompt behind its context; -1 where the pair has none."""
    chosen: npt.NDArray[np.int64]
    """[N] prompt and chosen response; -1 when only responses behind contexts are wanted."""
    rejected: npt.NDArray[np.int64]
    """[N] prompt and rejected response; equal to `chosen` where a template makes the two the same text."""
    chosen_context: npt.NDArray[np.int64]
    """[N] context, prompt and chosen response; -1 unless wanted and there is a context."""
    rejected_context: npt.NDArray[np.int64]
    """[N] context, prompt and rejected response."""
    trimmed: npt.NDArray[np.bool_]
    """[N] the prompt of at least one of the pair's texts was cut."""
    special: npt.NDArray[np.bool_]
    """[N] a text of the pair holds the string of a control token, which is read as text."""
    lost: dict[str, npt.NDArray[np.bool_]]
    """What the chat template does not write of some pairs' messages → [N] of which."""
    overlong: npt.NDArray[np.bool_]
    """[N] the pair does not fit: every index above is -1."""
    refused: dict[int, str] = field(default_factory=dict)
    """Pair → why it cannot be read, such as a chat template that refuses it: every index above is -1."""
