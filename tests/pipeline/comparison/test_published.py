"""The paper's figures: that they are the printed ones, whose they are, and where they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from typer.testing import CliRunner

from micropref.cache.store import StoreFolder
from micropref.cli import app
from micropref.pipeline.comparison.entries import entries
from micropref.pipeline.comparison.prediction import Prediction
from micropref.pipeline.comparison.published import published
from micropref.pipeline.comparison.sections import sections_of
from micropref.pipeline.embedding.embed import EmbedOptions, embed
from micropref.pipeline.options import Paper
from micropref.pipeline.sources.ingest import SourceOptions


def test_figures_are_those_printed() -> None:
    table = published("helpsteer2")
    assert table.value("micro", "Helpfulness") == table.value("micro-example", "helpfulness") == 0.8324
    assert table.value("single", "average") == 0.7632
    assert table.value("lore", "average") is None
    assert any("873/854/696/643/754" in line and "185/172/162/129/152" in line for line in table.disagreements)
    assert published("rpr").value("micro-hyre", "Factual Accuracy") == 0.9524
    assert any(".841" in line for line in published("rpr").disagreements)
    assert any("0.8133" in line and "0.8039" in line for line in published("transfer").disagreements)
    for name in ("Chat Hard", "chat-hard"):
        assert published("rewardbench").value("micro", name) == 0.7544
    upper = published("transfer-700k")
    assert upper.value("single", "User-Friendliness") == 0.6067
    assert upper.value("micro", "average") == 0.8105
    assert any("ensemble-best" in line and "0.8009" in line for line in upper.disagreements)


def test_single_heads_are_there_and_agree_with_the_oracles_of_the_text() -> None:
    """Section 5.2 gives the best head's mean over attributes: .921 on RPR, .811 on HelpSteer2."""
    for name, count, expected in (("rpr", 10, 0.921), ("helpsteer2", 5, None)):
        table = published(name)  # type: ignore[arg-type]
        heads = [row for row in table.rows if row.title is not None]
        assert [row.title for row in heads] == [f"MiCRo head {number}" for number in range(1, count + 1)]
        best = [max(row.values[place] for row in heads) for place in range(len(table.attributes))]
        if expected is not None:
            assert sum(best) / len(best) == pytest.approx(expected, abs=0.001)
    assert published("helpsteer2").value("micro-head-4", "verbosity") == 0.9211
    assert published("rpr").value("micro-head-4", "Clarity and Conciseness") == 1.0
    assert published("rpr").value("micro-head-4", "average") is None


def test_every_row_is_one_of_ours_or_has_a_title() -> None:
    for name in get_args(Paper):
        table = published(name)
        assert all((row.method in entries()) == (row.title is None) for row in table.rows)
        assert all(len(row.values) == len(table.attributes) for row in table.rows)
        assert (table.k, table.lam) in {(5, 0.5), (10, 0.5)}


def test_sections_are_means_over_seeds_of_the_official_metric() -> None:
    groups = ["hep-go", "hep-rust", "math-prm"]
    place = torch.tensor([0, 0, 1, 1, 2, 2])
    nothing = torch.zeros(0)
    seeds = [Prediction(torch.tensor(one), nothing, nothing) for one in ([1.0, 0, 1, 1, -1, 1], [1.0, 1, 1, 1, 1, 1])]
    first = (164 * 0.5 + 164 * 1 + 984 * 0.5) / (2 * 164 + 984)
    assert sections_of(seeds, place, groups) == {"Reasoning": pytest.approx((first + 1) / 2)}
    assert sections_of(seeds, place, ["hep-go", "hep-rust", "helpfulness"]) == {}


def test_compare_shows_rewardbench_by_its_own_metric(
    store: StoreFolder, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path]
) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(80):
        for attribute in ("hep-go", "math-prm"):
            right, wrong = f"Thing {number} is lovely, my friend", f"Thing {number} is in the manual"
            rows.append({"prompt": f"What is {number}?", "chosen": right, "rejected": wrong, "attribute": attribute})
    options = EmbedOptions(backbone=str(tiny_backbone("llama")))
    embed(store, [write_rows(rows)], "bench", SourceOptions(split_by_prompt=0.5), options)
    words = ["compare", "bench", "--methods", "single", "--seeds", "1", "--shots", "3", "--paper", "rewardbench"]
    words += ["--store", str(store.root)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    for text in ("Reasoning", "0.9189", "published, other backbone", "ties are wrong", "math-prm 984"):
        assert text in " ".join(shown.stdout.split())
    row = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["rows"][0]
    expected = (164 * row["accuracy"]["hep-go"] + 984 * row["accuracy"]["math-prm"]) / (164 + 984)
    assert row["sections"] == {"Reasoning": pytest.approx(expected)}


def test_compare_shows_single_heads_next_to_their_attributes(
    store: StoreFolder, tiny_backbone: Callable[..., Path], write_rows: Callable[..., Path]
) -> None:
    rows = [
        {"prompt": f"What is {number}?", "chosen": "Yes.", "rejected": f"No, {number}.", "attribute": "verbosity"}
        for number in range(80)
    ]
    options = EmbedOptions(backbone=str(tiny_backbone("llama")))
    embed(store, [write_rows(rows)], "made", SourceOptions(split_by_prompt=0.5), options)
    words = ["compare", "made", "--methods", "single", "--seeds", "1", "--shots", "3", "--paper", "helpsteer2"]
    words += ["--store", str(store.root)]
    shown = CliRunner().invoke(app, words).stdout
    assert "MiCRo head 3 (published, other backbone)" in " ".join(shown.split())
    heads = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["published_heads"]
    assert heads[2] == {"title": "MiCRo head 3", "source": "tables 2 and 8", "accuracy": {"verbosity": 0.9276}}


def test_the_page_on_the_method_has_k_and_lam_of_every_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]* \| [^|]* \| (\d+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert {name: (int(k), float(lam)) for name, k, lam in rows} == {
        name: (published(name).k, published(name).lam) for name in get_args(Paper)
    }
