"""What a server's choices are worth against `adapt`: 200 members of the demo's groups, eight choices of each.

Members are users of the demo's train split; everybody chose eight times there and twice in test. The choices of each
are scored as texts, kept in a server's file and imported with `people --import`; with the weights the run predicts the
members' test choices, texts too. `adapt` learned from the same choices as they are stored, in 16 bits: by that alone
weights may differ. Writes build/bench/served_people.json. Run by `make bench-people`; ARGS='--store DIR' takes a store
that has the demo's data.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from harness import BUILD, Bar, at_least, at_most, report

import micropref
from micropref.cache.runs.people import read_person
from micropref.pipeline.demo.demo import NAME, run_demo
from micropref.pipeline.rewards.people.feedback import Feedback
from micropref.pipeline.rewards.people.personal import choice_of

MEMBERS, SHOTS = 200, 8
WITHIN = 0.01
"""How far the mean accuracies may lie apart."""


def learned(store: micropref.Store, run: str, choices: dict[str, pl.DataFrame], file: Path) -> dict[str, list[float]]:
    """Record the choices of each user as a server does, import them, and return each user's weights [K]."""
    opened = store.run(run)
    scorer = opened.scorer(device="cpu")
    feedback = Feedback(file, opened.id, len(opened.heads))
    rows = pl.concat(choices.values())
    responses = rows.select(pl.concat_list("chosen", "rejected")).to_series().to_list()
    scored = scorer.score_many(rows["prompt"].to_list(), responses, together=True)
    for user, pair_id, found in zip(rows["user"], rows["pair_id"], scored, strict=True):
        feedback.add(user, choice_of(found), pair_id)
    feedback.close()
    scorer.close()
    done = store.people(run, import_=file).imported
    assert done is not None
    assert done.written == len(choices)
    folder = store.folder / "runs" / opened.id / "people"
    people = [person for path in folder.glob("*.json") if (person := read_person(path)) is not None]
    return {person.name: list(person.weights) for person in people}


def right(store: micropref.Store, run: str, test: pl.DataFrame) -> float:
    """Return the share of test choices that the reward of the run gets right for who made them, ties counting half."""
    scorer = store.run(run).scorer(device="cpu")
    responses = test.select(pl.concat_list("chosen", "rejected")).to_series().to_list()
    found = scorer.score_many(test["prompt"].to_list(), responses, user=test["user"].to_list(), together=True)
    scorer.close()
    gaps = [(one.rewards[0] or 0.0) - (one.rewards[1] or 0.0) for one in found]
    return sum((gap > 0) + (gap == 0) / 2 for gap in gaps) / len(gaps)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="store with the demo's data; made where there is none")
    given = parser.parse_args().store
    with tempfile.TemporaryDirectory() as temporary:
        folder = given or Path(temporary) / "store"
        if not (folder / "datasets" / NAME).is_dir():
            run_demo(micropref.Store(folder)._store, lambda line: print(line, file=sys.stderr))
        rows, bars, more = measured(micropref.Store(folder), Path(temporary))
        report(BUILD / "served_people.json", rows, bars, **more)


def measured(store: micropref.Store, work: Path) -> tuple[list[dict[str, Any]], list[Bar], dict[str, Any]]:
    """Return rows, bars and what else is worth knowing."""
    run = store.train(NAME, method="maxmin").run
    adapted = store.adapt(run, "user", shots=[SHOTS], method="shrunk", shots_from="train", out=work / "adapted")
    everybody = adapted.adaptation.filter(pl.col("shots") == SHOTS)["accuracy"].item()
    pairs = store.sql(f"FROM pairs WHERE data = '{NAME}'")
    files = sorted((work / "adapted").glob("*.json"))
    members = [read_person(path) for path in random.Random(0).sample(files, MEMBERS)]
    names = {person.name: person for person in members if person is not None}
    query = f"""SELECT pair_id, sum(margin * weight) AS gap FROM scores WHERE run = '{adapted.run}' GROUP BY pair_id"""
    test = store.sql(query).join(pairs, on="pair_id").filter(pl.col("user").is_in(list(names)))
    theirs = float(test.select(((pl.col("gap") > 0) + 0.5 * (pl.col("gap") == 0)).mean()).item())
    train = pairs.filter((pl.col("split") == "train") & pl.col("user").is_in(list(names)))
    choices = {
        name: train.filter((pl.col("user") == name) & pl.col("pair_id").is_in([one.pair_id for one in person.answers]))
        for name, person in names.items()
    }
    weights = learned(store, run, choices, work / "choices.sqlite")
    apart = max(abs(a - b) for name in names for a, b in zip(weights[name], names[name].weights, strict=True))
    served = right(store, run, test)
    rows = [
        {"members": len(names), "test_pairs": test.height, "served": served, "adapt": theirs, "weights_apart": apart}
    ]
    bars = [
        at_most("difference of mean accuracy", abs(served - theirs), WITHIN),
        at_least("members", len(names), MEMBERS),
    ]
    more = {"run": run, "adapt_everybody": everybody, "adapt_strength": adapted.strength, "groups": adapted.groups}
    print(f"adapt over all {adapted.groups} users: {everybody:.4f}")
    return rows, bars, more


if __name__ == "__main__":
    main()
