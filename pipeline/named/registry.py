"""The data sets that are known by name."""

from __future__ import annotations

from functools import cache

from micropref.pipeline.named.adapters.arena import ARENA_55K, ARENA_140K
from micropref.pipeline.named.adapters.community import COMMUNITY
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.named.adapters.helpsteer import HELPSTEER2, HELPSTEER3
from micropref.pipeline.named.adapters.hh import HH
from micropref.pipeline.named.adapters.mixes import PREFERENCE_700K, SKYWORK_80K, TULU_3
from micropref.pipeline.named.adapters.multipref import MULTIPREF
from micropref.pipeline.named.adapters.personalized import PERSONALIZED
from micropref.pipeline.named.adapters.personalllm import PERSONALLLM
from micropref.pipeline.named.adapters.prism import PRISM
from micropref.pipeline.named.adapters.rewardbench import REWARDBENCH, REWARDBENCH_2
from micropref.pipeline.named.adapters.rmbench import RMBENCH
from micropref.pipeline.named.adapters.rpr import RPR
from micropref.pipeline.named.adapters.saferlhf import SAFERLHF
from micropref.pipeline.named.adapters.shp import SHP
from micropref.pipeline.named.adapters.ultrafeedback import BINARIZED, ULTRAFEEDBACK


@cache
def named_datasets() -> dict[str, NamedDataset]:
    """Return all known data sets by their names on the hub, in lower case, in the order of lists."""
    return {
        one.name.lower(): one
        for one in (
            HELPSTEER2,
            HELPSTEER3,
            RPR,
            PREFERENCE_700K,
            ULTRAFEEDBACK,
            BINARIZED,
            HH,
            SAFERLHF,
            SHP,
            SKYWORK_80K,
            TULU_3,
            MULTIPREF,
            PRISM,
            COMMUNITY,
            PERSONALLLM,
            ARENA_55K,
            ARENA_140K,
            REWARDBENCH,
            REWARDBENCH_2,
            RMBENCH,
            PERSONALIZED,
        )
    }


def find_named(name: str) -> NamedDataset | None:
    """Return a data set by owner/name or by its name alone, in any case; None where none is known by it."""
    known = named_datasets()
    alone = [one for full, one in known.items() if full.partition("/")[2] == name.lower()]
    return known.get(name.lower()) or (alone[0] if len(alone) == 1 else None)
