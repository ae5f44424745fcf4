"""What pairs share: people where named, prompts, and the wordings that a model has not been fitted on."""

from __future__ import annotations

import polars as pl
import torch

from micropref.cache.vectors.groups import sides_of

TABLE = pl.DataFrame(
    {
        "user": ["ann", None, "bob", "ann", None],
        "prompt_id": ["p", "p", "q", "q", "p"],
        "context": ["brief", "long", "long", None, "brief"],
    }
)


def shared(ids: torch.Tensor) -> set[tuple[int, int]]:
    """Return the pairs of rows that have the same number."""
    return {(a, b) for a in range(len(ids)) for b in range(a) if ids[a] == ids[b]}


def test_pairs_without_a_user_share_none() -> None:
    found = sides_of(TABLE)
    assert list(found) == ["users", "prompts"]
    assert shared(found["users"]) == {(3, 0)}
    assert shared(found["prompts"]) == {(1, 0), (4, 0), (4, 1), (3, 2)}


def test_nobody_named_leaves_prompts() -> None:
    nobody = TABLE.with_columns(user=pl.lit(None, pl.String))
    assert list(sides_of(nobody)) == ["prompts"]


def test_only_new_wordings_are_a_side() -> None:
    assert shared(sides_of(TABLE, pl.Series(dtype=pl.String))["wordings"]) == {(4, 0), (2, 1)}
    assert shared(sides_of(TABLE, pl.Series(["brief", None]))["wordings"]) == {(2, 1)}
    assert "wordings" not in sides_of(TABLE, pl.Series(["brief", "long"]))
