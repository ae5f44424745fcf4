"""How many tokens of texts have to be read when shared prefixes are read once."""

from __future__ import annotations

from collections.abc import Sequence

from micropref.pipeline.backbone.prefix_tree import Ids, grouped, sorted_with_shared


def distinct_prefixes(sequences: Sequence[Ids], groups: Sequence[int]) -> int:
    """Return the tokens of the prefix trees of sequences whose equal `groups` follow each other."""
    total = 0
    for members in grouped(groups):
        _, shared = sorted_with_shared([sequences[at] for at in members])
        total += sum(len(sequences[at]) for at in members) - sum(shared)
    return total
