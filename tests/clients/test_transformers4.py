"""Exported folders give our rewards in transformers 4, whose configs have other words, and in RewardBench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from tests.clients.conftest import CONTEXT, Trained, run_program, train_on
from tests.conftest import preference_rows
from tests.support.backbones import CHAT_TEMPLATE, SHAPE, VOCABULARY, byte_tokenizer

pytestmark = pytest.mark.clients

ENVIRONMENTS = ("rewardbench", "transformers-4.57")
"""Of transformers 4.51 and 4.57."""
GROUPED = {**SHAPE, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 256}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CONFIGS: dict[str, Callable[[], hf.PretrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**GROUPED, rope_parameters=LLAMA3),
    "tied": lambda: hf.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED, head_dim=8),
    "phi3": lambda: hf.Phi3Config(**GROUPED, pad_token_id=None),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**SHAPE, vocab_size=VOCABULARY, max_position_embeddings=256),
    "gpt2": lambda: hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=256),
}
FORMS = {"bare": "llama", "sharded": "llama", **{name: name for name in CONFIGS}}
"""A checkpoint of the trunk alone, one in several files, and one of each architecture as it is published."""
CHATS = [
    [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]
    for row in preference_rows(10)
]


def saved(folder: Path, form: str) -> Path:
    """Save a checkpoint of a form, with weights that spread enough for every token to matter."""
    kind = hf.AutoModel if form == "bare" else hf.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(CONFIGS[FORMS[form]]())
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "position" not in name:
                torch.nn.init.normal_(weight, std=0.15)
    model.save_pretrained(folder, max_shard_size="40KB" if form == "sharded" else "1GB")
    byte_tokenizer("llama", CHAT_TEMPLATE).save_pretrained(folder)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (form == "sharded")
    return folder


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory, trained: Callable[[str], Trained]
) -> dict[str, tuple[Trained, Path]]:
    """Return runs on checkpoints of every form and on SmolLM2, with their exports."""
    folder = tmp_path_factory.mktemp("exports")
    runs = {form: train_on(folder / f"{form}-store", str(saved(folder / f"{form}-base", form))) for form in FORMS}
    runs["smollm2"] = trained("smollm2")
    return {form: (run, run.exported(folder / form)) for form, run in runs.items()}


@pytest.fixture(scope="module")
def ours(exports: dict[str, tuple[Trained, Path]]) -> dict[str, list[float]]:
    """Return our rewards of the chats, by form."""
    found = {}
    for form, (made, _) in exports.items():
        scorer = made.scorer()
        prompts, responses = [chat[0]["content"] for chat in CHATS], [chat[1]["content"] for chat in CHATS]
        found[form] = [one.rewards[0] for one in scorer.score_many(prompts, responses, context=CONTEXT)]
        scorer.close()
    return found


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_form_gives_our_rewards(
    exports: dict[str, tuple[Trained, Path]], ours: dict[str, list[float]], environment: str
) -> None:
    folders = [str(folder) for _, folder in exports.values()]
    found = run_program(environment, "classifier.py", {"folders": folders, "chats": CHATS})
    theirs = dict(zip(exports, found["logits"], strict=True))
    worst = {
        form: max(abs(one - row[0]) for one, row in zip(ours[form], theirs[form], strict=True)) for form in exports
    }
    print(environment, {form: f"{value:.1g}" for form, value in worst.items()})
    for form, difference in worst.items():
        assert difference <= 1e-4 * max(1.0, *map(abs, ours[form])), form


@pytest.mark.parametrize("form", ["llama", "smollm2"])
def test_rewardbench_gives_our_rewards(exports: dict[str, tuple[Trained, Path]], tmp_path: Path, form: str) -> None:
    made, folder = exports[form]
    rows = preference_rows(20, 2)
    lines = [
        {side: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
         for side in ("chosen", "rejected")}
        for row in rows
    ]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "reward").symlink_to(folder)
    options = "--model=reward --dataset=pairs.jsonl --load_json --not_quantized --torch_dtype=float32 --batch_size=8"
    run_program("rewardbench", "run_rewardbench.py", arguments=tuple(options.split()), folder=tmp_path)
    told = [json.loads(line) for line in (tmp_path / "results" / "reward_outputs.jsonl").read_text().splitlines()]
    scorer = made.scorer()
    scored: list[Any] = [
        scorer.score(row["prompt"], [row["chosen"], row["rejected"]], context=CONTEXT).rewards for row in rows
    ]
    scorer.close()
    assert len(told) == len(scored) == 40
    theirs = [(line["scores_chosen"], line["scores_rejected"]) for line in told]
    worst = float((torch.tensor(scored) - torch.tensor(theirs)).abs().max())
    print(f"rewardbench on {form}: largest difference {worst:.2g}")
    assert worst <= 1e-4
    assert [line["results"] for line in told] == [int(chosen > rejected) for chosen, rejected in scored]
