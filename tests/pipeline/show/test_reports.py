"""Every report on wide data: no line is longer than 80 columns, and every figure is there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from micropref import cli
from micropref.cache.maintenance.gc import Collection
from micropref.cache.maintenance.listing import Listing
from micropref.cache.maintenance.verify import Verification
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.selection import Candidate
from micropref.pipeline.comparison.compare import AVERAGE, Compared, ComparedRow, PublishedHead
from micropref.pipeline.demo.demo import Demo
from micropref.pipeline.embedding.cost import Price
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.evaluation.evaluate import Evaluation
from micropref.pipeline.people.adapt import Adaptation
from micropref.pipeline.people.ask import Asked, Question
from micropref.pipeline.people.ask_replay import ReplayedPolicies
from micropref.pipeline.people.diagnose import Diagnosis, Gain, UnitDiagnosis
from micropref.pipeline.people.online import Online
from micropref.pipeline.routing.route import Routed
from micropref.pipeline.show.adapt import show_adaptation, show_online
from micropref.pipeline.show.ask import show_asked, show_question, show_replayed
from micropref.pipeline.show.compare import show_compared
from micropref.pipeline.show.demo import show_demo
from micropref.pipeline.show.diagnose import show_diagnosis
from micropref.pipeline.show.embed import show_embedding
from micropref.pipeline.show.evaluate import show_evaluation
from micropref.pipeline.show.methods import show_method
from micropref.pipeline.show.route import show_routed
from micropref.pipeline.show.store import show_collection, show_listing, show_verification
from micropref.pipeline.show.train import show_sweep, show_training
from micropref.pipeline.training.method_runs import TrainedMethod
from micropref.pipeline.training.sweep import Swept
from micropref.pipeline.training.train import Trained

RUN = "dpl-mean-variance-12345678"
DATA = "preferences-of-many-people-2026"
ATTRIBUTES = [f"attribute number {n} with a rather long name" for n in range(12)]
CLUSTERS = {"users": 12, "prompts": 345}
MANY = 12_345_678
HEADS = 10


def fits(text: str) -> str:
    """Check every line's width and return the text as one line, for a look at what is in it."""
    assert text.endswith("\n")
    too_long = [line for line in text.splitlines() if cell_len(line) > 80]
    assert too_long == []
    return " ".join(text.split())


def figures(seed: int, count: int) -> list[float]:
    """Return accuracies of 4 decimals, all different."""
    return [(1000 + 17 * seed + 101 * place) % 9000 / 10_000 + 0.0001 for place in range(count)]


def accuracies(rows: list[dict[str, Any]]) -> pl.DataFrame:
    place = {"run": RUN, "data": DATA, "split": "test", "part": "test"}
    return pl.DataFrame([{**place, "n": MANY, "low": 0.1234, "high": 0.9876, **row} for row in rows])


def profile(heads: int) -> pl.DataFrame:
    """Return a profile in which every head but the last prefers hedging and shorter responses."""
    figures = {"length": -0.5, "hedging": 0.9, "caution": None}
    return pl.DataFrame(
        [
            {"head": head, "feature": name, "n": MANY, "correlation": value, "low": value and value - 0.1,
             "high": value and value + 0.1, "p_value": value and (0.0 if head < heads - 1 else 0.9),
             "given_length": None}
            for head in range(heads)
            for name, value in figures.items()
        ]
    )  # fmt: skip


def alike(heads: int) -> pl.DataFrame:
    pairs = [(head, other) for head in range(heads) for other in range(heads) if other != head]
    return pl.DataFrame(
        [{"head": head, "other": other, "correlation": 0.5} for head, other in pairs],
        schema={"head": pl.Int32, "other": pl.Int32, "correlation": pl.Float64},
    )


