"""What may be said of each head: its preferences in words, its nearest head, and whether it is noise.

Of all heads and features of a table only those correlations are told that stay away from zero after Holm's correction,
so that with 95 % confidence nothing told is chance. Features go together (lists make texts long): a correlation given
length stands next to each. Strongest is the one that says most of a head's margins over all pairs: |c| √n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
from scipy import special

from micropref.heads.evaluation.intervals import LEVEL, Z, holm
from micropref.pipeline.evaluation.text_features import BY_NAME


@dataclass(frozen=True)
class Claim:
    """One preference of a head."""

    head: int
    feature: str
    """Name of the text feature."""
    rewards: str
    """What the head likes, in words, such as "longer responses"."""
    n: int
    """Pairs whose responses differ in it."""
    correlation: float
    low: float
    """Lower limit of the 95 % interval of `correlation`."""
    high: float
    p_value: float
    """Of no correlation, adjusted for all features and heads of the table."""
    given_length: float | None
    """Correlation once length is taken out; None for length itself."""

    @property
    def words(self) -> str:
        """Return it as what a head does: "prefers longer responses"."""
        return f"prefers {self.rewards}"


@dataclass(frozen=True)
class HeadCard:
    """What may be said of one head."""

    head: int
    claims: tuple[Claim, ...]
    """Strongest first."""
    nearest: int | None
    """The head whose margins are most alike; None for a run of one head."""
    nearest_correlation: float | None
    noise: bool
    """Whether it has no claim and its accuracy is .5 on every attribute as far as these pairs can tell."""

    @property
    def words(self) -> str:
        """Return what it prefers, strongest first, in one line."""
        if self.claims:
            return f"prefers {', '.join(one.rewards for one in self.claims)}"
        return "noise as far as these pairs can tell" if self.noise else "no preference in the features measured"


def head_claims(profile: pl.DataFrame) -> list[Claim]:
    """Return the claims that a table `head_profile` allows, by head, strongest first."""
    known = profile.filter(pl.col("p_value").is_not_null(), pl.col("feature").is_in(list(BY_NAME)))
    adjusted = holm(known["p_value"].to_list())
    rows = known.with_columns(pl.Series("p_value", adjusted, dtype=pl.Float64)).iter_rows(named=True)
    columns = ("head", "feature", "n", "correlation", "low", "high", "p_value", "given_length")
    found = []
    for row in rows:
        crosses = row["low"] <= 0 <= row["high"]
        if row["p_value"] <= 1 - LEVEL and not crosses:
            rewards = _direction(row["feature"], row["correlation"])
            found.append(Claim(rewards=rewards, **{name: row[name] for name in columns}))
    # Over all pairs a feature that differs in few of them has less to say than in these.
    return sorted(found, key=lambda one: (one.head, -abs(one.correlation) * one.n**0.5))


def head_cards(profile: pl.DataFrame, alike: pl.DataFrame, accuracy: pl.DataFrame) -> list[HeadCard]:
    """Return what may be said of each head from the tables head_profile, head_correlation and head_accuracy."""
    claims, predictive = head_claims(profile), set(_predictive(accuracy))
    cards = []
    for head in profile["head"].unique().sort().to_list():
        own = tuple(one for one in claims if one.head == head)
        others = alike.filter(pl.col("head") == head).drop_nulls("correlation")
        near = others.sort(pl.col("correlation").abs(), descending=True).row(0, named=True) if others.height else {}
        noise = not own and head not in predictive
        cards.append(HeadCard(head, own, near.get("other"), near.get("correlation"), noise))
    return cards


def _predictive(accuracy: pl.DataFrame) -> Iterator[int]:
    """Yield the heads whose accuracy differs from one half on an attribute, corrected for all heads and attributes.

    The p-values are those that go with the limit towards one half if the estimate is normal.
    """
    rows = accuracy.filter(pl.col("part") != "validation").select("head", "accuracy", "low", "high").rows()
    values = []
    for _, share, low, high in rows:
        half = share - low if share > 0.5 else high - share
        values.append(float(special.erfc(Z * abs(share - 0.5) / max(half, 1e-12) / 2**0.5)))
    for (head, *_), p_value in zip(rows, holm(values), strict=True):
        if p_value <= 1 - LEVEL:
            yield int(head)


def _direction(feature: str, correlation: float) -> str:
    known = BY_NAME[feature]
    return known.more if correlation > 0 else known.less
