"""Two steps of GRPO and of RLOO with one run's rewards in every form. Standard input: JSON, see `asked`.

Printed: of each trainer, what the policy wrote, and what each reward function gave for it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import micropref

asked = json.load(sys.stdin)
"""`store`, `run`, `backbone`, `folder` (an export), `policy`, `rows` (prompt, context, user), `choices` of a person."""
TRAINERS = {"GRPO": (GRPOTrainer, GRPOConfig), "RLOO": (RLOOTrainer, RLOOConfig)}
EACH = 4
"""Completions of each prompt."""


def trained(name: str, rewards: list[Any], rows: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Train for some steps; return the completions of the last step and their rewards by function."""
    trainer_class, config_class = TRAINERS[name]
    tokenizer = AutoTokenizer.from_pretrained(asked["policy"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=2 * EACH, num_generations=EACH,
            max_completion_length=asked["completion_tokens"], report_to=[], logging_steps=1, save_strategy="no",
            use_cpu=True, bf16=False, disable_tqdm=True, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = trainer_class(
            model=asked["policy"], reward_funcs=rewards, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )  # fmt: skip
        kept: list[dict[str, Any]] = []
        compute = trainer._calculate_rewards

        def keeping(inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
            found = compute(inputs, prompts, completions, ids)
            columns = {key: [one.get(key) for one in inputs] for key in ("context", "user")}
            kept.append({"prompts": prompts, "completions": completions, "rewards": found.tolist(), **columns})
            return found

        trainer._calculate_rewards = keeping
        started = time.monotonic()
        trainer.train()
        assert trainer.state.global_step == steps
        logged = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    return {
        "functions": list(trainer.reward_func_names),
        "batches": kept,
        "logged": logged,
        "seconds": time.monotonic() - started,
    }


run = micropref.Store(asked["store"]).run(asked["run"])
scorer = run.scorer(device="cpu", backbone=asked["backbone"])
for choice in asked["choices"]:
    scorer.learn(**choice)
functions = [scorer.trl(), scorer.trl(asynchronous=True), *scorer.trl(heads="separate", scale="std", clip=3.0)]
found: dict[str, Any] = {name: trained(name, [asked["folder"], *functions], asked["rows"], 2) for name in TRAINERS}
texts = [{**row, "prompt": row["prompt"][-1]["content"]} for row in asked["rows"]]
found["strings"] = trained("GRPO", functions[:2], texts, 1)
scorer.close()
found["versions"] = {name: version(name) for name in ("trl", "transformers", "torch", "datasets")}
print(json.dumps(found))