def evaluation(heads: int) -> Evaluation:
    by_head = [
        {"attribute": name, "head": head, "accuracy": value}
        for at, name in enumerate(ATTRIBUTES)
        for head, value in enumerate(figures(at, heads))
    ]
    best = [
        {"attribute": name, "chosen_on": chosen_on, "head": 3, "accuracy": 0.8011 if chosen_on == "oracle" else 0.7022}
        for name in ATTRIBUTES
        for chosen_on in ("validation", "oracle")
    ]
    mixture = [{"attribute": name, "accuracy": value} for name, value in zip(ATTRIBUTES, figures(50, 12), strict=True)]
    tables = (
        accuracies(by_head),
        accuracies(mixture),
        accuracies(best),
        *[pl.DataFrame()] * 2,
        profile(heads),
        alike(heads),
        pl.DataFrame(),
    )
    return Evaluation(RUN, DATA, "test", MANY, MANY, 1, 0.6543, 0.5432, 0.87, 0.1111, CLUSTERS, *tables)


def test_an_evaluation_has_every_head_and_attribute() -> None:
    found = evaluation(HEADS)
    text = fits(show_evaluation(found))
    assert "mixture accuracy 0.6543, lowest of any attribute 0.1111, NLL 0.5432" in text
    assert "95 % intervals over users × prompts" in " ".join(text.split())
    assert " ".join(text.split()).count("warning: some intervals rest on 12 users: below 30 they are rough") == 1
    for value in found.head_accuracy["accuracy"]:
        assert f" {value:.4f}" in text
    for value in found.mixture_accuracy["accuracy"]:
        assert f"{value:.3f} (0.123-0.988)" in text
    assert text.count("12,345,678") == 12 + 1
    told = "what heads prefer in texts (view head_profile): head 0 hedging words (might, perhaps); head 1"
    assert told in " ".join(text.split())
    assert f"nothing that these features show: head {HEADS - 1}" in " ".join(text.split())
    assert text.count("0.801 (") == text.count("0.702 (") == 12
    assert all(name in text for name in ATTRIBUTES)
    assert text.endswith(
        f"next: micropref sql \\ \"FROM head_accuracy WHERE run = '{RUN}'\""
    )  # goes on in a second line


def test_a_single_reward_has_an_accuracy_and_no_mixture() -> None:
    text = fits(show_evaluation(evaluation(1)))
    assert "mixture" not in text
    assert "one head, which is its best head and the oracle as well" in text
    assert "nothing that these features show: head 0" in " ".join(text.split())


def record(**changes: Any) -> dict[str, Any]:
    identified = {"users": MANY, "pairs_without_user": 3, "median": 7.0, "least": 1, "most": MANY, "contexts": MANY}
    return {
        "method": "mixture",
        "data": DATA,
        "k": HEADS,
        "lam": 0.1,
        "seed": 0,
        "settings": {"k": HEADS, "router_input": "context", "projection": "none"},
        "train_pairs": MANY,
        "validation_pairs": MANY,
        "pairs_without_context": 0,
        "router_reading": 2,
        "streamed": True,
        "validation_nll": 0.4321,
        "validation_nll_se": 0.0123,
        "validation_accuracy": 0.8765,
        "effective_heads": 9.87,
        "restarts_agreeing": 1.0,
        "identified": {**identified, "latent": "pair"},
        "one_group_for": ["pair"],
        "fit_width": 384,
        "widths_tried": {},
        "dead_heads": list(range(5)),
        "duplicate_heads": [[0, 1, 0.987]],
        "pruned": None,
        "units": {"kind": "user", "names": ["a", "b"]},
    } | changes


def trained(restarts: int = 8, splits: tuple[str, ...] = ("test", "train"), **changes: Any) -> Trained:
    ended = [{"seed": n, "validation_nll": 0.4321 + n / 100, "epochs": 3} for n in range(restarts)]
    return Trained(RUN, record(**changes), ended, list(splits))


def test_a_trained_run_says_what_it_used() -> None:
    text = fits(show_training(trained()))
    assert f"run {RUN}: mixture, K = 10, λ = 0.1, router reads the context" in text
    assert "best of 8 restarts (0.4321 to 0.5021); 100% of the others agree" in text
    assert "12,345,678 pairs to fit" in text
    assert "single head stands for" not in text
    assert text.endswith(f"next: micropref eval {RUN}")
    assert show_training(trained(splits=("train",))).endswith(f"eval {RUN} --split train\n")


