"""What OpenRLHF's and verl's own client code makes of a server. Standard input: JSON, see `asked`.

Only the model that writes responses is made up: its responses are given.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
from one_module import load
from transformers import AutoTokenizer

asked = json.load(sys.stdin)
"""`url`, `folder` (tokenizer and template), `rows` (prompt, response, label), `end` (of a response), `engines`."""
tokenizer = AutoTokenizer.from_pretrained(asked["folder"])


def tokens_of(text: str) -> list[int]:
    """Return the tokens of a text and nothing around it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


class Engine:
    """Stands for the engine that writes responses: it writes the given one."""

    def __init__(self, response: str) -> None:
        self.ids = tokens_of(response + asked["end"])

    async def generate(self, *_: Any, **__: Any) -> Any:
        """Return one finished response."""
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=self.ids, finish_reason="stop", logprobs=None)], prompt_token_ids=None
        )


async def openrlhf() -> list[dict[str, Any]]:
    """Return what its single-turn executor keeps of each row."""
    executor = load("openrlhf", "openrlhf.utils.agent").SingleTurnAgentExecutor(f"{asked['url']}/get_reward")
    settings = SimpleNamespace(max_tokens=64, logprobs=None)
    kept = []
    for row in asked["rows"]:
        chat = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        engine = Engine(row["response"])
        output = await executor.execute(prompt, row["label"], settings, 4096, tokenizer, engine)
        kept.append({name: output[name] for name in ("reward", "scores", "extra_logs")})
    return kept


class Rollout:
    """Rows as verl hands them to its reward worker."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        return Rollout(self.rows[at]) if isinstance(at, slice) else self.rows[at]


def rolled_out(row: dict[str, Any]) -> Any:
    """Return a row of verl: a prompt as a chat, the tokens of a response, and padding behind them."""
    response = np.array([*tokens_of(row["response"] + tokenizer.eos_token), 0, 0])
    mask = np.array([1, 1, *([1] * (len(response) - 2)), 0, 0])
    prompt = np.array([{"role": "user", "content": row["prompt"]}], dtype=object)
    return SimpleNamespace(
        non_tensor_batch={"raw_prompt": prompt}, batch={"responses": response, "attention_mask": mask}
    )


async def verl(engine: str) -> list[float]:
    """Return the scores that its reward worker gets from a reward model behind one kind of engine."""
    module = load("verl", "verl.experimental.reward_loop.reward_loop")
    worker = object.__new__(module.RewardLoopWorker)
    worker.reward_router_address = asked["url"].removeprefix("http://")
    worker.input_tokenizer = worker.reward_model_tokenizer = tokenizer
    rollout = SimpleNamespace(name=engine)
    model = SimpleNamespace(rollout=rollout, model_path="micropref", enable=True)
    own = SimpleNamespace(path=None)
    worker.config = SimpleNamespace(reward=SimpleNamespace(reward_model=model, custom_reward_function=own))
    found = await worker.compute_score_batch(Rollout([rolled_out(row) for row in asked["rows"]]))
    return [one["reward_score"] for one in found]


print(
    json.dumps(
        {
            "openrlhf": asyncio.run(openrlhf()),
            "verl": {engine: asyncio.run(verl(engine)) for engine in asked["engines"]},
            "versions": {name: version(name) for name in ("openrlhf", "verl", "transformers")},
        }
    )
)
