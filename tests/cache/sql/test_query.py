"""The views over a store written here by hand: columns, types, values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.commits import commit, write_table
from micropref.cache.errors import BadInput, Failure
from micropref.cache.schemas import KEY_COLUMNS, LINK_SCHEMA, PAIR_SCHEMA, RATING_SCHEMA
from micropref.cache.sql.query import SqlLimits, run_query, view_examples, view_table
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import planned_features

CONTRACT = {
    "pairs": "data split part pair_id prompt_id attribute context user prompt chosen rejected margin",
    "token_counts": "features data pair_id prompt_tokens chosen_tokens rejected_tokens trimmed",
    "ratings": "data split prompt_id response_id attribute rating",
    "columns": "data split source column role type rows reason",
    "embeddings": "features key role vector",
    "runs": "run parent method data features k lam seed settings created validation_nll validation_accuracy "
    "train_pairs names note router_input",
    "scores": "run data split part pair_id attribute head margin weight",
    "disagreement": "run data split pair_id attribute spread top_head bottom_head",
    "head_accuracy": "run data split part attribute head n accuracy low high",
    "mixture_accuracy": "run data split part attribute n accuracy low high",
    "best_head": "run data split attribute chosen_on head n accuracy low high",
    "router_weights": "run data split part attribute head mean_weight mean_entropy",
    "calibration": "run data split attribute bin n mean_probability accuracy low high",
    "head_profile": "run data split head feature n correlation low high p_value given_length",
    "head_correlation": "run data split head other n correlation",
    "mixture_vs_single": "run reference data split attribute n difference low high",
    "wordings": "data split attribute context pairs in_train",
    "users": "data split user pairs prompts contexts attributes",
    "context_weights": "run data split part context attribute head n mean_weight",
    "budget_curve": "run parent data split seed budget tau attribute n accuracy low high",
    "adaptation": "run parent data split grouped_by method shots groups n accuracy low high nll nll_low nll_high "
    "overconfidence overconfidence_low overconfidence_high gain gain_low gain_high",
    "regret": "run data grouped_by group_name forecaster rounds accuracy nll loss best_head best_head_loss regret "
    "switches bound",
    "regret_by_round": "run data grouped_by forecaster round groups regret regret_se bound",
    "leaderboard": "run sweep method data features k lam seed validation_nll validation_nll_se validation_accuracy "
    "validation_nll_known validation_accuracy_known test_accuracy test_low test_high effective_heads restarts_agreeing",
    "history": "run sweep parent method data k lam seed epoch train_nll validation_nll validation_accuracy "
    "test_accuracy",
}
TYPES = {
    "names": "VARCHAR[]",
    **dict.fromkeys(("head", "k", "prompt_tokens", "chosen_tokens", "rejected_tokens"), "INTEGER"),
    **dict.fromkeys(("n", "seed", "train_pairs"), "BIGINT"),
    **dict.fromkeys(("rating", "lam", "accuracy", "low", "high", "mean_weight", "mean_entropy"), "DOUBLE"),
    **dict.fromkeys(("validation_nll", "validation_nll_se", "validation_accuracy"), "DOUBLE"),
    **dict.fromkeys(("train_nll", "test_low", "test_high", "regret_se"), "DOUBLE"),
    **dict.fromkeys(("test_accuracy", "effective_heads", "restarts_agreeing"), "DOUBLE"),
    **dict.fromkeys(("validation_nll_known", "validation_accuracy_known"), "DOUBLE"),
    **dict.fromkeys(("overconfidence", "overconfidence_low", "overconfidence_high"), "DOUBLE"),
    **dict.fromkeys(("nll", "nll_low", "nll_high", "gain", "gain_low", "gain_high"), "DOUBLE"),
    **dict.fromkeys(("loss", "best_head_loss", "regret", "bound"), "DOUBLE"),
    **dict.fromkeys(("shots", "groups", "rounds", "switches", "budget", "epoch", "round"), "BIGINT"),
    "tau": "DOUBLE",
    "best_head": "INTEGER",
    "trimmed": "BOOLEAN",
    "in_train": "BOOLEAN",
    **dict.fromkeys(("pairs", "prompts", "contexts", "attributes"), "BIGINT"),
    **dict.fromkeys(("top_head", "bottom_head"), "INTEGER"),
    **dict.fromkeys(("spread", "mean_probability", "correlation", "p_value", "given_length", "difference"), "DOUBLE"),
    **dict.fromkeys(("bin", "other"), "INTEGER"),
    "rows": "BIGINT",
    "settings": "JSON",
    "created": "TIMESTAMP",
    "weight": "FLOAT",
}
LIMITS = SqlLimits(memory_mb=512, seconds=30, threads=2)
WIDTH = 3
KEYS = [bytes([number]) * 16 for number in range(6)]
VECTORS = np.arange(18, dtype=np.float16).reshape(6, WIDTH) / 4
READING = [
    {"column": "judge", "role": "user", "type": "text", "rows": 3, "reason": "a known name of the user"},
    {"column": "n_tokens", "role": "ignored", "type": "integer", "rows": 2, "reason": "a count"},
]
PAIR_IDS = ["p0", "p1", "p2"]


def put(folder: Path, stem: str, record: dict[str, Any], **tables: pa.Table) -> dict[str, str]:
    files = {role: write_table(folder, stem, role, table) for role, table in tables.items()}
    commit(folder, stem, files, record)
    return {role: file.digest for role, file in files.items()}


def put_features(root: Path, width: int, dtype: str) -> Features:
    features = planned_features(StoreFolder(root), {"width": width, "store_dtype": dtype})
    features.create({}, None)
    return features


def put_dataset(root: Path, features: str) -> None:
    same = {"data": "tiny", "split": "train", "part": "fit", "context": None, "user": None, "margin": 0.5}
    texts = {"prompt": "ask | me", "chosen": "yes", "rejected": "no"}
    rows = [
        {**same, **texts, "pair_id": pair, "prompt_id": "q" + pair, "attribute": attribute}
        | ({"context": "Be kind."} if pair == "p0" else {})
        for pair, attribute in zip(PAIR_IDS, ("tone", "tone", None), strict=True)
    ]
    rating = {"data": "tiny", "split": "train", "prompt_id": "q", "response_id": "r", "attribute": "a", "rating": 4.0}
    folder = root / "datasets" / "tiny"
    digests = put(
        folder / "pairs",
        "train-0000-aa",
        {"ordinal": 0, "split": "train", "source": "tiny.jsonl", "columns": READING},
        pairs=pa.Table.from_pylist(rows, PAIR_SCHEMA),
        ratings=pa.Table.from_pylist([rating], RATING_SCHEMA),
    )
    keys = dict.fromkeys(KEY_COLUMNS)
    tokens = {"prompt_tokens": 5, "chosen_tokens": 6, "rejected_tokens": 7, "trimmed": False}
    used = [(KEYS[0], KEYS[1], KEYS[2]), (KEYS[0], KEYS[2], KEYS[3]), (KEYS[3], KEYS[1], KEYS[4])]
    links = [
        {**keys, **tokens, "pair_id": pair, "prompt_key": prompt, "chosen_key": chosen, "rejected_key": rejected}
        for pair, (prompt, chosen, rejected) in zip(PAIR_IDS, used, strict=True)
    ]
    table = pa.Table.from_pylist(links, LINK_SCHEMA)
    put(folder / "links" / features, "train-0000-aa", {"pairs_digest": digests["pairs"]}, links=table)
    put(folder / "links" / "stale", "train-0000-aa", {"pairs_digest": "of earlier pairs"}, links=table)


def run_record(run: str, **changes: Any) -> dict[str, Any]:
    figures = {"validation_nll": 0.4, "validation_nll_se": 0.01, "validation_accuracy": 0.8, "test_accuracy": None}
    same = {"parent": None, "method": "mixture", "data": "tiny", "features": "f", "k": 2, "lam": 0.1, "seed": 0}
    rest = {"settings": {"lr": 0.002}, "created": "2026-01-02T04:04:05+01:00", "train_pairs": 3, "sweep": None}
    return {"run": run, **same, **figures, **rest, "effective_heads": 1.5, **changes}


def later_tables(place: dict[str, str], heads: int) -> dict[str, pa.Table]:
    limits = {"low": 0.25, "high": 0.75}
    alike = [
        {**place, "head": head, "other": other, "n": 3, "correlation": 0.5}
        for head in range(heads)
        for other in range(heads)
        if head != other
    ]
    # r1 knows its difference to r0 on more pairs than r0 does.
    r1 = place["run"] == "r1"
    compared = [
        {**place, "run": "r1", "reference": "r0", "attribute": None, "n": 2 + r1, "difference": 0.1 + r1, **limits}
    ]
    profile = {**place, "head": 0, "feature": "length", "n": 3, "correlation": None, "p_value": None}
    binned = {**place, "attribute": None, "bin": 1, "n": 3, "mean_probability": 0.57, "accuracy": 0.5, **limits}
    return {
        "calibration": pa.Table.from_pylist([binned]),
        "head_profile": pa.Table.from_pylist([profile]),
        "head_correlation": pa.Table.from_pylist(alike) if alike else pa.table({"run": pa.array([], pa.string())}),
        "mixture_vs_single": pa.Table.from_pylist(compared),
    }


def put_run(root: Path, run: str, heads: int, weighted: bool) -> None:
    folder = root / "runs" / run
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run_record(run, k=heads)), encoding="utf-8")
    place = {"run": run, "data": "tiny", "split": "train"}
    scores = []
    for row, (pair, attribute) in enumerate(zip(PAIR_IDS, ("tone", "tone", None), strict=True)):
        margins = {f"margin_{k}": float(k - row) for k in range(heads)}
        weights = {f"weight_{k}": 1 / heads for k in range(heads)} if weighted else {}
        scores.append({**place, "part": "fit", "pair_id": pair, "attribute": attribute, **margins, **weights})
    floats = [(name, pa.float32()) for name in scores[0] if name.startswith(("margin_", "weight_"))]
    texts = [(name, pa.string()) for name in ("run", "data", "split", "part", "pair_id", "attribute")]
    put(
        folder / "eval" / "tiny",
        "scores-train-0",
        {"split": "train"},
        scores=pa.Table.from_pylist(scores, pa.schema(texts + floats)),
    )
    interval = {"n": 3, "accuracy": 0.5, "low": 0.25, "high": 0.75}
    mean = {"mean_weight": 0.5, "mean_entropy": 0.6}
    evaluated = {**place, "part": "fit", "attribute": "tone"}
    best = {**place, "attribute": "tone", "chosen_on": "validation", "head": 0}
    put(
        folder / "eval" / "tiny",
        "tables-train",
        {"split": "train"},
        head_accuracy=pa.Table.from_pylist([{**evaluated, "head": 0, **interval}]),
        mixture_accuracy=pa.Table.from_pylist([{**evaluated, **interval}]),
        best_head=pa.Table.from_pylist([{**best, **interval}]),
        router_weights=pa.Table.from_pylist([{**evaluated, "head": 0, **mean}]),
        **later_tables(place, heads),
    )
    put(
        folder / "eval" / "tiny",
        "route-test",
        {"split": "test"},
        budget_curve=pa.Table.from_pylist([{"run": run, "parent": "r1", "budget": 50, "tau": 3.0, **interval}]),
    )
    put(
        folder / "eval" / "tiny",
        "adapt-test",
        {"split": "test"},
        adaptation=pa.Table.from_pylist([{"run": run, "method": "hedge", "shots": 4, **interval}]),
        regret=pa.Table.from_pylist([{"run": run, "forecaster": "linear", "regret": 1.5, "bound": 2.5}]),
        regret_by_round=pa.Table.from_pylist([{"run": run, "forecaster": "linear", "round": 1, "regret": 0.5}]),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A name that a file pattern or SQL would read otherwise.
    root = tmp_path_factory.mktemp("it's [a] *store")
    features = put_features(root, WIDTH, "float16")
    features.write_shard(KEYS[:4], VECTORS[:4], {})
    features.write_shard(KEYS[3:], VECTORS[3:], {})
    put_dataset(root, features.id)
    put_run(root, "r1", heads=2, weighted=True)
    put_run(root, "r2", heads=3, weighted=False)
    setting = {"run": "r2", "sweep": "r2", "k": 5, "lam": 0.3, "validation_nll": 0.3}
    tables = {"leaderboard": [setting], "history": [setting | {"epoch": 1}]}
    put(root / "runs" / "r2", "leaderboard", {}, **{role: pa.Table.from_pylist(one) for role, one in tables.items()})
    return root


def rows(store: Path, query: str, limits: SqlLimits = LIMITS) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in run_query(store, query, limits).to_pylist()]


def test_views_have_the_contracts_columns() -> None:
    for view in view_examples():
        assert [name for name, _ in view.columns] == CONTRACT[view.name].split()
        expected = TYPES | {"margin": "FLOAT" if view.name == "scores" else "DOUBLE", "vector": "FLOAT[]"}
        assert dict(view.columns) == {name: expected.get(name, "VARCHAR") for name, _ in view.columns}


def test_vectors_have_the_stores_width(store: Path) -> None:
    found = {name: kind for name, kind, *_ in rows(store, "DESCRIBE embeddings")}
    assert found == {"features": "VARCHAR", "key": "VARCHAR", "role": "VARCHAR", "vector": f"FLOAT[{WIDTH}]"}


def test_every_example_runs_and_finds_rows(store: Path) -> None:
    examples = view_examples()
    assert [view.name for view in examples] == list(CONTRACT)
    assert view_table().column("view").to_pylist() == list(CONTRACT)
    for view in examples:
        assert view.example in " ".join(str(view).split())
        assert max(map(len, str(view).splitlines())) <= 80
        assert view.description
        found = run_query(store, view.example.replace("part = 'test'", "part = 'fit'"), LIMITS)
        assert found.num_rows > 0, view.name


def test_an_empty_store_has_every_view_without_rows(tmp_path: Path) -> None:
    total = " + ".join(f"(SELECT count(*) FROM {view})" for view in CONTRACT)
    assert rows(tmp_path, f"SELECT {total}") == [(0,)]


def test_columns_are_those_of_every_source_and_none_where_no_reading_was_kept(store: Path) -> None:
    put(store / "datasets" / "old" / "pairs", "train-0000-bb", {"ordinal": 0, "split": "train"})
    assert rows(store, "FROM columns ORDER BY ALL") == [
        ("tiny", "train", "tiny.jsonl", "judge", "user", "text", 3, "a known name of the user"),
        ("tiny", "train", "tiny.jsonl", "n_tokens", "ignored", "integer", 2, "a count"),
    ]


def test_wordings_and_the_weights_of_their_pairs(store: Path) -> None:
    assert rows(store, "FROM wordings") == [("tiny", "train", "tone", "Be kind.", 1, True)]
    weights = "SELECT context, attribute, head, n, mean_weight FROM context_weights WHERE run = 'r1' ORDER BY ALL"
    of_contexts = [("Be kind.", "tone"), (None, "tone"), (None, None)]
    assert rows(store, weights) == [(*names, head, 1, 0.5) for names in of_contexts for head in (0, 1)]
    # Only what a query names is read, and what the view itself counts by.
    assert rows(store, "SELECT sum(mean_weight) FROM context_weights WHERE run = 'r1'") == [(3.0,)]
    assert rows(store, "SELECT count(*) FROM wordings WHERE in_train") == [(1,)]


def test_users_are_counted_and_pairs_that_name_nobody_are_a_row(tmp_path: Path) -> None:
    same = dict.fromkeys(("data", "split", "part", "prompt", "chosen", "rejected"), "x")
    judged = [("ann", "q1", "tone", "Be kind."), ("ann", "q1", None, "Be brief."), ("ann", "q2", "tone", None)]
    judged += [(None, "q3", "wit", None), ("bo", "q1", None, None)]
    table = [
        {**same, "pair_id": str(at), "user": user, "prompt_id": prompt, "attribute": attribute, "context": context}
        for at, (user, prompt, attribute, context) in enumerate(judged)
    ]
    record = {"ordinal": 0, "split": "x"}
    put(tmp_path / "datasets" / "d" / "pairs", "x-0", record, pairs=pa.Table.from_pylist(table, PAIR_SCHEMA))
    found = rows(tmp_path, "FROM users SELECT user, pairs, prompts, contexts, attributes ORDER BY ALL")
    assert found == [("ann", 3, 2, 2, 1), ("bo", 1, 1, 0, 0), (None, 1, 1, 0, 1)]
    assert rows(tmp_path, "SELECT sum(pairs) FROM users") == [(5,)]


def test_disagreement_is_between_the_surest_heads_and_needs_two(store: Path, tmp_path: Path) -> None:
    def chance(margin: float) -> float:
        return 1 / (1 + math.exp(-margin))

    found = rows(store, "SELECT run, pair_id, spread, top_head, bottom_head FROM disagreement ORDER BY ALL")
    expected = [
        (run, pair, pytest.approx(chance(heads - 1 - row) - chance(-row)), heads - 1, 0)
        for run, heads in (("r1", 2), ("r2", 3))
        for row, pair in enumerate(PAIR_IDS)
    ]
    assert found == expected
    assert rows(store, "SELECT count(*) FROM disagreement WHERE top_head = 2") == [(3,)]
    put_run(tmp_path, "r1", heads=1, weighted=True)
    assert rows(tmp_path, "FROM disagreement") == []
    names = {name: ["x"] for name in ("run", "data", "split", "part", "pair_id", "attribute")}
    far = pa.table({**names, "margin_0": [-2000.0], "margin_1": [2000.0], "weight_0": [0.5], "weight_1": [0.5]})
    put(tmp_path / "runs" / "r1" / "eval" / "tiny", "scores-x-1", {"split": "x"}, scores=far)
    assert rows(tmp_path, "SELECT spread, top_head, bottom_head FROM disagreement") == [(1.0, 1, 0)]


def test_a_difference_that_two_evaluations_wrote_counts_once_with_the_most_pairs(store: Path) -> None:
    assert rows(store, "SELECT run, reference, n, difference FROM mixture_vs_single") == [("r1", "r0", 3, 1.1)]


def test_scores_are_long_whatever_the_number_of_heads(store: Path) -> None:
    found = rows(store, "SELECT run, pair_id, head, margin, weight FROM scores ORDER BY ALL")
    weights = {"r1": 0.5, "r2": None}
    expected = [
        (run, pair, head, float(head - row), weights[run])
        for run, heads in (("r1", 2), ("r2", 3))
        for row, pair in enumerate(PAIR_IDS)
        for head in range(heads)
    ]
    assert found == expected
    assert rows(store, "SELECT count(*), count(DISTINCT head) FROM scores") == [(15, 3)]


def test_a_pair_scored_twice_counts_once(tmp_path: Path) -> None:
    put_run(tmp_path, "r1", heads=2, weighted=True)
    folder = tmp_path / "runs" / "r1" / "eval" / "tiny"
    first = pq.read_table(next(folder.glob("scores-train-0.*.parquet")))
    more = pa.concat_tables([first.slice(1), first.slice(0, 1).set_column(4, "pair_id", pa.array(["p9"]))])
    put(folder, "scores-train-1", {"split": "train"}, scores=more)
    assert rows(tmp_path, "SELECT count(*), count(DISTINCT pair_id) FROM scores") == [(8, 4)]


def test_attribute_null_is_a_row_of_its_own(store: Path) -> None:
    query = "SELECT attribute, count(*) FROM {} GROUP BY ALL ORDER BY ALL"
    assert rows(store, query.format("pairs")) == [("tone", 2), (None, 1)]
    assert rows(store, query.format("scores")) == [("tone", 10), (None, 5)]


def test_embeddings_have_a_row_for_each_role(store: Path) -> None:
    found = rows(store, "SELECT key, role, vector FROM embeddings ORDER BY ALL")
    roles = [(0, "prompt"), (1, "response"), (2, "response"), (3, "prompt"), (3, "response"), (4, "response")]
    expected = [(KEYS[row].hex(), role, VECTORS[row].astype(float).tolist()) for row, role in [*roles, (5, None)]]
    assert found == expected
    distance = "array_distance(vector, [0, 0.25, 0.5]::FLOAT[3])"
    assert rows(store, f"SELECT min({distance}), count(*) FROM embeddings") == [(0.0, 7)]


def test_too_many_vectors_are_refused_with_their_size(tmp_path: Path) -> None:
    features = put_features(tmp_path, 1000, "float32")
    keys = [number.to_bytes(16, "big") for number in range(10_000)]
    features.write_shard(keys, np.ones((10_000, 1000), np.float32), {})
    small = SqlLimits(memory_mb=64, seconds=30, threads=1)
    with pytest.raises(BadInput, match=r"10,000 vectors take 38 MiB, .* `limit_vectors`"):
        run_query(tmp_path, "SELECT max(vector[1]) FROM embeddings", small)
    assert rows(tmp_path, "SELECT count(*) FROM embeddings", small) == [(10_000,)]
    few = SqlLimits(memory_mb=64, seconds=30, threads=1, limit_vectors=10)
    assert rows(tmp_path, "SELECT count(*), sum(vector[2]) FROM embeddings", few) == [(10, 10.0)]


def test_features_of_different_width_share_a_view(tmp_path: Path) -> None:
    for width in (2, 3):
        features = put_features(tmp_path, width, "float32")
        features.write_shard(KEYS[:1], np.ones((1, width), np.float32), {})
    assert rows(tmp_path, "SELECT len(vector) FROM embeddings ORDER BY 1") == [(2,), (3,)]


def test_links_to_an_earlier_state_of_the_pairs_do_not_count(store: Path) -> None:
    assert rows(store, "SELECT count(*), count(DISTINCT features) FROM token_counts") == [(3, 1)]


def test_uncommitted_files_do_not_exist_and_damage_is_reported(store: Path, tmp_path: Path) -> None:
    put_run(tmp_path, "r1", heads=2, weighted=True)
    folder = tmp_path / "runs" / "r1" / "eval" / "tiny"
    stray = next(folder.glob("scores-train-0.*.parquet"))
    (folder / "scores-train-9.scores.000000000000.parquet").write_bytes(stray.read_bytes())
    assert rows(tmp_path, "SELECT count(*) FROM scores") == [(6,)]
    data = bytearray(stray.read_bytes())
    data[len(data) // 2] ^= 1
    stray.write_bytes(data)
    with pytest.raises(Failure, match=r"its content changed .*verify"):
        run_query(tmp_path, "SELECT count(*) FROM scores", LIMITS)
    assert rows(tmp_path, "SELECT count(*) FROM runs") == [(1,)], "a table that is not named is not read"


@pytest.mark.fresh_process
def test_runs_and_leaderboard(store: Path) -> None:
    query = "SELECT run, k, settings->>'lr', created::VARCHAR FROM runs ORDER BY run"
    assert rows(store, query) == [("r1", 2, "0.002", "2026-01-02 03:04:05"), ("r2", 3, "0.002", "2026-01-02 03:04:05")]
    found = rows(store, "SELECT run, sweep, k, validation_nll FROM leaderboard ORDER BY ALL")
    assert found == [("r1", None, 2, 0.4), ("r2", "r2", 5, 0.3), ("r2", None, 3, 0.4)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("FROM pairs SELECT pair_id ORDER BY 1 LIMIT 1", [("p0",)]),
        ("SELECT p.prompt FROM pairs p LIMIT 1", [("ask | me",)]),
        ("SELECT p.chosen FROM (SELECT p FROM pairs p) LIMIT 1", [("yes",)]),
        ("SELECT #9 FROM (SELECT * FROM pairs) LIMIT 1", [("ask | me",)]),
        ("SELECT c FROM pairs AS t(a, b, c) LIMIT 1", [("fit",)]),
        ("SELECT COLUMNS('chos') FROM pairs LIMIT 1", [("yes",)]),
        ("SELECT count(*) FROM pairs NATURAL JOIN token_counts", [(3,)]),
        ("SELECT count(*) FROM pairs JOIN token_counts USING (data, pair_id)", [(3,)]),
        ('SELECT count(DISTINCT "Prompt_ID") FROM main."Pairs"', [(3,)]),
        ("WITH pairs AS (SELECT 7 AS seven) SELECT seven FROM pairs", [(7,)]),
        ("SELECT sum(n) FROM head_accuracy", [(6,)]),
        ("PIVOT (SELECT run, head, margin FROM scores WHERE pair_id = 'p0') ON head IN (0, 2) USING sum(margin)", None),
        ("SELECT count FROM (SUMMARIZE scores) WHERE column_name = 'margin'", [(15,)]),
        ("SHOW TABLES", [(name,) for name in sorted(CONTRACT)]),
        ("SELECT part FROM pairs UNION SELECT split FROM ratings ORDER BY 1;", [("fit",), ("train",)]),
    ],
)
def test_what_a_query_names_is_loaded(store: Path, query: str, expected: list[tuple[Any, ...]] | None) -> None:
    assert rows(store, query) == (expected or [("r1", 0.0, None), ("r2", 0.0, 2.0)])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM pears", r"no view 'pears': did you mean pairs\?"),
        ("SELECT * FROM zebra", r"no view 'zebra': the views are pairs, token_counts, .*leaderboard"),
        ("SELECT chosne FROM pairs", r"no column 'chosne' in pairs: did you mean chosen\?"),
        ("SELEC 1", "syntax error"),
        ("", "expected one SELECT statement, found 0"),
        ("PIVOT scores ON head USING sum(margin)", r"PIVOT without IN .* ON head IN \(0, 1, 2\)"),
        ("SELECT 'x'::INT", "Could not convert string 'x'"),
        ("SELECT if(i > 500000, 'x', '1')::INT FROM range(1000000) t(i)", "Could not convert string 'x'"),
        ("SELECT '\ud800'", "not valid text at character 9"),
    ],
)
def test_a_wrong_query_is_reported_in_one_line(store: Path, query: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        run_query(store, query, LIMITS)
    assert "\n" not in str(caught.value)


def test_a_missing_store_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no store at"):
        run_query(tmp_path / "none", "SELECT 1", LIMITS)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("memory_mb", {"memory_mb": 1}),
        ("timeout", {"seconds": 0}),
        ("timeout", {"seconds": math.nan}),
        ("threads", {"threads": 0}),
        ("limit_vectors", {"limit_vectors": -1}),
    ],
)
def test_limits_name_the_option(option: str, values: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=option):
        SqlLimits(**values)