def test_restarts_that_disagree_are_explained() -> None:
    text = fits(show_training(trained(restarts_agreeing=0.0)))
    assert "0% of the others agree" in text
    assert "agree: favour the same head on the same pairs; 7 restarts found other groups" in text


def test_a_single_reward_names_no_setting_that_it_does_not_use() -> None:
    settings = {"k": 1, "router_input": "prompt", "projection": "none"}
    one = {"method": "single", "k": 1, "restarts_agreeing": None, "settings": settings, "effective_heads": 1.0}
    text = fits(show_training(trained(1, dead_heads=[], duplicate_heads=[], **one)))
    assert f"run {RUN}: single, K = 1, no router" in text
    assert not {"λ", "restart", "best", "use"} & set(text.split())


def test_a_projection_wider_than_the_vectors_is_told() -> None:
    settings = {"k": HEADS, "router_input": "context"}
    wide = show_training(trained(settings={**settings, "projection": "1000"}))
    assert "--projection 1000 projects nothing: the vectors have 384 dimensions" in fits(wide)
    for asked in ("auto", "none", "384"):
        assert "projects nothing" not in show_training(trained(settings={**settings, "projection": asked}))


def test_a_sweep_and_another_method_fit() -> None:
    rows = [
        {
            "k": k, "lam": lam, "validation_nll": 0.4 + k / 1000, "validation_nll_se": 0.0123,
            "validation_nll_known": 0.5 + k / 1000, "validation_accuracy": 0.8, "effective_heads": 9.9,
            "restarts_agreeing": None if k == 1 else 0.0,
        }
        for k in (1, 10) for lam in (0.0, 0.25)
    ]  # fmt: skip
    by_k = [Candidate(k, 0.4 + k / 1000, 0.0123, 0.0, 0.0) for k in range(1, 20)]
    text = fits(show_sweep(Swept(RUN, record(), MANY, by_k, rows, ["test"], None)))
    assert all(f"{one.size}: {one.nll:.4f} ± 0.0123" in text for one in by_k)
    assert all(f"{row['validation_nll']:.4f} ± 0.0123" in text for row in rows)
    assert "0.25" in text
    assert "restarts of some settings found other groups" in text
    pal = record(method="pal-a", k=1, settings={"k": 7, "seed": 0, "router_input": "prompt"})
    assert "PAL-A, K = 7, learns from" in fits(show_method(TrainedMethod(RUN, pal, ["test"])))
    own = record(method="own-head", k=1, settings={"seed": 0, "router_input": "prompt"}, units=None)
    assert "K =" not in fits(show_method(TrainedMethod(RUN, own, ["test"])))


def test_a_comparison_has_every_system_and_attribute() -> None:
    columns = [*ATTRIBUTES, AVERAGE]

    def row(at: int, system: str) -> ComparedRow:
        accuracy = dict(zip(columns, figures(at, 13), strict=True))
        spread = dict.fromkeys(columns, 0.0123)
        ends = (dict.fromkeys(columns, value) for value in (0.1, 0.9, -0.0123, -0.1, 0.1))
        title = f"System {system} of a long title, few-shot"
        learns = "pairs with users + labelled test pairs"
        p_value = 0.04 if at else 1.0
        return ComparedRow(system, title, learns, accuracy, spread, *ends, p_value, 0.6666, 0.87, {}, {}, 1234.5)

    rows = [row(at, name) for at, name in enumerate(("single", "lore", "mixture", "micro", "ceiling"))]
    scored = dict.fromkeys(ATTRIBUTES, MANY)
    compared = Compared(
        DATA, DATA, "test", "d2f468910a5c", HEADS, 0.25, 5, 16, "test", 50, "train", scored, MANY, CLUSTERS, rows,
        {"pal-a": "the data names no users " * 5}, {"tiny": 1}, "helpsteer2", [],
        [PublishedHead("MiCRo head 1", "table 8", {ATTRIBUTES[0]: 0.7777})], ["LoRe: too few choices"],
    )  # fmt: skip
    text = fits(show_compared(compared))
    for one in rows:
        assert one.title in text
        assert all(f"{value:.4f} ± 0.0123" in text for value in one.accuracy.values())
        assert f"{one.accuracy[AVERAGE]:.3f} (0.100-0.900)" in text
    assert text.count("-0.012 (-0.100 to +0.100)") == text.count("1,234.5") == text.count("0.6666") == 5
    assert text.count("-0.012 (-0.100 to +0.100) *") == 4  # all but the reference
    assert "tiny: not scored, it has 1 pair" in text
    assert "λ = 0.25" in text
    assert "warning: LoRe: too few choices" in text
    assert text.count("0.7777") == 1
    assert "intervals over users × prompts" in text
    best = max(
        (one for one in rows if one.system in ("single", "lore", "mixture")), key=lambda one: one.accuracy[AVERAGE]
    )
    assert f"next: micropref train {DATA} --method {best.system}" in text


