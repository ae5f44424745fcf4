"""`Store.benchmark`: a run's score on a published benchmark, by its own rules."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from micropref.cache.atomic import check_folder_of, write_bytes
from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.pipeline.benchmarks.facts import Benchmark, ModelFacts, Scored
from micropref.pipeline.benchmarks.items import Item, ScoredItem
from micropref.pipeline.benchmarks.profiles import Profiles
from micropref.pipeline.benchmarks.reading import find_files, read_items
from micropref.pipeline.benchmarks.registry import benchmarks
from micropref.pipeline.benchmarks.scores import SubsetScore
from micropref.pipeline.options import BenchmarkName
from micropref.pipeline.progress import Announce, progress_bar
from micropref.pipeline.rewards.scoring.candidates import Candidates, ResponseCounts, Rewarded
from micropref.pipeline.rewards.scoring.options import BackboneOptions
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.taste import Taste


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of `Store.benchmark`."""

    source: str | None = None
    """File, folder, or name on the hub; None: the benchmark's own name there."""
    out: Path | None = None
    """Folder for files of results; None: none are written."""
    taste: Taste = field(default_factory=Taste)
    """By whose taste responses are scored."""
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    """How the backbone is loaded."""


@dataclass(frozen=True)
class BenchmarkReport:
    """A run's score on a benchmark."""

    run: str
    """The run whose heads these are."""
    features: str
    """Features id: how texts were read."""
    benchmark: BenchmarkName
    title: str
    """The benchmark as its authors write it."""
    source: str
    """Where the rows were: file or folder, or owner/name@commit."""
    taste: dict[str, str | list[float]]
    """By whose taste responses were scored, where that was given."""
    rows: int
    overall: float | None
    """The one figure that is cited; None where a part of the benchmark is not there."""
    subsets: list[SubsetScore]
    sections: dict[str, float]
    """Section -> score."""
    figures: dict[str, float]
    """Further figures that the benchmark reports."""
    missing: list[str]
    """Subsets that are not whole: how many rows were found, and how many the benchmark has."""
    responses: int
    rewarded: int
    """Responses that have a reward."""
    trimmed: int
    """Of these, responses whose prompt was cut from the left."""
    without_reward: dict[str, int]
    """Why others have none -> how many."""
    rows_without_reward: int
    """Rows with such a response: they count as wrong."""
    overall_without_them: float | None
    """The figure of the other rows; the same where there are no such rows."""
    profiles: dict[str, int]
    """Rows scored by a person's profile: read whole, cut to what fits, or unread; empty where none are read."""
    differs: list[str]
    """How scoring here differs from the benchmark's own scripts."""
    files: list[str]
    """Files of results that were written."""
    seconds: float
    """Wall time of scoring."""
    tokens_forwarded: int
    """Tokens that the backbone read."""


@holds(run="run_id")
def run_benchmark(
    store: StoreFolder,
    run_id: str,
    name: BenchmarkName,
    options: BenchmarkOptions,
    announce: Announce = lambda _: None,
) -> BenchmarkReport:
    """Score a run on a benchmark.

    Raises BadInput where the run gives no rewards, the taste is unknown, or the rows are not the benchmark's.
    """
    benchmark = benchmarks()[name]
    _check_folder(options.out)
    found = find_files(benchmark, options.source, announce)
    items = read_items(benchmark, found, announce)
    engine = ScoringEngine.open(store, run_id, options.backbone, announce=announce)
    start = time.monotonic()
    try:
        scoring = _Scoring(engine, items, options.taste)
        with progress_bar(len(items), "scoring", "row") as advance:
            for _ in scoring.rows():
                advance(1)
    finally:
        engine.close()
    seconds = time.monotonic() - start
    written = _write(benchmark, scoring.scored, _model(engine), options.out)
    scored = [one for _, one in scoring.scored]
    whole = [one for one in scored if one.complete]
    scores = benchmark.measure(scored)
    return BenchmarkReport(
        run=engine.heads.run.id,
        features=engine.heads.fitted.features.id,
        benchmark=name,
        title=benchmark.title,
        source=found.label,
        taste={key: value if isinstance(value, str) else list(value) for key, value in options.taste.named.items()},
        rows=len(items),
        overall=scores.overall,
        subsets=scores.subsets,
        sections=scores.sections,
        figures=scores.figures,
        missing=_missing(scores.subsets),
        **scoring.responses.told(),
        rows_without_reward=len(scored) - len(whole),
        overall_without_them=benchmark.measure(whole).overall,
        profiles=scoring.profiles,
        differs=[*benchmark.differs, *_about_texts(benchmark, scoring)],
        files=written,
        seconds=seconds,
        tokens_forwarded=engine.forwarded_tokens,
    )


