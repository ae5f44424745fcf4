"""Pages have the figures of what there is, with the numbers of the tables, and say what there is none of."""

from __future__ import annotations

import json
import re
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import micropref
from micropref import cli
from micropref.cache.store import StoreFolder
from micropref.pipeline.evaluation.reporting.run_report import gather_run
from micropref.pipeline.people.online import adapt_online
from micropref.pipeline.show.page.figures import Cards, Figure, HeatTable, Page, PairBrowser
from micropref.pipeline.show.sections.report import report_page
from tests.support.stores import make_planted_run, make_synthetic

Synthetic = Callable[..., str]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> micropref.Store:
    """Return a store with a sweep and all that can be made of its run, and a run of three planted heads."""
    folder = tmp_path_factory.mktemp("pages") / "store"
    store = micropref.Store(folder)
    make_planted_run(StoreFolder(folder), make_synthetic(StoreFolder(folder), prompts=160, users=9, wordings=5))
    short = {"epochs": 3, "hidden": 8, "device": "cpu", "router_input": "prompt"}
    swept = store.sweep("toy", k=(2, 3), lam=(0.03, 0.1), seeds=2, run_name="swept", **short)  # type: ignore[arg-type]
    assert swept.run
    for seed in (0, 1):
        store.route("swept", budget=(5, 10), tau=1.0, epochs=2, seed=seed)
    store.adapt("swept", "user", shots=(0, 2, 4), method="bayes")
    store.adapt("swept", "user", shots=(0, 2, 4), method="hedge", tau=2.0)
    adapt_online(StoreFolder(folder), swept.run, None, "user")
    return store


def figures(page: Page) -> dict[str, Figure]:
    return {one.id: one for section in page.sections for one in section.parts if isinstance(one, Figure)}


def texts(page: Page) -> Iterator[str]:
    for section in page.sections:
        yield from section.text
        for part in section.parts:
            yield part.caption
            yield from part.notes if isinstance(part, Figure) else ()


def test_everything_that_was_made_is_drawn_once(opened: micropref.Store) -> None:
    page = report_page([gather_run(opened._store, "swept")])
    found = figures(page)
    assert [section.id for section in page.sections] == ["accuracy", "heads", "router", "curves", "pairs", "about"]
    assert set(found) == {
        *("heads-attributes", "best-heads", "contexts", "profile", "alike", "weights-attributes", "weights-contexts"),
        *("weights-prompts", "entropy-disagreement", "calibration", "k-curve", "lam-curve", "convergence", "fit"),
        *("1-budget", "1-refits", "1-1-regret", "adaptation", "data", "record"),
    }
    for one in found.values():
        assert one.numbers.rows, one.id
        assert all(len(row) == len(one.numbers.columns) for row in one.numbers.rows), one.id
    assert "Not drawn" not in " ".join(texts(page))
    assert "swept" in page.title


def test_numbers_are_those_of_the_views(opened: micropref.Store) -> None:
    run = gather_run(opened._store, "swept")
    found = figures(report_page([run]))
    for figure, view, order in (
        ("heads-attributes", "head_accuracy", "attribute, head"),
        ("weights-attributes", "router_weights", "attribute, head"),
        ("alike", "head_correlation", "head, other"),
    ):
        shown = opened.sql(f"FROM {view} WHERE run = '{run.id}' AND split = 'test' ORDER BY {order}")
        numbers = found[figure].numbers
        own = pl.DataFrame(numbers.rows, schema=list(numbers.columns), orient="row").sort(
            order.split(", "), nulls_last=True
        )
        for name in shown.columns:
            assert own[name].to_list() == pytest.approx(shown[name].to_list(), nan_ok=True), (figure, name)
    curve = found["k-curve"].numbers
    best = opened.sql(
        f"SELECT k, min(validation_nll) AS nll FROM leaderboard WHERE sweep = '{run.id}' GROUP BY k ORDER BY k"
    )
    place = curve.columns.index("validation_nll")
    assert [row[place] for row in curve.rows] == pytest.approx(best["nll"].to_list())
    chosen = [row[0] for row in curve.rows if row[curve.columns.index("chosen")]]
    assert chosen == [run.run.record["k"]]
    budget = found["1-budget"].numbers
    rows = [dict(zip(budget.columns, row, strict=True)) for row in budget.rows]
    assert {row["seeds"] for row in rows} == {2}
    totals = opened.sql("SELECT budget, attribute, avg(accuracy) AS a FROM budget_curve GROUP BY ALL ORDER BY ALL")
    for row in rows[3:]:
        same = totals.filter(pl.col("attribute").eq_missing(pl.lit(row["attribute"], pl.String)), budget=row["budget"])
        assert row["accuracy"] == pytest.approx(same["a"][0])
    regret = found["1-1-regret"]
    view = opened.sql("FROM regret_by_round ORDER BY forecaster, round")
    assert [row[regret.numbers.columns.index("regret")] for row in regret.numbers.rows] == pytest.approx(
        view["regret"].to_list()
    )