def test_adaptation_and_forecasters_fit() -> None:
    interval = {"accuracy": 0.8, "low": 0.7012, "high": 0.9, "nll": 0.5, "nll_low": 0.4512, "nll_high": 0.6}
    gain = {"overconfidence": -0.0812, "gain": 0.0234, "gain_low": -0.0112, "gain_high": 0.05}
    curve = pl.DataFrame([{"shots": shots, **interval, **gain} for shots in (0, 1, MANY)])
    people = "/people/of/this/run"
    adapted = Adaptation(
        RUN,
        RUN,
        DATA,
        "test",
        "attribute",
        "tempered",
        "test",
        [1.0, 0.9, 0.8],
        0.25,
        MANY,
        0,
        MANY,
        1,
        "prompts",
        CLUSTERS,
        curve,
        people,
    )
    text = fits(show_adaptation(adapted))
    assert text.count("0.800 (0.701-0.900)") == text.count("0.500 (0.451-0.600)") == text.count("-0.081") == 3
    assert text.count("+0.023 (-0.011 to +0.050)") == 2
    assert "left out" not in text
    assert text.endswith(f"next: micropref sql \"FROM adaptation WHERE run = '{RUN}'\"")
    sums = {"loss": MANY / 7, "best_head_loss": MANY / 9, "regret": MANY / 11, "bound": MANY / 13}
    rows = [{"forecaster": name, **interval, "new_prompt_accuracy": 0.7654, **sums} for name in ("linear-anytime", "x")]
    table = pl.DataFrame(rows)
    online = Online(RUN, RUN, DATA, "test", "user", MANY, MANY, 0, "users", CLUSTERS, 1, table, table)
    text = fits(show_online(online))
    assert all(text.count(f"{value:,.1f}") == 2 for value in sums.values())
    assert text.count("0.7654") == 2
    assert "at most 1 time in each user" in text


def test_routes_fit() -> None:
    interval = {"accuracy": 0.8, "low": 0.7012, "high": 0.9}
    gain = {"gain": 0.0234, "gain_low": -0.0112, "gain_high": 0.05}
    totals = pl.DataFrame([{"budget": budget, "tau": 0.5, **interval, **gain} for budget in (0, MANY)])
    curve = [
        {"attribute": name, "budget": budget, "n": MANY, **interval} for name in ATTRIBUTES for budget in (0, MANY)
    ]
    about = (RUN, RUN, DATA, "train", "test", "attribute", ATTRIBUTES, MANY, 3, 0.9, CLUSTERS)
    routed = Routed(*about, totals, pl.DataFrame(curve))
    text = fits(show_routed(routed))
    assert text.count("0.800 (0.701-0.900)") == 2 + 24
    assert text.count("+0.023 (-0.011 to +0.050)") == 1
    assert text.endswith(f"next: micropref eval {RUN}")


