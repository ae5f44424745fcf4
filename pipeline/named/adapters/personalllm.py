"""PersonalLLM: ten reward models stand for ten people."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.pipeline.named.adapters.comparing import number
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.sources.adapters import Adapter, Ordinary
from micropref.pipeline.sources.rows import Row

REWARD_MODELS = ("gemma_2b", "gemma_7b", "mistral_raft", "mistral_ray", "mistral_weqweasdas", "llama3_sfairx",
                 "oasst_deberta_v3", "beaver_7b", "oasst_pythia_7b", "oasst_pythia_1b")  # fmt: skip
RESPONSES = range(1, 9)


def _scored(row: Row) -> Iterator[Ordinary]:
    for place in RESPONSES:
        response = f"response_{place}"
        scores = {model: number(row, f"{response}_{model}") for model in REWARD_MODELS}
        yield {"prompt": row.values["prompt"], "response": row.values[response], **scores}


PERSONALLLM = NamedDataset(
    "namkoong-lab/PersonalLLM",
    licence="CC-BY-4.0",
    size="9,402 train, 1,000 test prompts with eight responses each",
    labels="of ten reward models, whose scores stand for people's tastes: synthetic",
    attributes="the ten reward models",
    contexts="none",
    users="none: a simulated person is a mixture of the attributes",
    configs={
        "default": Adapter(
            "namkoong-lab/PersonalLLM",
            _scored,
            ("prompt", *(f"response_{at}" for at in RESPONSES), *(f"response_1_{model}" for model in REWARD_MODELS)),
            "ratings",
        )
    },
)
