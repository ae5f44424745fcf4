"""Prints what the benchmarks' own code makes of random scores, as JSON; tests compare ours with it.

    python official_benchmarks.py RM_BENCH PERSONALIZED > ../data/official_benchmarks.json

run in the folder of this file with `rewardbench` installed and a clone of allenai/reward-bench on PYTHONPATH, whose
rule for Ties is newer than that of release 0.1.4; the arguments are clones of THU-KEG/RM-Bench and of Personalized
RewardBench's repository.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_rows import made_rows, random_scores
from datasets import Dataset
from rewardbench.constants import EXAMPLE_COUNTS, SUBSET_MAPPING
from rewardbench.utils import calculate_scores_per_section, process_single_model, reroll_and_score_dataset

SEEDS = (1, 2, 3, 4)
MOST = 12
"""Rows of a subset at most."""


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def rewardbench(rows: Any, scores: Any) -> dict[str, Any]:
    results: dict[str, list[int]] = {}
    for row, ((chosen,), (rejected,)) in zip(rows, scores, strict=True):
        results.setdefault(row["subset"], []).append(1 if chosen > rejected else 0)
    subsets = {subset: sum(found) / len(found) for subset, found in results.items()}
    sections = calculate_scores_per_section(EXAMPLE_COUNTS, SUBSET_MAPPING, subsets)
    return {"subsets": subsets, "sections": sections, "overall": float(np.mean(list(sections.values())))}


def rewardbench2(rows: Any, scores: Any) -> dict[str, Any]:
    counts = [row["total_completions"] for row in rows]
    flat = [
        {"text": "", "scores": score, "subset": row["subset"], "id": row["id"]}
        for row, (right, wrong) in zip(rows, scores, strict=True)
        for score in right + wrong
    ]
    found = reroll_and_score_dataset(Dataset.from_list(flat), counts)
    found = found.add_column("num_correct", [row["num_correct"] for row in rows])
    subsets = {}
    for subset in dict.fromkeys(row["subset"] for row in rows):
        some = found.filter(lambda row, subset=subset: row["subset"] == subset)
        subsets[subset] = (
            process_single_model(some)[1] if subset == "Ties" else sum(some["results"]) / len(some["results"])
        )
    return {"subsets": subsets, "overall": float(np.nanmean(list(subsets.values())))}


def rm_bench(rows: Any, scores: Any, clone: Path) -> dict[str, Any]:
    scored = [
        {**row, "score_chosen": right, "score_rejected": wrong}
        for row, (right, wrong) in zip(rows, scores, strict=True)
    ]
    return {name: float(value) for name, value in module(clone / "scripts/utils.py").compute_accuracy(scored).items()}


def personalized(rows: Any, scores: Any, clone: Path) -> dict[str, Any]:
    script = module(clone / "evaluation/pointwise.py")
    found = {}
    for area in dict.fromkeys(row["category"].replace(" ", "_") for row in rows):
        scored = [
            {"id": row["id"], "label": label, "score": score}
            for row, sides in zip(rows, scores, strict=True)
            if row["category"].replace(" ", "_") == area
            for label, (score,) in zip(("chosen", "rejected"), sides, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "out.txt"
            script.compare_scores(scored, area.partition("_")[0], "RUN", str(file))
            found[area] = file.read_text()
    return found


def main() -> None:
    rm_clone, personalized_clone = map(Path, sys.argv[1:])
    printed, sys.stdout = sys.stdout, sys.stderr
    found = {}
    for seed in SEEDS:
        tables = {name: made_rows(name, seed, MOST) for name in NAMES}
        scores = {name: random_scores(rows, seed) for name, rows in tables.items()}
        found[str(seed)] = {
            "rewardbench": rewardbench(tables["rewardbench"], scores["rewardbench"]),
            "rewardbench2": rewardbench2(tables["rewardbench2"], scores["rewardbench2"]),
            "rm-bench": rm_bench(tables["rm-bench"], scores["rm-bench"], rm_clone),
            "personalized-rewardbench": personalized(
                tables["personalized-rewardbench"], scores["personalized-rewardbench"], personalized_clone
            ),
        }
    printed.write(json.dumps({"most": MOST, "seeds": found}, indent=1) + "\n")


NAMES = ("rewardbench", "rewardbench2", "rm-bench", "personalized-rewardbench")

if __name__ == "__main__":
    main()
