"""Head cards: planted heads are described by what was planted, noise is called noise."""

from __future__ import annotations

from functools import cache

import polars as pl
import pytest
import torch

from micropref.cache.vectors.groups import sides_of
from micropref.pipeline.demo.generate import generate
from micropref.pipeline.evaluation.claims import HeadCard, head_cards, head_claims
from micropref.pipeline.evaluation.head_profile import head_tables
from micropref.pipeline.evaluation.text_features import NAMES, text_features

FAMILIES = ("normal", "t with 2 degrees of freedom", "Cauchy", "a taste in texts")


@cache
def written(prompts: int = 600, annotators: int = 1200) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the demo's test pairs, every third response as a list, and their features' differences."""
    rows = [
        row | {"pair_id": str(at), "prompt_id": row["prompt"]}
        for at, row in enumerate(generate(prompts=prompts, annotators=annotators).test)
    ]
    place = {"run": pl.lit("r"), "data": pl.lit("d"), "split": pl.lit("test")}
    frame = pl.DataFrame(rows).with_columns(**place)
    listed = pl.col("chosen", "rejected").map_batches(_third_as_list)
    frame = frame.with_columns(listed)
    features = text_features(frame["chosen"]) - text_features(frame["rejected"])
    return frame, features.insert_column(0, frame["pair_id"])


def _third_as_list(texts: pl.Series) -> pl.Series:
    points = [
        "\n".join(f"- {one}" for one in text.split(". ")) if sum(map(ord, text)) % 3 == 0 else text for text in texts
    ]
    return pl.Series(texts.name, points)


def accuracy(heads: int, share: float = 0.51) -> pl.DataFrame:
    row = {"part": "test", "attribute": None, "accuracy": share, "low": share - 0.05, "high": share + 0.05}
    return pl.DataFrame([{**row, "head": head} for head in range(heads)])


def cards_of(margins: torch.Tensor, frame: pl.DataFrame, features: pl.DataFrame) -> list[HeadCard]:
    tables = head_tables(frame, margins, features, sides_of(frame))
    return head_cards(tables["head_profile"], tables["head_correlation"], accuracy(margins.shape[1]))


def test_planted_heads_are_named_by_what_was_planted() -> None:
    frame, features = written(120, 400)
    draw = torch.Generator().manual_seed(0)
    planted = ("length", "lists", "politeness", "hedging")
    likes = torch.stack([features[name].to_torch().double() for name in planted], 1)
    likes[:, 3] *= -1
    noise = torch.randn(len(frame), 5, generator=draw, dtype=torch.float64)
    likes = torch.cat([likes / likes.std(0), torch.zeros(len(frame), 1)], 1)
    cards = cards_of(likes + 0.7 * noise, frame, features)
    words = [card.claims[0].words for card in cards[:4]]
    assert words == [
        "prefers longer responses",
        "prefers lists",
        "prefers polite words (please, thanks)",
        "prefers fewer hedging words (might, perhaps)",
    ]
    assert cards[4].claims == ()
    assert cards[4].noise
    assert cards[4].words == "noise as far as these pairs can tell"
    for card in cards[:4]:
        assert not card.noise
        for claim in card.claims:
            assert claim.n >= 30
            assert claim.p_value <= 0.05
            assert claim.low <= claim.correlation <= claim.high
            assert claim.low > 0 or claim.high < 0


def test_the_nearest_head_and_what_an_accuracy_says_of_noise() -> None:
    frame, features = written(120, 400)
    draw = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, len(frame), generator=draw, dtype=torch.float64)
    margins = torch.stack([one, other, -one + 0.1 * other], 1)
    cards = cards_of(margins, frame, features)
    assert [card.nearest for card in cards] == [2, cards[1].nearest, 0]
    assert cards[0].nearest_correlation is not None
    assert cards[0].nearest_correlation < -0.9
    tables = head_tables(frame, margins[:, :1], features, sides_of(frame))
    alone = head_cards(tables["head_profile"], tables["head_correlation"], accuracy(1, share=0.8))[0]
    assert (alone.nearest, alone.nearest_correlation, alone.noise) == (None, None, False)
    assert alone.words == "no preference in the features measured"


def test_holm_over_features_and_heads_and_rows_without_a_figure() -> None:
    rows = [
        {"head": head, "feature": name, "n": 100, "correlation": 0.3, "low": 0.1, "high": 0.5, "p_value": p_value,
         "given_length": None}
        for head, name, p_value in [(0, "length", 0.012), (0, "code", 0.0124), (1, "lists", 0.02), (1, "bold", 0.9)]
    ]  # fmt: skip
    profile = pl.DataFrame(rows).vstack(
        pl.DataFrame(
            [rows[0] | dict.fromkeys(("correlation", "low", "high", "p_value"))], schema=pl.DataFrame(rows).schema
        )
    )
    found = head_claims(profile)  # 4 · .012, 3 · .0124, and 2 · .02: Holm lets all three pass, Bonferroni only one
    assert [(one.head, one.feature, one.p_value) for one in found] == [
        (0, "length", pytest.approx(0.048)),
        (0, "code", pytest.approx(0.048)),
        (1, "lists", pytest.approx(0.048)),
    ]
    assert head_claims(profile.clear()) == []


def test_a_profile_has_every_head_and_feature_and_null_where_little_is_known() -> None:
    frame, features = written(120, 400)
    tables = head_tables(frame, torch.ones(len(frame), 2), features, sides_of(frame))
    profile = tables["head_profile"]
    assert profile.select("head", "feature").rows() == [(head, name) for head in range(2) for name in NAMES]
    never = profile.filter(pl.col("n") < 30)
    assert "emoji" in never["feature"].to_list()
    assert never.select("correlation", "low", "high", "p_value").null_count().row(0) == (never.height,) * 4
    assert profile.filter(feature="length")["given_length"].null_count() == 2


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_rarely_taken_for_a_preference(family: str) -> None:
    """Of 100 heads that know nothing of texts about 5 get a claim, each being the only head of its page."""
    frame, features = written()
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(len(frame), 100, generator=draw, dtype=torch.float64)
    if family == "a taste in texts":
        texts = pl.concat([frame["chosen"], frame["rejected"]]).rank("dense").cast(pl.Int64).to_torch()
        rewards = torch.randn(int(texts.max()) + 1, 100, generator=draw, dtype=torch.float64)[texts]
        margins = rewards[: len(frame)] - rewards[len(frame) :]
    else:
        freedom = {"normal": None, "Cauchy": 1}.get(family, 2)
        spread = 1.0 if freedom is None else _spread(len(frame), freedom, draw)
        margins = normal * spread
    tables = head_tables(frame, margins, features, sides_of(frame))
    pages = [head_claims(tables["head_profile"].filter(pl.col("head") == head)) for head in range(100)]
    assert sum(bool(claims) for claims in pages) <= 10


def _spread(count: int, freedom: int, draw: torch.Generator) -> torch.Tensor:
    squares = torch.randn(freedom, count, 100, generator=draw, dtype=torch.float64).square().mean(0)
    return squares.rsqrt()
