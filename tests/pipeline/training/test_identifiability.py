"""Users and contexts as the unit, from stored pairs to a run: codes, what the data tells, figures, commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import polars as pl
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from micropref.cache.errors import BadInput
from micropref.cache.runs.records import open_run
from micropref.cache.sql.query import SqlLimits, run_query
from micropref.cache.store import StoreFolder
from micropref.cli import app
from micropref.heads.evaluation.metrics import accuracy, nll
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.heads.methods.base import NO_UNIT, Pairs
from micropref.heads.methods.bradley_terry import unit_codes as codes_of_methods
from micropref.heads.mixture import Mixture, pair_log_probability
from micropref.pipeline.evaluation.evaluate import evaluate
from micropref.pipeline.show.train import show_sweep, show_training
from micropref.pipeline.training import memory_budget as memory
from micropref.pipeline.training.data import open_fit_data
from micropref.pipeline.training.identifiability import few_choices, identify, unit_codes, unit_columns
from micropref.pipeline.training.sweep import Grid, sweep
from micropref.pipeline.training.train import TrainOptions, train

Synthetic = Callable[..., str]
SETTING = FitSetting("mixture", 2, lr=2e-2, hidden=8, latent="user")
PLAN = FitPlan(epochs=30, batch=128, dtype="float32", device="cpu")
PROMPTS = TrainOptions(router_input="prompt", restarts=3)


def table(users: list[str | None], contexts: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"user": users, "context": contexts}, {"user": pl.String, "context": pl.String})


def test_what_pairs_to_fit_tell_is_counted() -> None:
    some = table(["u"] * 6 + ["v"] * 4 + ["w", None], ["q"] * 5 + ["r"] * 5 + [None] * 2)
    found = identify(some, "prompt")
    assert asdict(found) == {
        "users": 3, "pairs_without_user": 1, "median": 4.0, "least": 1, "most": 6, "contexts": 2, "latent": "user",
    }  # fmt: skip
    assert identify(some, "context").latent == "pair"
    nobody = identify(table([None, None], [None, None]), "prompt")
    assert (nobody.users, nobody.median, nobody.contexts, nobody.latent) == (0, None, 0, "pair")
    assert identify(table(["u"] * 9, [None] * 9), "prompt").latent == "pair"
    assert identify(table(["u", "v"] * 3, [None] * 6), "prompt").latent == "pair"


def test_a_unit_is_a_user_or_a_context_or_both() -> None:
    changing = table(["u", "u", "v"], ["q", "r", "q"])
    steady = table(["u", "u", "v"], ["q", "q", "r"])
    assert unit_columns(changing, "user", "context") == ["user", "context"]
    assert unit_columns(changing, "user", "prompt") == ["user"]
    assert unit_columns(steady, "user", "context") == ["user"]
    assert unit_columns(changing, "context", "prompt") == ["context"]
    assert unit_columns(table(["u", None, None], ["q", "q", "r"]), "user", "context") == ["user"]
    with pytest.raises(BadInput, match="latent context: no training pair names a context"):
        unit_columns(table(["u"], [None]), "context", "prompt")


def test_codes_are_alike_in_both_parts_and_nobody_is_a_unit_of_one_pair() -> None:
    fitting, validation = table(["u", None, "v", "u", None], ["q"] * 5), table(["w", "v", None, "u"], ["q"] * 4)
    first, second = (part.tolist() for part in unit_codes(fitting, validation, ["user"]))
    assert first[0] == first[3] == second[3]
    assert first[2] == second[1]
    assert len({*first, *second}) == 6
    both = unit_codes(table(["u", "u", "u"], ["q", None, "q"]), table(["v"], ["q"]), ["user", "context"])[0].tolist()
    assert both[0] == both[2] != both[1]


def test_codes_of_compared_methods_keep_the_unknown_apart() -> None:
    def pairs(units: list[int]) -> Pairs:
        rows = torch.zeros(len(units), 1)
        return Pairs(rows, rows, torch.zeros(len(units)), units=torch.tensor(units))

    first, second = codes_of_methods(pairs([1, NO_UNIT, 0, NO_UNIT]), pairs([NO_UNIT, 1]))
    assert (first[0], first[2], second[1]) == (1, 0, 1)
    assert len({*first.tolist(), *second.tolist()}) == 5


def accuracy_of_best_heads(store: StoreFolder, run: str) -> float:
    best = evaluate(store, run).best_head.filter(
        (pl.col("chosen_on") == "validation") & pl.col("attribute").is_not_null()
    )
    return float(best["accuracy"].mean())  # type: ignore[arg-type]


def test_users_tell_groups_that_prompts_do_not(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=600, users=30)
    by_user = train(store, "toy", SETTING, PLAN, PROMPTS)
    by_pair = train(store, "toy", replace(SETTING, latent="pair"), PLAN, PROMPTS)
    assert by_user.run != by_pair.run
    assert accuracy_of_best_heads(store, by_user.run) > 0.8 > 0.7 > accuracy_of_best_heads(store, by_pair.run)
    record = by_user.record
    assert record["one_group_for"] == ["user"]
    assert record["identified"]["users"] == 60
    assert record["identified"]["latent"] == "user"
    assert record["settings"]["latent"] == "user"
    assert record["settings"]["anneal"] is True
    assert record["restarts_agreeing"] == 1
    shown = " ".join(show_training(by_user).split())
    assert f"users: 60 ({record['identified']['median']:g} pairs each in the median, " in shown
    assert f"known by their pairs to fit: validation NLL {record['validation_nll_known']:.4f}" in shown
    nlls = [restart["validation_nll"] for restart in by_user.restarts]
    restarts = f"best of {len(nlls)} restarts ({min(nlls):.4f} to {max(nlls):.4f}); 100% of the others agree with it"
    assert record["validation_nll_known"] == min(nlls)
    assert f"chosen by that: {restarts}" in shown
    assert shown.count("best of") == 1
    assert "people chose often enough to tell their groups: --latent user finds them" in show_training(by_pair)


def test_figures_of_known_users_are_those_of_the_saved_weights(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=200, users=20)
    trained = train(store, "toy", SETTING, PLAN, replace(PROMPTS, projection=12))
    record = trained.record
    mixture = Mixture.from_state(open_run(store, trained.run).tensors())
    data = open_fit_data(store, "toy", routed=True, router_input="prompt")
    weights = mixture.log_weights(data.validation.router, len(data.validation))
    margins, cold = mixture.margins(data.validation.delta), []
    for row, user in enumerate(data.validation.table["user"]):
        own = data.fitting.delta[data.fitting.table["user"].eq_missing(user or "nobody").to_torch()][:16]
        cold.append(weights[row] + F.logsigmoid(mixture.margins(own)).sum(0))
    known = pair_log_probability(margins, torch.log_softmax(torch.stack(cold), 1))
    assert record["validation_accuracy_known"] == pytest.approx(accuracy(known))
    for log_p, ending in ((known, "_known"), (pair_log_probability(margins, weights), "")):
        odds = (log_p.exp() / (1 - log_p.exp())).log()
        scaled = F.logsigmoid(record[f"scale{ending}"] * odds)
        assert record[f"validation_nll{ending}"] == pytest.approx(nll(scaled), abs=1e-4)
        assert nll(scaled) < nll(log_p) + 1e-6
    assert record["validation_nll_known"] < record["validation_nll"]
    assert min(one["validation_nll"] for one in trained.restarts) == pytest.approx(
        record["validation_nll_known"], abs=1e-3
    )


def test_a_sweep_over_users_chooses_by_known_users(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=600, users=30)
    swept = sweep(store, "toy", Grid((1, 2), (0.03,)), replace(SETTING, k=2), PLAN, replace(PROMPTS, restarts=2))
    assert swept.record["k"] == 2
    by_k = {one.size: one.nll for one in swept.by_k}
    assert by_k[2] == pytest.approx(swept.record["validation_nll_known"], abs=1e-4)
    assert swept.leaderboard[0]["validation_nll_known"] == pytest.approx(by_k[2], abs=1e-6)
    assert by_k[1] == pytest.approx(swept.leaderboard[1]["validation_nll_known"], abs=1e-4)
    shown = show_sweep(swept)
    assert all(f"{row['validation_nll_known']:.4f}" in shown for row in swept.leaderboard[:1])
    assert "units" in shown
    board = run_query(store.root, f"SELECT * FROM leaderboard WHERE sweep = '{swept.run}'", SqlLimits()).to_pylist()
    assert len(board) == 3


def test_contexts_are_units_too(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=300)
    trained = train(store, "toy", replace(SETTING, latent="context"), PLAN, PROMPTS)
    assert trained.record["one_group_for"] == ["context"]
    assert accuracy_of_best_heads(store, trained.run) > 0.8


def test_one_user_is_warned_of(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=80, users=1)
    record: dict[str, Any] = train(store, "toy", SETTING, replace(PLAN, epochs=2), PROMPTS).record
    assert record["identified"]["users"] == 2
    alone = record | {"identified": record["identified"] | {"users": 1}}
    from micropref.pipeline.show.groups import about_units

    assert any("one person's choices cannot tell groups apart" in line for line in about_units(alone))
    assert not any("one person" in line for line in about_units(record))


def test_users_are_not_streamed(store: StoreFolder, synthetic: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic(store, prompts=60, users=5)
    monkeypatch.setattr(memory.Budget, "holds", lambda *_: False)
    with pytest.raises(BadInput, match="latent user takes all pairs of a user at once, and these"):
        train(store, "toy", SETTING, PLAN, PROMPTS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "toy", "--latent", "user"], "latent user: no training pair names a user"),
        (
            ["train", "toy", "--no-anneal"],
            "anneal has no effect with",
        ),
        (["sweep", "toy", "--weight", "user"], "weight has no effect with"),
        (["train", "toy", "--method", "single", "--latent", "user"], "latent has no effect with"),
        (["train", "toy", "--latent", "context", "--solver", "lbfgs"], "solver lbfgs with latent context"),
    ],
)
def test_what_does_not_fit_is_named(store: StoreFolder, synthetic: Synthetic, arguments: list[str], said: str) -> None:
    synthetic(store, prompts=60)
    result = CliRunner().invoke(app, [*arguments, "--store", str(store.root)])
    assert result.exit_code == 2
    assert said in result.output


def test_the_command_line_trains_and_compares_users(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=160, users=8)
    options = ["--latent", "user", "--weight", "user", "--no-anneal", "--k", "2", "--restarts", "2", "--epochs", "3"]
    result = CliRunner().invoke(app, ["train", "toy", *options, "--store", str(store.root), "--json"])
    settings = json.loads(result.stdout)["record"]["settings"]
    assert (settings["latent"], settings["weight"], settings["anneal"]) == ("user", "user", False)
    rows = ["single", "mixture-user", "mixture-user-best", "mixture-user-shots"]
    options = ["--methods", ",".join(rows), "--seeds", "1", "--k", "2", "--shots", "4", "--budget", "4"]
    result = CliRunner().invoke(app, ["compare", "toy", *options, "--store", str(store.root), "--json"])
    assert result.exit_code == 0, result.output
    learns = {row["system"]: row["supervision"] for row in json.loads(result.stdout)["rows"]}
    assert learns["mixture-user"] == "pairs with users"
    assert learns["mixture-user-best"] == "pairs with users; head chosen on validation"


@pytest.mark.parametrize(
    ("method", "kind", "sizes", "message"),
    [
        ("lore", "user", [40], "one user made every choice"),
        ("pal-b", "attribute", [40], "one attribute made every choice"),
        ("mixture-user", "user", [1] * 9 + [2], "the median user has 1 pair to fit"),
        ("maxmin", "attribute", [9, 9], "no pair names a user"),
        ("pal-a", "user", [5, 5, 6], "the median user has 5 pairs to fit: below 7"),
        ("lore", "user", [5, 5, 6], None),
        ("pal-a", "user", [8, 8, 9], None),
    ],
)
def test_what_choices_are_too_few_for_is_said(method: str, kind: Any, sizes: list[int], message: str | None) -> None:
    named = pl.Series([f"u{unit}" for unit, size in enumerate(sizes) for _ in range(size)])
    found = few_choices(method, kind, named)
    assert len(found) == (message is not None)
    assert message is None or found[0].startswith(message)


@pytest.mark.slow
def test_one_pair_a_person_is_warned_of_on_screen(store: StoreFolder, synthetic: Synthetic) -> None:
    synthetic(store, prompts=60, users=4000)
    for words in (["--method", "lore"], ["--method", "pal-a", "--k", "3"], ["--latent", "user", "--restarts", "1"]):
        result = CliRunner().invoke(app, ["train", "toy", "--store", str(store.root), *words])
        assert result.exit_code == 0, result.output
        shown = " ".join(result.stdout.split())
        assert "warning: the median user has 1 pair to fit" in shown
        assert ("K = 3" in shown) == ("pal-a" in words)
    options = ["--methods", "pal-a,lore", "--seeds", "1", "--k", "2", "--shots", "4"]
    result = CliRunner().invoke(app, ["compare", "toy", *options, "--store", str(store.root)])
    assert result.exit_code == 0, result.output
    assert "warning: LoRe, PAL-A: the median user has 1 pair to fit" in " ".join(result.stdout.split())
