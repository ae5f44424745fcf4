"""The list of methods, by the names that `train --method` and `compare --methods` take."""

from __future__ import annotations

from micropref.heads.methods.armo import Armo
from micropref.heads.methods.base import Method
from micropref.heads.methods.bradley_terry import Ensemble, RoutedMixture, Single, StaticMixture, UserMixture
from micropref.heads.methods.dpl import DplCategorical, DplMeanVariance
from micropref.heads.methods.drm import Drm
from micropref.heads.methods.lore import LoRe
from micropref.heads.methods.maxmin import MaxMin
from micropref.heads.methods.own_head import OwnHead
from micropref.heads.methods.pal import PalA, PalB


def methods() -> dict[str, Method]:
    """Return every method by its name, in the order of tables."""
    listed: list[Method] = [
        Single(),
        Ensemble(),
        StaticMixture(),
        RoutedMixture(),
        UserMixture(),
        MaxMin(),
        Drm(),
        LoRe(),
        DplMeanVariance(),
        DplCategorical(),
        PalA(),
        PalB(),
        Armo(),
        OwnHead(),
    ]
    return {method.name: method for method in listed}