class _Scoring:
    """Scores rows and counts what became of their responses."""

    def __init__(self, engine: ScoringEngine, items: list[Item], taste: Taste) -> None:
        self._engine, self._items, self._taste = engine, items, taste
        by_profile = taste == Taste() and engine.heads.reads_contexts and any(one.profile for one in items)
        self._profiles = Profiles(engine) if by_profile else None
        if self._profiles is None:
            engine.heads.check(taste)
        self.scored: list[tuple[Item, ScoredItem]] = []
        self.responses = ResponseCounts()

    @property
    def profiles(self) -> dict[str, int]:
        """Return how many rows' profiles were read whole, cut, and not read."""
        return {} if self._profiles is None else {key: self._profiles.counts[key] for key in ("whole", "cut", "unread")}

    def rows(self) -> Iterator[Item]:
        """Score rows in order; yield each when it is done."""
        for item, found in zip(self._items, self._engine.stream(map(self._candidates, self._items)), strict=True):
            self._add(item, found)
            yield item

    def _candidates(self, item: Item) -> Candidates:
        taste = self._taste
        if self._profiles is not None:
            taste = replace(taste, context=self._profiles.context(item))
        return Candidates(item.prompt, item.chosen + item.rejected, taste, together=True)

    def _add(self, item: Item, found: Rewarded) -> None:
        rewards, right = found.rewards, len(item.chosen)
        self.scored.append((item, ScoredItem(item.id, item.subset, item.prompt, rewards[:right], rewards[right:])))
        self.responses.add(found)


def _missing(subsets: list[SubsetScore]) -> list[str]:
    """Return which subsets are not whole; the levels of a domain are the same rows."""
    found = [one for one in subsets if one.expected is not None and one.n != one.expected]
    return list(dict.fromkeys(f"{one.subset.partition(', ')[0]}: {one.n:,} of {one.expected:,}" for one in found))


def _about_texts(benchmark: Benchmark, scoring: _Scoring) -> list[str]:
    """Return what people and missing rewards count for, where there were any."""
    lines = []
    if scoring.profiles:
        lines.append(
            "its script for reward models shows them no profile; this run reads contexts, so each person's first posts "
            "are its context, as many of the first ten as fit, in the row's order (other scripts of it sort them by "
            "how near they are to the question)"
        )
    elif any(item.profile for item, _ in scoring.scored):
        lines.append("profiles were not read, as in its script for reward models")
    if scoring.responses.reasons:
        lines.append(
            f"{benchmark.title}'s scripts score every text, cut where it is long; a response without a reward counts "
            "here as a score that is not a number does there: its row, or each comparison with it, is wrong"
        )
    return lines


def _model(engine: ScoringEngine) -> ModelFacts:
    template = engine.heads.fitted.features.settings["template"]
    return ModelFacts(f"micropref/{engine.heads.run.id}", "tokenizer" if template == "chat" else str(template))


def _check_folder(out: Path | None) -> None:
    """Raise BadInput where no folder of results can be written."""
    if out is not None:
        check_folder_of(out)
        if out.exists() and not out.is_dir():
            raise BadInput(f"{out}: found a file; expected a folder for files of results")


def _write(benchmark: Benchmark, scored: Scored, model: ModelFacts, out: Path | None) -> list[str]:
    """Write the files of results, each whole or not at all; those of an earlier time are replaced."""
    if out is None:
        return []
    written = []
    for name, content in benchmark.files(scored, model).items():
        write_bytes(out / name, content.encode())
        written.append(str(out / name))
    return written
