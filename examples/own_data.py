"""Your own rows in memory: embed, train, evaluate, ask in SQL."""

from __future__ import annotations

import argparse

from made_up_people import choices

import micropref

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--people", type=int, default=60, help="people whose choices are made up")
parser.add_argument("--store", default="data", help="folder of the store")
args = parser.parse_args()

# 1. Rows: a list of dicts, or a table of Polars, pandas, Arrow or `datasets`, or a path to .jsonl, .csv or .parquet.
#    `prompt`, `chosen` and `rejected` are needed; `context`, `attribute` and `user` say who chose and by what.
rows = choices(args.people, per_person=10)
store = micropref.Store(args.store)

# 2. Every distinct text becomes a vector, once. One in five prompts is kept for the test split.
print(store.embed(rows, "own", split_by_prompt=0.2))

# 3. A single reward for everybody, and a mixture of three whose router reads the context.
single = store.train("own", method="single")
mixture = store.train("own", k=3, restarts=4)
for run in (single.run, mixture.run):
    store.evaluate(run)

# 4. Everything is in SQL: accuracy on test prompts, for each taste and with 95 % intervals.
print(
    store.sql(f"""
        SELECT method, attribute, n, round(accuracy, 2) AS accuracy, round(low, 2) AS low, round(high, 2) AS high
        FROM mixture_accuracy JOIN runs USING (run)
        WHERE run IN ('{single.run}', '{mixture.run}') AND part = 'test'
        ORDER BY ALL
    """)
)
