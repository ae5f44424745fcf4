"""The list of systems, by the names that `train --method` and `compare --methods` take."""

from __future__ import annotations

from heads.methods.armo import Armo
from heads.methods.base import Method
from heads.methods.bradley_terry import Ensemble, RoutedMixture, Single, StaticMixture, UserMixture
from heads.methods.dpl import DplCategorical, DplMeanVariance
from heads.methods.drm import Drm
from heads.methods.lore import LoRe
from heads.methods.maxmin import MaxMin
from heads.methods.own_head import OwnHead
from heads.methods.pal import PalA, PalB


def methods() -> dict[str, Method]:
    """Return every system by its name, in the order of tables."""
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