def test_questions_and_replays_fit() -> None:
    weights = tuple([0.1] * HEADS)
    questions: list[dict[str, object]] = [{"reply": "1", "information": 0.5, "weights": weights} for _ in range(3)]
    asked = Asked(
        RUN, "a user", DATA, "test", 0.5, "chosen on validation users", 2, questions, "n", 0.25, weights, "ann"
    )
    text = fits(show_asked(asked))
    assert text.count(" ".join(["0.10"] * HEADS)) == 4
    fits(show_question(Question(12, "pair", "Which?", "This.", "That.", True, 0.5, weights)))
    one = {"accuracy": 0.8012, "low": 0.7, "high": 0.9, "ahead": 0.01, "ahead_low": -0.0112, "ahead_high": 0.05}
    curve = [{"policy": policy, "answers": n, **one} for n in (0, 1, 16) for policy in ("ask", "uncertainty", "random")]
    replayed = ReplayedPolicies(
        RUN, DATA, "attribute", MANY, 1, 20, 1, 0.5, "chosen on validation attributes", MANY, "prompts", CLUSTERS,
        pl.DataFrame(curve), {1: 4, 16: None},
    )  # fmt: skip
    text = fits(show_replayed(replayed))
    assert text.count("0.801 (0.700-0.900)") == text.count("+0.010 (-0.011 to +0.050)") == 3
    assert text.count("0.8012") == 6
    assert "> 16" in text


def test_a_diagnosis_says_what_pays_and_what_could_not_be_told() -> None:
    gains = Gain(0.2, 0.1512, 0.25), Gain(0.3, 0.2, 0.4), Gain(0.4, 0.3, 0.5)

    def unit(kind: Any, answer: Any) -> UnitDiagnosis:
        curve = dict.fromkeys((1, 2, 4, 8, 16, 32), 0.1)
        nlls = (0.7, 0.71, 0.4, 0.9)
        return UnitDiagnosis(
            kind, MANY, 7.0, MANY, 3, "users × prompts", CLUSTERS, *nlls, *gains, 0.2, curve, 1.0, answer, 5
        )

    reason = {"attribute": "none of the 12 with pairs to fit has validation pairs too"}
    text = fits(show_diagnosis(Diagnosis(DATA, "d2f", 5, [unit("user and context", "yes")], reason)))
    assert "+0.200 (+0.151 to +0.250)" in text
    assert f"{DATA}, by attribute: not known: none of the 12" in text
    assert "enough" not in text
    assert text.endswith(f"next: micropref train {DATA} --latent user --k 5")
    text = fits(show_diagnosis(Diagnosis(DATA, "d2f", 5, [unit("context", "no")], {})))
    assert "a single reward is enough" in text
    assert text.endswith(f"next: micropref train {DATA} --method single")


def test_embedding_and_its_plan_fit() -> None:
    price = Price(MANY, 16, 0.4, dict.fromkeys(("A100", "H100 SXM", "H200", "RTX 4090"), MANY / 7))
    fields: dict[str, Any] = {
        "data": DATA,
        "features": "d2f468910a5c",
        "backbone": "a-team/a-backbone-of-a-long-name",
        "pairs": MANY,
        "splits": {f"split-{n}": MANY for n in range(5)},
        "all_splits": ["train"],
        "all_features": ["d2f468910a5c"],
        "texts": MANY,
        "contexts": MANY,
        "texts_embedded": MANY,
        "texts_reused": MANY,
        "pass_name": "tree",
        "tokens_unique": MANY,
        "tokens_forwarded": 2 * MANY,
        "dropped": {f"rows left out for reason {n}": MANY for n in range(5)},
        "trimmed": MANY,
        "indistinguishable": MANY,
        "empty_responses": MANY,
        "without_context": 1,
        "users": MANY,
        "rejected_rows": 1,
        "repeated": MANY,
        "shared_prompts": MANY,
        "columns": [],
        "noted": {"responses that repeated the prompt, cut": 1234567},
        "special_tokens": 12345,
        "not_rendered": {"tool_calls": 123456, "tools": 12345},
        "delta_storage_error": 0.01,
        "store_bytes": 10**12,
        "forward_flops": 1e18,
        "tokens_per_second": 12345.6,
        "seconds": 1.0,
    }
    text = fits(show_embedding(EmbedReport(**fields, price=None), planned=False))
    assert "no test split yet" in text
    assert text.endswith(f"next: micropref train {DATA}")
    planned = fits(show_embedding(EmbedReport(**fields | {"all_splits": ["test", "train"]}, price=price), planned=True))
    assert f"H200 {MANY / 7:,.2f}" in planned
    assert "no test split" not in planned
    assert planned.endswith("the same command without --plan does that")


