"""Rows that are scored together, by tastes that the run can follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.rows import AskedRow
from micropref.pipeline.rewards.scoring.taste import RewardHeads, Taste


def grouped(rows: Iterable[AskedRow], *, by_prompt: bool) -> Iterator[list[AskedRow]]:
    """Yield rows that are scored together: each alone, or the neighbours that answer one prompt."""
    if not by_prompt:
        yield from ([row] for row in rows)
        return
    for _, group in groupby(rows, _group_key):
        yield list(group)


def candidates_of(group: list[AskedRow]) -> Candidates:
    """Return what is to be scored of a group of rows; nothing where the row cannot be read."""
    first = group[0].candidates
    if first is None:
        return Candidates("", ())
    if len(group) == 1:
        return first
    responses = tuple(one for row in group if row.candidates is not None for one in row.candidates.responses)
    return replace(first, responses=responses, together=True)


def followed(asked: Candidates, heads: RewardHeads, given: Taste, counts: Counter[str]) -> Candidates:
    """Return candidates without the context or user that the run cannot follow, and count them."""
    taste = asked.taste
    if taste.context is not None and not heads.reads_contexts:
        counts["contexts_unused"] += 1
        taste = replace(taste, context=given.context)
    if taste.user is not None and not heads.knows_people:
        counts["users_unused"] += 1
        taste = replace(taste, user=given.user)
    return replace(asked, taste=taste)


def unused_warnings(counts: Counter[str], run: str) -> list[str]:
    """Return what to say of contexts and users that a run did not follow."""
    said = {"contexts_unused": "have a context, and run {run} reads none",
            "users_unused": "have a user, and run {run} has weights for nobody"}  # fmt: skip
    return [f"warning: {counts[name]:,} rows {text.format(run=run)}" for name, text in said.items() if counts[name]]


def _group_key(row: AskedRow) -> Any:
    """Return what neighbours that answer one prompt have in common; a row of several responses has nobody's."""
    if row.candidates is None or row.shape != "response":
        return id(row)
    return row.candidates.prompt, row.candidates.taste
