"""Pages of runs as the command writes them, made of small stores: hostile, empty, wide, with every curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from micropref import Store
from micropref.cache.runs.names import write_note
from micropref.cache.runs.records import open_run
from micropref.cache.store import StoreFolder
from micropref.heads.adaptation.routing_budget import RouteSetting
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.evaluation.reporting.pairs import ShownPair
from micropref.pipeline.evaluation.reporting.run_report import RunReport, gather_run
from micropref.pipeline.people.adapt import AdaptOptions, adapt
from micropref.pipeline.people.online import adapt_online
from micropref.pipeline.routing.route import RouteOptions, route
from micropref.pipeline.show.page.figures import Figure, Page, PairBrowser
from micropref.pipeline.show.page.file import write_page
from micropref.pipeline.show.sections.report import report_page
from micropref.pipeline.training.sweep import Grid, sweep
from micropref.pipeline.training.train import TrainOptions
from tests.support.hostile import HOSTILE, RIGHT_TO_LEFT
from tests.support.stores import make_synthetic

HOSTILE_NAMES = tuple(text for text in HOSTILE if "\x00" not in text)


@dataclass(frozen=True)
class Made:
    """A page in its file."""

    path: Path
    page: Page | None = None
    """What it was written from; None for pages of other commands than report."""

    @property
    def figures(self) -> list[Figure]:
        """Return its figures."""
        assert self.page is not None
        return [part for section in self.page.sections for part in section.parts if isinstance(part, Figure)]

    @property
    def browsers(self) -> list[PairBrowser]:
        """Return its lists of pairs."""
        assert self.page is not None
        return [part for section in self.page.sections for part in section.parts if isinstance(part, PairBrowser)]


def report(store: StoreFolder, runs: Iterable[str], path: Path) -> Made:
    """Write the page of runs and return it."""
    page = report_page([gather_run(store, run) for run in runs])
    write_page(path, page)
    return Made(path, page)


def embedded(folder: Path, rows: list[dict[str, Any]], backbone: Path) -> Store:
    """Return a store with the rows, a third of their prompts as test pairs."""
    opened = Store(folder / "store")
    opened.embed(rows, "toy", backbone=str(backbone), split_by_prompt=0.34, device="cpu")
    return opened


def trained(opened: Store, **options: Any) -> str:
    """Return the id of a run of a few epochs."""
    if options.get("method") != "single":
        options |= {"epochs": 3, "restarts": 1, "device": "cpu"}
    return opened.train("toy", **options).run


def hostile_rows() -> list[dict[str, Any]]:
    """Return pairs whose every text tries to be more than text."""
    rows = []
    for number in range(24 * len(HOSTILE_NAMES)):
        first, second = HOSTILE[number % len(HOSTILE)], HOSTILE[(7 * number + 3) % len(HOSTILE)]
        name = HOSTILE_NAMES[number % len(HOSTILE_NAMES)]
        row = {
            "prompt": f"{second} {number // 3}",
            "chosen": f"{first} yes {number}",
            "rejected": f"no {number} {second}",
        }
        rows.append(row | {"attribute": name, "user": f"{name} {number % 3}", "context": f"context {name}"})
    return rows


def plain_rows(attributes: Sequence[str | None], each: int) -> list[dict[str, Any]]:
    """Return pairs of attributes that differ in what they like, without users or contexts."""
    rows = []
    for number in range(each * len(attributes)):
        name = attributes[number % len(attributes)]
        texts = f"Yes! Do {number} at once.", f"One might perhaps consider {number}, with care, in due course."
        chosen, rejected = texts if (number % len(attributes)) % 2 else texts[::-1]
        row: dict[str, Any] = {"prompt": f"What of {number}?", "chosen": chosen, "rejected": rejected}
        rows.append(row | ({} if name is None else {"attribute": name}))
    return rows


def make_hostile(folder: Path, backbone: Path) -> Made:
    """Return the page of two runs of hostile texts, with hostile notes."""
    opened = embedded(folder, hostile_rows(), backbone)
    runs = [trained(opened, k=3, run_name="best"), trained(opened, method="single")]
    store = StoreFolder(folder / "store")
    for run in runs:
        write_note(open_run(store, run), " ".join(HOSTILE))
    page = report_page([retold(gather_run(store, run, room=20_000)) for run in runs])
    write_page(folder / "hostile.html", page)
    return Made(folder / "hostile.html", page)


def retold(found: RunReport) -> RunReport:
    """Return a run's report with the hostile texts in its pairs: those a tiny backbone has no room for, too."""

    def told(place: int, pair: ShownPair) -> ShownPair:
        texts = [HOSTILE[(place + step) % len(HOSTILE)] for step in range(3)]
        return replace(pair, prompt=texts[0], chosen=texts[1], rejected=texts[2])

    examples = {
        head: tuple(told(head + place, pair) for place, pair in enumerate(pairs))
        for head, pairs in found.pairs.examples.items()
    }
    browsed = tuple(told(place, pair) for place, pair in enumerate(found.pairs.browsed))
    return replace(found, pairs=replace(found.pairs, examples=examples, browsed=browsed))


