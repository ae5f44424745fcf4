"""`score`: the rewards of a file's responses, row by row."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.pipeline.progress import Announce, progress_bar
from micropref.pipeline.rewards.scoring.candidates import Candidates, ResponseCounts, Rewarded, without_reward
from micropref.pipeline.rewards.scoring.grouping import candidates_of, followed, grouped, unused_warnings
from micropref.pipeline.rewards.scoring.options import BackboneOptions
from micropref.pipeline.rewards.scoring.rows import AskedRow, asked_rows
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.tables import RowWriter, check_output, row_writer
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.sources.pairs import plain

ADDED = ("reward", "heads", "weights", "p_chosen", "best", "reason")
"""Columns that scoring adds to a row."""


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `score`."""

    taste: Taste = field(default_factory=Taste)
    """By whose taste rows are scored that name nobody themselves."""
    best_of: bool = False
    """Whether only the best response to each prompt is written."""
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    """How the backbone is loaded."""


@dataclass(frozen=True)
class ScoreReport:
    """What `score` did."""

    run: str
    """The run whose heads these are."""
    features: str
    """Features id: how texts were read."""
    out: str
    """Where the rows went; - is standard output."""
    rows: int
    """Rows read."""
    responses: int
    """Responses in them."""
    rewarded: int
    """Responses that have a reward."""
    trimmed: int
    """Of these, responses whose prompt was cut from the left."""
    without_reward: dict[str, int]
    """Why others have none -> how many; a row that cannot be read is one."""
    contexts_unused: int
    """Rows whose context the run does not read."""
    users_unused: int
    """Rows whose user the run, which knows no people, cannot follow."""
    best: int
    """Responses that are the best of their prompt, where only these are written."""
    seconds: float
    """Wall time of scoring."""
    tokens_forwarded: int
    """Tokens that the backbone read."""


@holds(run="run_id")
def score(
    store: StoreFolder, run_id: str, source: str, out: str, options: ScoreOptions, announce: Announce = lambda _: None
) -> ScoreReport:
    """Score the responses of a file, or of JSON Lines on standard input (`-`), and write each row with its rewards.

    Raises BadInput where the run gives no rewards, the taste is unknown or the file holds no responses.
    """
    check_output(out)
    engine = ScoringEngine.open(store, run_id, options.backbone, announce=announce)
    start = time.monotonic()
    try:
        with row_writer(out) as write, progress_bar(None, "scoring", "response") as advance:
            tally = _Tally(engine, options, write)
            for count in tally.rows(asked_rows(source, options.taste)):
                advance(count)
    finally:
        engine.close()
    heads, counts = engine.heads, tally.counts
    for line in unused_warnings(counts, heads.run.id):
        announce(line)
    return ScoreReport(
        run=heads.run.id,
        features=heads.fitted.features.id,
        out=out,
        rows=counts["rows"],
        best=counts["best"],
        contexts_unused=counts["contexts_unused"],
        users_unused=counts["users_unused"],
        **tally.responses.told(),
        seconds=time.monotonic() - start,
        tokens_forwarded=engine.forwarded_tokens,
    )


class _Tally:
    """Scores rows, writes them, and counts what became of them."""

    def __init__(self, engine: ScoringEngine, options: ScoreOptions, write: RowWriter) -> None:
        engine.heads.check_given(options.taste)
        self._engine, self._options, self._write = engine, options, write
        self.counts: Counter[str] = Counter()
        self.responses = ResponseCounts()

    def rows(self, asked: Iterable[AskedRow]) -> Iterator[int]:
        """Score and write rows in order; yield how many responses were done."""
        waiting: deque[list[AskedRow]] = deque()

        def candidates() -> Iterator[Candidates]:
            for group in grouped(map(self._usable, asked), by_prompt=self._options.best_of):
                waiting.append(group)
                yield candidates_of(group)

        for found in self._engine.stream(candidates()):
            group = waiting.popleft()
            self._add(group, found if found.rewards or group[0].candidates else without_reward(1, _reason(group[0])))
            yield len(found.rewards)

    def _usable(self, row: AskedRow) -> AskedRow:
        """Count a row, and leave out of its taste what the run cannot follow."""
        self.counts["rows"] += 1
        if taken := sorted(row.values.keys() & set(ADDED)):
            raise BadInput(
                f"row {self.counts['rows']} has a column {taken[0]!r} already, which scoring adds: rename it"
            )
        if row.candidates is None:
            return row
        usable = followed(row.candidates, self._engine.heads, self._options.taste, self.counts)
        return replace(row, candidates=usable)

    def _add(self, group: list[AskedRow], found: Rewarded) -> None:
        """Write a group's rows and count."""
        self.responses.add(found)
        if self._options.best_of and found.best is not None:
            self.counts["best"] += 1
            self._write(_best_row(group, found, found.best))
            return
        first = group[0]
        if first.shape == "response" and first.candidates is not None:
            for at, row in enumerate(group):
                self._write({**row.values, **_added(found, at)})
        else:
            self._write({**first.values, **_added(found, None if first.candidates else 0)})


def _reason(row: AskedRow) -> str:
    return row.reason or "cannot be read"


def _added(found: Rewarded, at: int | None) -> dict[str, Any]:
    """Return the columns of one response, or of all responses of a row."""
    if at is not None:
        return {
            "reward": found.rewards[at],
            "heads": found.heads[at],
            "weights": found.weights,
            "reason": found.reasons[at],
        }
    return {
        "reward": found.rewards,
        "heads": found.heads,
        "weights": found.weights,
        **({"p_chosen": found.p_first} if len(found.rewards) == 2 else {}),
        "best": found.best,
        "reason": None if not any(found.reasons) else found.reasons,
    }


def _best_row(group: list[AskedRow], found: Rewarded, best: int) -> dict[str, Any]:
    """Return the row of a prompt's best response."""
    row = group[best] if len(group) > 1 else group[0]
    values = dict(row.values)
    if row.shape != "response" and row.candidates is not None:
        values = {name: value for name, value in values.items() if name not in ("responses", "chosen", "rejected")}
        values["response"] = plain(row.candidates.responses[best])
    return {**values, **_added(found, best), "best": best}