def test_a_heat_table_shows_every_head_of_every_attribute(opened: micropref.Store) -> None:
    run = gather_run(opened._store, "planted")
    heat = figures(report_page([run]))["heads-attributes"].body
    assert isinstance(heat, HeatTable)
    assert heat.columns == ("head 0", "head 1", "head 2", "mixture", "best head")
    by_name = {name.partition(",")[0]: cells for name, cells in heat.rows}
    assert set(by_name) == {"a", "b", "no attribute"}
    for row in run.tables.head_accuracy.iter_rows(named=True):
        cell = by_name[row["attribute"] or "no attribute"][row["head"]]
        assert cell.text == f"{row['accuracy']:.3f}"
        assert cell.note == f"{row['low']:.2f}-{row['high']:.2f}"
    assert by_name["a"][-1].text == "head 0"
    assert by_name["b"][-1].text == "head 1"
    assert by_name["a"][0].shade is not None
    assert by_name["a"][1].shade is not None
    assert by_name["a"][0].shade > 10 > by_name["a"][1].shade


def test_what_there_is_none_of_is_named(opened: micropref.Store) -> None:
    page = report_page([gather_run(opened._store, "planted")])
    told = " ".join(texts(page))
    for command in ("sweep", "route", "adapt", "adapt --online"):
        assert f"micropref {command})" in told
    assert not {"k-curve", "1-budget", "adaptation", "fit"} & set(figures(page))
    (cards,) = (part for section in page.sections for part in section.parts if isinstance(part, Cards))
    assert [card.title for card in cards.cards] == ["head 0", "head 1", "head 2"]
    assert {card.summary for card in cards.cards} == {"No preference in the features measured"}  # all texts are alike
    (pairs,) = (part for section in page.sections for part in section.parts if isinstance(part, PairBrowser))
    assert len(pairs.pairs) == 120
    json.dumps(pairs.pairs, allow_nan=False)


def test_several_runs_are_compared_first_and_their_figures_have_names_of_their_own(opened: micropref.Store) -> None:
    runs = [gather_run(opened._store, name) for name in ("planted", "swept")]
    page = report_page(runs)
    assert page.sections[0].id == "runs"
    ids = [part.id for section in page.sections for part in section.parts]
    assert len(ids) == len(set(ids))
    assert {"runs-table", "runs-accuracy", "runs-differences", "r1-heads-attributes", "r2-heads-attributes"} <= set(ids)
    assert sum("prefers the chosen response in" in line for line in page.lead) == 2


def test_the_command_writes_a_page_and_says_what_it_has(opened: micropref.Store, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    words = ["report", "swept", "planted", "--store", str(opened.folder), "-o", str(out)]
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    told = json.loads(done.stdout)
    assert (told["path"], told["bytes"]) == (str(out), out.stat().st_size)
    assert told["data"] == ["toy/test"] * 2
    html = out.read_text(encoding="utf-8")
    assert told["figures"] == len(re.findall("<figure ", html))
    assert told["pairs"] == [120, 120]
    first = out.stat().st_ino
    again = CliRunner().invoke(cli.app, words)
    assert again.exit_code == 0
    assert out.stat().st_ino != first
    assert out.read_text(encoding="utf-8") == html


def test_a_page_replaces_no_other_file(opened: micropref.Store, tmp_path: Path) -> None:
    mine = tmp_path / "notes.html"
    mine.write_text("mine")
    for out, told in (
        (mine, "no page of micropref"),
        (tmp_path / "no" / "page.html", "no folder"),
        (tmp_path, "folder"),
    ):
        done = CliRunner().invoke(cli.app, ["report", "swept", "--store", str(opened.folder), "-o", str(out)])
        assert done.exit_code == 2
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
    assert mine.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.html"]


def test_open_shows_the_page(opened: micropref.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(shown.append(url)))
    out = tmp_path / "a page.html"
    done = CliRunner().invoke(cli.app, ["report", "planted", "--store", str(opened.folder), "-o", str(out), "--open"])
    assert shown == [out.as_uri()]
    assert "no browser was found" in done.stderr


@pytest.mark.parametrize(
    ("command", "title", "ids"),
    [
        (
            ["compare", "toy", "--methods", "single,static", "--seeds", "2"],
            "compare",
            ["table", "accuracy", "differences"],
        ),
        pytest.param(
            ["diagnose", "toy", "--restarts", "1", "--k", "2"],
            "diagnose",
            ["gains", "losses", "by-count"],
            marks=pytest.mark.slow,
        ),
        (
            ["sweep", "toy", "--k", "1,2", "--lam", "0.1", "--seeds", "1", "--epochs", "2", "--router-input", "prompt"],
            "sweep",
            ["k-curve", "convergence", "settings"],
        ),
    ],
)
def test_other_commands_write_pages_of_the_same_pieces(
    command: list[str], title: str, ids: list[str], opened: micropref.Store, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    refused = CliRunner().invoke(cli.app, [*command, "--store", str(opened.folder), "--html", str(mine)])
    assert (refused.exit_code, mine.read_text()) == (2, "mine")
    done = CliRunner().invoke(cli.app, [*command, "--store", str(opened.folder), "--html", str(out)])
    assert done.exit_code == 0, done.stderr
    html = out.read_text(encoding="utf-8")
    assert f"<title>micropref {title}: toy</title>" in html
    assert re.findall('<figure id="([^"]*)"', html) == ids
    assert str(out) in done.stderr


def test_a_notebook_shows_the_figures_of_a_report(opened: micropref.Store) -> None:
    found = opened.compare("toy", methods=["single", "static"], seeds=1)
    html = found._repr_html_()  # type: ignore[attr-defined]
    assert html.count("<figure ") == 3
    assert "<script" not in html
    assert "@scope" in html
    text = opened.evaluate("planted")._repr_html_()  # type: ignore[attr-defined]
    assert text.startswith("<pre>")