def make_bare(folder: Path, backbone: Path) -> Made:
    """Return the page of a run of one head on pairs without attributes, users or contexts."""
    run = trained(embedded(folder, plain_rows([None], 90), backbone), method="single")
    return report(StoreFolder(folder / "store"), [run], folder / "bare.html")


def make_one_attribute(folder: Path, backbone: Path) -> Made:
    """Return the page of a run on pairs of one attribute, with a name that runs from right to left."""
    run = trained(embedded(folder, plain_rows([RIGHT_TO_LEFT], 90), backbone), k=2)
    return report(StoreFolder(folder / "store"), [run], folder / "one.html")


def make_wide(folder: Path, backbone: Path) -> Made:
    """Return the page of three runs with up to ten heads on sixty attributes."""
    names = [f"attribute number {number}" for number in range(60)]
    opened = embedded(folder, plain_rows(names, 20), backbone)
    runs = [trained(opened, k=10), trained(opened, method="static", k=10), trained(opened, method="single")]
    return report(StoreFolder(folder / "store"), runs, folder / "wide.html")


def make_curves(folder: Path, _: Path) -> Made:
    """Return the page of a sweep's run that was routed and adapted, online too: every figure there is."""
    store = StoreFolder(folder / "store")
    make_synthetic(store, prompts=240, users=9, wordings=5)
    base, plan = FitSetting("mixture", 2, lr=2e-2, hidden=8), FitPlan(epochs=4, batch=256, dtype="float32")
    grid = Grid((2, 3), (0.03, 0.1))
    swept = sweep(store, "toy", grid, base, plan, TrainOptions(restarts=2, router_input="context"))
    route(store, swept.run, None, RouteOptions((5, 10), tau=1.0, setting=RouteSetting(epochs=3)))
    adapt(store, swept.run, None, AdaptOptions("user", (0, 2, 4), method="bayes"))
    adapt_online(store, swept.run, None, "user")
    return report(store, [swept.run], folder / "curves.html")


def other_command(ask: Callable[[Store, Path], object]) -> Callable[[Path, Path], Made]:
    """Return what makes the page of another command than report."""

    def make(folder: Path, _: Path) -> Made:
        make_synthetic(StoreFolder(folder / "store"), prompts=160, users=9, wordings=5)
        ask(Store(folder / "store"), folder / "page.html")
        return Made(folder / "page.html")

    return make


MAKERS: dict[str, Callable[[Path, Path], Made]] = {
    "hostile": make_hostile,
    "bare": make_bare,
    "one attribute": make_one_attribute,
    "wide": make_wide,
    "curves": make_curves,
    "compare": other_command(
        lambda store, path: store.compare("toy", methods="single,static,mixture", seeds=2, html=path)
    ),
    "sweep": other_command(lambda store, path: store.sweep("toy", k=(1, 2), lam=(0.1,), epochs=2, html=path)),
    "diagnose": other_command(lambda store, path: store.diagnose("toy", k=2, restarts=1, html=path)),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]) -> Callable[[str], Made]:
    """Return `made(name)`, the page of that name: made once."""
    return cache(lambda name: MAKERS[name](tmp_path_factory.mktemp("page"), tiny_backbone("bert")))
