"""A new person's weights from eight choices: no retraining, the heads stay as they are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from made_up_people import choices

import micropref

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--people", type=int, default=60, help="people whose choices are made up")
parser.add_argument("--store", default="data", help="folder of the store")
parser.add_argument("--out", default="weights", help="new folder for a JSON file of each person's weights")
args = parser.parse_args()

# People to learn heads from, and new people who choose on new prompts. Nothing says who likes what: groups are found
# from who chose what (`latent="user"`).
store = micropref.Store(args.store)
new_people = choices(max(6, args.people // 3), per_person=20, seed=1, contexts=False, held_out=True)
store.embed(choices(args.people, per_person=20, contexts=False), "people")
store.embed(new_people, "people", split="test")
trained = store.train("people", k=3, latent="user", restarts=4)

# Eight choices of each new person weigh the heads, and the person's other choices are scored.
adapted = store.adapt(trained.run, "user", shots=8, out=args.out)
curve = store.sql(f"""
    SELECT shots, groups AS people, round(accuracy, 3) AS accuracy, round(low, 3) AS low, round(high, 3) AS high
    FROM adaptation WHERE run = '{adapted.run}' AND shots IN (0, 8) ORDER BY shots
""")
print("accuracy before and after eight choices, 95 % intervals over prompts")
print(curve)

file = min(Path(args.out).glob("*.json"))
person = json.loads(file.read_text(encoding="utf-8"))
weights = [round(weight, 3) for weight in person["weights"]]
print(f"{person['name']} after {len(person['answers'])} choices: weights {weights} ({file})")
