"""The ceiling: what each attribute's own pairs teach, whatever the other attributes want."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from micropref.cache.errors import BadInput
from micropref.cache.vectors.pair_features import PairFeatures
from micropref.pipeline.comparison.ceiling import NO_ATTRIBUTE, ceiling

TASTES = {"a": 1.0, "b": -1.0, None: 0.5}
"""Attribute → how much it likes the first direction, along which responses differ most."""


def made(pairs: int, seed: int) -> tuple[PairFeatures, torch.Tensor]:
    """Return pairs of each attribute in turn, and whether the choice is the one that the attribute's taste wants."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(pairs, 384, generator=generator)
    delta[:, 0] *= 60
    names = [list(TASTES)[number % 3] for number in range(pairs)]
    reward = torch.tensor([TASTES[name] for name in names]) * delta[:, 0] / 10
    likes_first = torch.rand(pairs, generator=generator) < torch.sigmoid(reward)
    table = pl.DataFrame({"attribute": names, "context": [""] * pairs, "prompt_id": [str(at) for at in range(pairs)]})
    delta = torch.where(likes_first[:, None], delta, -delta)
    return PairFeatures(table, delta, delta, None, 0), likes_first == (reward > 0)


def test_every_attribute_is_predicted_by_its_own_taste() -> None:
    (fitting, _), (validation, _), (scored, wanted) = made(300, 0), made(150, 1), made(300, 2)
    attribute = scored.table["attribute"].fill_null(NO_ATTRIBUTE)
    found = ceiling(fitting, validation, scored.delta, attribute)
    right = found.scored > 0
    assert len(found.validation) == len(found.clusters) == 150
    assert float((found.validation > 0).double().mean()) > 0.7
    for name in attribute.unique():
        mine = (attribute == name).to_torch()
        assert float((right[mine] == wanted[mine]).double().mean()) > 0.8, (
            name
        )  # one reward for all is near 0 for a or for b


def test_an_attribute_without_pairs_to_fit_is_named() -> None:
    fitting, validation, scored = (made(pairs, seed)[0] for seed, pairs in enumerate((30, 30, 6)))
    kept = pl.Series([name != "b" for name in fitting.table["attribute"]])
    attribute = scored.table["attribute"].fill_null(NO_ATTRIBUTE)
    with pytest.raises(BadInput, match="attribute 'b' has no pairs to fit or none to validate on"):
        ceiling(fitting.take(kept), validation, scored.delta, attribute)
