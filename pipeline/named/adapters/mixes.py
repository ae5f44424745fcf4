"""Mixes of many sources: pairs of whole conversations whose prompt is what both have in common."""

from __future__ import annotations

from micropref.pipeline.named.adapters.comparing import whole_conversations
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter


def _mix(name: str, licence: str, size: str, labels: str, protocol: str = "", attributes: str = "none") -> NamedDataset:
    """Return a mix of pairs that a row holds as two conversations."""
    adapter = Adapter(name, whole_conversations, ("chosen", "rejected"), "preference")
    return NamedDataset(
        name,
        licence,
        size,
        labels,
        attributes,
        contexts="none",
        users="none",
        configs={"default": adapter},
        protocol=protocol,
    )


PREFERENCE_700K = _mix(
    "hendrydong/preference_700K",
    licence="not stated; its sources have licences of their own",
    size="about 700,000 pairs, train only",
    labels="of people and of language models, from eight or more sources",
    protocol="trained on whole, without contexts; tested on HelpSteer2 and RPR",
)
SKYWORK_80K = _mix(
    "Skywork/Skywork-Reward-Preference-80K-v0.2",
    licence="not confirmed",
    size="about 77,000 pairs, train only",
    labels="of language models and people, curated from public sources, decontaminated of RewardBench",
    attributes="source, where rows name it",
)
TULU_3 = _mix(
    "allenai/llama-3.1-tulu-3-8b-preference-mixture",
    licence="ODC-BY",
    size="about 271,000 pairs, train only",
    labels="mostly of a language model that judges four aspects",
    attributes="source, where rows name it",
)