def test_what_a_store_holds_fits() -> None:
    features = {"features": "d2f468910a5c", "backbone": "a-team/a-backbone-of-a-very-long-name-v2", "width": 4096}
    features |= {"dtype": "float16", "max_length": 4096, "vectors": MANY, "bytes": 10**12}
    source = {
        "data": DATA,
        "split": "train",
        "source": "/data/of/many/people/" * 4,
        "rows": "preference",
        "pairs": MANY,
    }
    source |= {"limit": None, "features": ["d2f468910a5c", "e2f468910a5c"]}
    run = {"run": RUN, "method": "single", "data": DATA, "features": "d2f468910a5c", "k": 1, "lam": 0.1}
    run |= {"validation_nll": 0.4321, "validation_accuracy": 0.8765, "created": "2026-11-28T18:06:41+00:00"}
    run |= {"data_changed": True, "came_from": None, "damage": None}
    run |= {"names": ["best-of-the-first-week", "kept"], "note": "three heads, few epochs, tried on Monday"}
    text = show_listing(Listing([features, features], [source], [run], []))
    assert [line for line in text.splitlines() if len(line) > 80 and "/data/of" not in line] == []  # a path stays whole
    for value in ("12,345,678", "1,000,000.0", "0.4321", "0.8765", "2026-11-28 18:06", DATA, RUN, "/data/of/many"):
        assert value in text
    assert f"training data changed since: {RUN}" in text
    assert "next:" not in text
    empty = show_listing(Listing([], [], [], []))
    assert empty.endswith("next: micropref embed pairs.jsonl --name mine\n")
    assert show_listing(Listing([features], [source], [], [])).endswith(f"next: micropref train {DATA}\n")


def test_what_was_checked_and_removed_fits() -> None:
    problem = "a shard is damaged: " + "its digest differs " * 8
    assert show_verification(Verification(1, MANY, 0, [problem])).splitlines() == [
        problem,
        "1 file, 12,345,678 vectors, 0 stored twice",
    ]
    gone = Collection(MANY, MANY, MANY, 10**13)
    assert fits(show_collection(gone, dry_run=True)).startswith("would remove 12,345,678 vectors in 12,345,678 shards")
    assert "removed 1 vector in 1 shard and 1 file:" in fits(show_collection(Collection(1, 1, 1, 1), dry_run=False))


def test_the_demo_fits() -> None:
    groups = dict(zip(("brevity", "depth", "formality", "playfulness"), figures(1, 4), strict=True))
    one = {"held-out prompts": "ceiling: one model per true group", "accuracy": 0.8, "low": 0.7, "high": 0.9, **groups}
    query = "SELECT attribute, head, round(accuracy, 3) AS accuracy FROM head_accuracy WHERE run = 'mixture-f9a8d820'"
    text = fits(show_demo(Demo([one], CLUSTERS, {}, [query], "attribute\n---------\n")))
    assert "0.800 (0.700-0.900)" in text
    assert all(f"{value:.4f}" in text for value in groups.values())
    assert query in text


def test_the_next_commands_run(
    store: StoreFolder, synthetic: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MICROPREF_STORE", str(store.root))
    name = synthetic(store, prompts=120, users=5)
    assert name
    quick = ("--restarts", "1", "--epochs", "1")
    for start in (
        ("train", "toy", "--k", "2", *quick),
        ("sweep", "toy", "--k", "1,2", "--lam", "0.1", "--seeds", "1", "--epochs", "1"),
        ("diagnose", "toy", "--restarts", "1"),
    ):
        words, passed = list(start), []
        while words:
            done = CliRunner().invoke(cli.app, words)
            assert done.exit_code == 0, f"{words}: {done.output}"
            passed.append(words[0])
            steps = done.stdout.split("\nnext: micropref ")[1:]
            assert len(steps) == (words[0] != "sql"), done.stdout
            words = shlex.split(steps[0].replace("\\\n", "")) if steps else []
        assert passed[-2:] == ["eval", "sql"]
    as_json = CliRunner().invoke(cli.app, ["train", "toy", "--k", "2", *quick, "--json"])
    assert "next:" not in as_json.stdout
