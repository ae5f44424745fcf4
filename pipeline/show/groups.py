"""What a fit says of who chose: how often, what that can tell, and how well those are predicted who are known."""

from __future__ import annotations

from typing import Any

REPEATED = 2
"""Pairs of a person, in the median, below which choices are not repeated."""


def about_units(record: dict[str, Any]) -> list[str]:
    """Return what the data can tell groups by, and a run's figures of known users or contexts."""
    found, unit = record["identified"], record["one_group_for"]
    lines = [_summary(found)]
    if found["users"] == 1 and "user" in unit:
        lines.append("warning: one user made every choice, and one person's choices cannot tell groups apart")
    elif "user" in unit and found["median"] < REPEATED:
        lines.append(
            "warning: the median user has 1 pair to fit, and choices that are not repeated cannot tell groups apart"
        )
    if found["latent"] == "user" and unit == ["pair"]:
        lines.append("people chose often enough to tell their groups: --latent user finds them")
    elif found["contexts"] < 2 and found["latent"] == "pair" and unit == ["pair"] and record["k"] > 1:
        lines.append("warning: neither contexts nor repeated choices tell groups apart, only the prompts themselves")
    if unit != ["pair"]:
        accuracy, loss = record["validation_accuracy_known"], record["validation_nll_known"]
        lines.append(
            f"these figures take every {' and '.join(unit)} for a new one; of those known by their pairs to fit: "
            f"validation NLL {loss:.4f}, accuracy {accuracy:.4f}"
        )
    return lines


def known_columns(row: dict[str, Any]) -> dict[str, str]:
    """Return the column of a leaderboard that its settings are ordered by where users or contexts have groups."""
    return {"NLL, units known": f"{row['validation_nll_known']:.4f}"} if "validation_nll_known" in row else {}


def _summary(found: dict[str, Any]) -> str:
    if not found["users"]:
        return f"users: none named; contexts: {found['contexts']:,}"
    unnamed = f", {found['pairs_without_user']:,} pairs name none" if found["pairs_without_user"] else ""
    each = f"{found['median']:g} pairs each in the median, {found['least']:,} to {found['most']:,}"
    return f"users: {found['users']:,} ({each}{unnamed}); contexts: {found['contexts']:,}"
