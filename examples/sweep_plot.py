"""How many reward heads does the data carry? Sweep K and λ, and plot validation NLL against K for each λ."""

from __future__ import annotations

import argparse

import matplotlib as mpl

mpl.use("Agg")  # writes a file, needs no screen

import matplotlib.pyplot as plt
from made_up_people import choices

import micropref

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--people", type=int, default=120, help="people whose choices are made up")
parser.add_argument("--seeds", type=int, default=4, help="initialisations of each K and λ")
parser.add_argument("--store", default="data", help="folder of the store")
parser.add_argument("--out", default="sweep.png", help="picture to write")
args = parser.parse_args()

store = micropref.Store(args.store)
store.embed(choices(args.people, per_person=10), "own", split_by_prompt=0.2)
swept = store.sweep("own", k=[1, 2, 3, 4, 6], lam=[0.0, 0.1, 0.5], seeds=args.seeds)

# The best initialisation of each K and λ, with its standard error over validation prompts.
board = store.sql(f"""
    SELECT k, lam, min(validation_nll) AS nll, arg_min(validation_nll_se, validation_nll) AS se
    FROM leaderboard WHERE sweep = '{swept.run}' GROUP BY k, lam ORDER BY lam, k
""")
chosen = swept.record

STYLES = [("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":")]  # told apart without colour as well
figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
single = board.filter(board["k"] == 1)  # one head has no weights to penalise, so no λ
lams = board.filter(board["k"] > 1)["lam"].unique().sort()
for place, (lam, (colour, marker, line)) in enumerate(zip(lams, STYLES, strict=True)):
    rows = board.filter((board["k"] > 1) & (board["lam"] == lam))
    k, nll, se = (single[name].to_list() + rows[name].to_list() for name in ("k", "nll", "se"))
    shifted = [value + 0.08 * (place - 1) for value in k]  # whiskers side by side
    axes.errorbar(
        shifted,
        nll,
        [1.96 * one for one in se],
        color=colour,
        marker=marker,
        linestyle=line,
        capsize=3,
        label=f"λ = {lam:g}",
    )
    if chosen["lam"] == lam:  # 0 where a single head was chosen
        at = shifted[k.index(chosen["k"])]
        axes.plot(at, chosen["validation_nll"], "o", markersize=13, fillstyle="none", color="black", label="chosen")
axes.set_xticks(sorted(set(board["k"])))
axes.set_xlabel("reward heads K")
axes.set_ylabel("validation NLL (nats per pair)")
axes.set_title("Held-out fit by number of heads; whiskers: 95 % over prompts")
axes.spines[["top", "right"]].set_visible(False)
axes.grid(axis="y", alpha=0.3)
handles, labels = axes.get_legend_handles_labels()
axes.legend(
    *zip(*sorted(zip(handles, labels, strict=True), key=lambda one: one[1] == "chosen"), strict=True), frameon=False
)
figure.savefig(args.out, dpi=150)
print(f"chosen: K = {chosen['k']}, λ = {chosen['lam']:g}, run {swept.run}; {args.out} is written")
