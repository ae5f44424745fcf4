"""Made rows of published benchmarks, in their own columns, and random scores of their responses.

Free of micropref and of torch: `official_benchmarks.py` imports it where the benchmarks' own packages are installed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

REWARDBENCH_SUBSETS = (
    "alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med", "mt-bench-hard",
    "llmbar-natural", "llmbar-adver-neighbor", "llmbar-adver-GPTInst", "llmbar-adver-GPTOut", "llmbar-adver-manual",
    "refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond", "donotanswer",
    "math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust",
)  # fmt: skip
BEST_OF_FOUR = ("Factuality", "Precise IF", "Math", "Safety", "Focus")
DOMAINS = ("chat", "math", "code", "safety-refuse", "safety-response")
AREAS = ("Art_and_Entertainment", "Lifestyle_and_Personal_Development", "Society_and_Culture")
Rows = list[dict[str, Any]]
Scores = list[tuple[list[float], list[float]]]


def rewardbench(draw: random.Random, most: int) -> Rows:
    """Return pairs of every subset, up to `most` of each."""
    rows: Rows = []
    for subset in REWARDBENCH_SUBSETS:
        for _ in range(draw.randint(1, most)):
            at = len(rows)
            rows.append(
                {
                    "prompt": f"Question {at}?", "chosen": f"Answer {at}.", "chosen_model": "human",
                    "rejected": f"No answer {at}.", "rejected_model": "gpt4", "subset": subset, "id": at,
                }
            )  # fmt: skip
    return rows


def rewardbench2(draw: random.Random, most: int) -> Rows:
    """Return rows of every subset; some prompts of Ties are there in one kind only."""
    rows: Rows = []

    def add(subset: str, name: str, right: int, wrong: int) -> None:
        at = len(rows)
        rows.append(
            {
                "id": name, "prompt": f"Question {at}?", "chosen": [f"Right {at}, {one}." for one in range(right)],
                "rejected": [f"Wrong {at}, {one}." for one in range(wrong)], "num_correct": right,
                "num_incorrect": wrong, "total_completions": right + wrong, "models": ["human"] * (right + wrong),
                "subset": subset, "additional_metadata": None,
            }
        )  # fmt: skip

    for subset in BEST_OF_FOUR:
        for at in range(draw.randint(1, most)):
            add(subset, str(at), 1, 3)
    for number in range(most + 2):
        if number != 1:
            add("Ties", f"ref:{number}", 1, draw.randint(1, 4))
        if number != 2:
            add("Ties", f"tied:{number}", draw.randint(2, 4), draw.randint(1, 4))
    return rows


def rm_bench(draw: random.Random, most: int) -> Rows:
    """Return rows of every domain."""
    rows: Rows = []
    for domain in DOMAINS:
        for _ in range(draw.randint(1, most)):
            at = len(rows)
            sides = {side: [f"{side} {at}, {style}." for style in ("short", "long", "**marked**")] for side in SIDES}
            rows.append({"id": f"{domain}/{at}", "prompt": f"Question {at}?", **sides, "domain": domain})
    return rows


def personalized(draw: random.Random, most: int) -> Rows:
    """Return pairs of every area, each of another person."""
    rows: Rows = []
    for area in AREAS:
        for _ in range(draw.randint(1, most)):
            at = len(rows)
            posts = [
                {"id": f"{at}-{one}", "category": "garden", "text": f"Post {one} of {at}?"} for one in range(at % 3)
            ]
            rows.append(
                {
                    "id": str(at), "question": f"Question {at}?", "profile": posts,
                    "rubric_aspects": [{"aspect": "secret", "evidence": "secret", "reason": "secret"}],
                    "narrative": "secret", "category": area.replace("_", " "), "chosen": f"Answer {at}.",
                    "rejected": f"No answer {at}.",
                }
            )  # fmt: skip
    return rows


SIDES = ("chosen", "rejected")
MADE: dict[str, Callable[[random.Random, int], Rows]] = {
    "rewardbench": rewardbench,
    "rewardbench2": rewardbench2,
    "rm-bench": rm_bench,
    "personalized-rewardbench": personalized,
}


def made_rows(name: str, seed: int = 0, most: int = 2) -> Rows:
    """Return rows of a benchmark."""
    return MADE[name](random.Random(seed), most)


def random_scores(rows: Rows, seed: int) -> Scores:
    """Return scores of each row's right responses and wrong ones; with one decimal, so that some are equal."""
    draw = random.Random(seed)

    def some(responses: Any) -> list[float]:
        return [round(draw.gauss(), 1) for _ in (responses if isinstance(responses, list) else [responses])]

    return [(some(row["chosen"]), some(row["rejected"])) for row in rows]
