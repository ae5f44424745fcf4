"""The list of systems, by the names that `train --method` and `compare --methods` take."""

from __future__ import annotations

from heads.systems.armo import Armo
from heads.systems.bradley_terry import Ensemble, RoutedMixture, Single, StaticMixture, UserMixture
from heads.systems.dpl import DplCategorical, DplMeanVariance
from heads.systems.drm import Drm
from heads.systems.lore import LoRe
from heads.systems.maxmin import MaxMin
from heads.systems.method import Method
from heads.systems.own_head import OwnHead
from heads.systems.pal import PalA, PalB


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
