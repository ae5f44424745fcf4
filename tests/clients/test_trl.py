"""TRL trains on a run's rewards: as a folder, a function, a coroutine, and a function for each head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.clients.conftest import CONTEXT, Trained, run_program

pytestmark = pytest.mark.clients

ROWS = [
    {"prompt": [{"role": "user", "content": "What is thing 3?"}], "context": CONTEXT, "user": None},
    {
        "prompt": [{"role": "user", "content": "What is thing 5?"}],
        "context": "Prefer the friendly answer.",
        "user": None,
    },
    {
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is thing 7?"}],
        "context": None,
        "user": "ann",
    },
    {"prompt": [{"role": "user", "content": "What is thing 9?"}], "context": None, "user": None},
]
CHOICE = {"user": "ann", "prompt": "What is thing 1?", "chosen": "Thing 1: see manual.", "rejected": "Gladly, friend!"}


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_rewards_in_training_are_the_scorers(
    name: str, trained: Callable[[str], Trained], policy: Callable[[Trained, str], Path], tmp_path: Path
) -> None:
    made = trained(name)
    folder = made.exported(tmp_path / "reward")
    asked = {
        "store": str(made.store.folder),
        "run": made.run,
        "backbone": str(made.backbone),
        "folder": str(folder),
        "policy": str(policy(made, name)),
        "rows": ROWS,
        "choices": [CHOICE] * 4,
        "completion_tokens": 16,
    }
    found = run_program("training", "trl_train.py", asked)
    scorer = made.scorer()
    for _ in range(4):
        scorer.learn(**CHOICE)
    spread = spreads(made)
    for trainer in ("GRPO", "RLOO"):
        batches = found[trainer]["batches"]
        assert len(batches) == len(found[trainer]["logged"]) == 2
        assert found[trainer]["functions"][1:] == [f"micropref_{made.run}"] * 2 + ["head_0", "head_1"]
        worst = max(worst_difference(scorer, batch, spread) for batch in batches)
        print(f"{name} {trainer}: largest difference {worst:.2g}, {found[trainer]['seconds']:.0f} s")
        assert worst <= 1e-5 * largest(batches)
        assert torch.tensor([batch["rewards"] for batch in batches])[..., :3].std(1).min() > 0
    (batch,) = found["strings"]["batches"]
    theirs = torch.tensor(batch["rewards"])
    ours = torch.tensor(rewards(scorer, batch), dtype=torch.float64)
    assert theirs.tolist() == pytest.approx(ours[:, None].expand(-1, 2), abs=1e-5 * largest([batch]))
    scorer.close()


def rewards(scorer: Any, batch: dict[str, Any], **taste: Any) -> list[float]:
    """Return what a scorer gives for a batch by its columns, or by one taste for all."""
    chosen = taste or {"context": batch["context"], "user": batch["user"]}
    return [one.rewards[0] for one in scorer.score_many(batch["prompts"], batch["completions"], **chosen)]


def worst_difference(scorer: Any, batch: dict[str, Any], spread: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Return the largest difference of a batch's rewards: folder, function, coroutine, and each head.

    Heads' are standardized: their differences are counted before the division by a deviation, which may be small.
    """
    whole = rewards(scorer, batch)
    found = scorer.score_many(batch["prompts"], batch["completions"], context=batch["context"], user=batch["user"])
    heads = torch.tensor([one.heads[0] for one in found], dtype=torch.float64)
    columns = [rewards(scorer, batch, context=CONTEXT), whole, whole]
    ours = torch.cat([torch.tensor(columns, dtype=torch.float64).T, ((heads - spread[0]) / spread[1]).clamp(-3, 3)], 1)
    difference = (ours - torch.tensor(batch["rewards"], dtype=torch.float64)).abs()
    difference[:, 3:] *= spread[1]
    return float(difference.max())


def largest(batches: list[dict[str, Any]]) -> float:
    """Return the size of the largest reward, or 1."""
    return max(1.0, float(torch.tensor([batch["rewards"] for batch in batches]).abs().max()))


def spreads(made: Trained) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each head over the rewards of the stored train responses [K]."""
    rows = made.store.sql("SELECT prompt, chosen, rejected FROM pairs WHERE split = 'train'").iter_rows()
    scorer = made.scorer()
    scored = [scorer.score_many([prompt, prompt], list(both)) for prompt, *both in rows]
    scorer.close()
    heads = torch.tensor([one.heads[0] for pair in scored for one in pair], dtype=torch.float64)
    print(f"mean of heads {heads.mean(0).tolist()}, deviation {heads.std(0).tolist()}")
    return heads.mean(0), heads.std(0)
