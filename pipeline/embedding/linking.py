"""From stored vectors to a data set's parts and links: what `embed` and `import-vectors` have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from micropref.cache.choices import TEST, TRAIN
from micropref.cache.commits import Commit, commit, write_table
from micropref.cache.datasets import Dataset, linked_keys
from micropref.cache.errors import Damaged, Failure
from micropref.cache.maintenance.leases import Leases
from micropref.cache.schemas import KEY_COLUMNS, KEY_TYPE, LINK_SCHEMA
from micropref.cache.store import StoreFolder, check_name
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import whole_features
from micropref.pipeline.options import OnBad
from micropref.pipeline.progress import Announce
from micropref.pipeline.sources.earlier import FIRST_VERSION, reading_of_source
from micropref.pipeline.sources.ingest import SourceOptions, grown_parts, read_sources
from micropref.pipeline.sources.locations import Located
from micropref.pipeline.sources.pairs import Reject
from micropref.pipeline.sources.parts import Incoming, write_numbered, write_rejects
from micropref.pipeline.sources.rows import READING
from micropref.pipeline.sources.vector_columns import VectorColumns

SET_ASIDE = "set_aside"
"""Where the record of links counts pairs that have no vectors though they fit, by reason."""
ROUNDS = 3
"""How often vectors that vanish while a command runs are stored again."""

Flags = npt.NDArray[np.bool_]


class NumberedTexts(Protocol):
    """The distinct texts of N pairs, and which of them each pair needs."""

    @property
    def keys(self) -> list[bytes]:
        """Return each text's content address."""

    @property
    def lengths(self) -> Sequence[int]:
        """Return each text's tokens; empty where nobody counted them."""

    @property
    def roles(self) -> npt.NDArray[np.int64]:
        """Return the text [roles, N] of each pair in the role of each of KEY_COLUMNS, -1: none."""

    @property
    def trimmed(self) -> Flags:
        """Return which pairs' [N] prompt was cut."""

    @property
    def overlong(self) -> Flags:
        """Return which pairs [N] do not fit and have no texts."""

    @property
    def set_aside(self) -> Mapping[int, str]:
        """Return which other pairs have no texts -> why, beginning with the class that this is counted under."""

    @property
    def indistinguishable(self) -> Flags:
        """Return which pairs' [N] two responses are the same to the backbone."""

    @property
    def special(self) -> Flags:
        """Return which pairs' [N] texts hold the strings of control tokens, read as text."""

    @property
    def lost(self) -> Mapping[str, Flags]:
        """Return what the chat template does not write of some pairs' messages → [N] of which."""


def open_to_fill(store: StoreFolder, name: str, announce: Announce) -> Dataset:
    """Open a data set that may not exist yet, without parts whose commit files are damaged: embedding repairs them."""
    dataset = Dataset(check_name("data set", name), store.dataset(name))
    damaged = dataset.damaged_parts()
    for line in damaged.values():
        announce(line)
    return replace(dataset, skip=frozenset(damaged))


def finished_sources(
    dataset: Dataset, features: Features, known: Mapping[Located, list[Commit]], responses: str, on_bad: OnBad
) -> dict[Located, list[Commit]]:
    """Return the sources of which nothing is left to do, with their parts."""
    return {
        one: parts for one, parts in known.items() if parts and _is_linked(dataset, features, parts, responses, on_bad)
    }


def _is_linked(dataset: Dataset, features: Features, parts: list[Commit], responses: str, on_bad: OnBad) -> bool:
    """Say whether every text of these parts has a vector that can be read, or was set aside as `on_bad` allows."""
    for part in parts:
        links = whole_links(dataset, part, features)
        if links is None or links.record["responses"] != responses or links.damage("links", digest=True):
            return False
        if on_bad == "stop" and SET_ASIDE in links.record:
            return False
        if any(part.damage(role, digest=True) for role in part.files):
            return False
        if (features.locate(linked_keys(links)) < 0).any():
            return False
    return True


def whole_links(dataset: Dataset, part: Commit, features: Features) -> Commit | None:
    """Return a part's links; None where there are none, or a damaged commit file, which is written again."""
    try:
        return dataset.links(part, features.id)
    except Damaged:
        return None


def read_unfinished(
    dataset: Dataset,
    known: Mapping[Located, list[Commit]],
    finished: Mapping[Located, list[Commit]],
    sources: SourceOptions,
    announce: Announce,
    vectors: VectorColumns | None = None,
) -> list[Incoming]:
    """Read the other sources as far as this command asks, or as an earlier one already read them, and in its way."""
    unread = {one: parts for one, parts in known.items() if one not in finished}
    marks = {part.record["rows"] for part in dataset.parts if part.record.get("rows_digest") is not None}
    incoming: list[Incoming] = []
    if unread and sources.version < READING:
        announce(FIRST_VERSION)
    for source, parts in unread.items():
        for note in source.notes:
            announce(note)
        earlier = None if sources.replace else reading_of_source(dataset, source)
        own = replace(sources, earlier=earlier)
        limits = own if not parts else replace(own, limit=parts[0].record["limit"])
        found = read_sources([source], limits, vectors, marks)
        if earlier is not None:
            announce(f"{source.name}: columns are read as when it became part of data set {dataset.name!r}")
        if sources.split_by_prompt is not None and {one.split for one in found} != {TRAIN, TEST}:
            announce(f"warning: {source.name}: too few prompts for `split_by_prompt`, one split is empty")
        incoming += found
    for one in incoming:
        losses = "".join(f", {count:,} {reason}" for reason, count in one.dropped.items())
        announce(f"{one.path}: {one.shape} rows; {len(one.pairs):,} pairs for split {one.split}{losses}")
        for what, count in one.record["noted"].items():
            announce(f"{one.path}: {count:,} {what}")
    return incoming


def retired_parts(
    dataset: Dataset,
    sources: SourceOptions,
    incoming: list[Incoming],
    known: Mapping[Located, list[Commit]],
    finished: Mapping[Located, list[Commit]],
    announce: Announce,
) -> list[Commit]:
    """Return the parts that go: those that a source extends, and with `replace` more.

    `replace` removes the parts of these splits whose source was not given again, and what an earlier `split_by_prompt`
    assigned from a given source to a split that it does not fill now.
    """
    unchanged = [part for parts in finished.values() for part in parts]
    given = {one.digest for one in incoming} | {part.record["digest"] for part in unchanged}
    grown = grown_parts(dataset, incoming, given, sources)
    if not sources.replace:
        for part in grown:
            before = f"{part.record['source']}, split {part.record['split']}, which had {part.record['rows']:,} rows"
            announce(f"extends {before}: those rows are the first of it")
        return grown
    splits = {split for one in known for split in sources.splits_of(one)}
    filled = {(one.digest, one.split) for one in incoming}
    filled |= {(part.record["digest"], part.record["split"]) for part in unchanged}

    def ends(part: Commit) -> bool:
        digest, split = part.record["digest"], part.record["split"]
        if digest in given:
            by_prompt = part.record["identity"]["split_by_prompt"] is not None
            return (digest, split) not in filled and (by_prompt or split in splits)
        return split in splits

    return [part for part in dataset.parts if ends(part)]


def forget_damaged(dataset: Dataset, splits: Collection[str]) -> Dataset:
    """Remove the damaged commit files of splits that start over: what they named is replaced."""
    for stem in dataset.damaged_parts():
        if stem.rsplit("-", 2)[0] in splits:
            (dataset.folder / "pairs" / f"{stem}.json").unlink(missing_ok=True)
    return replace(dataset, skip=frozenset(dataset.damaged_parts()))


def store_and_link(
    store: StoreFolder,
    features: Features,
    announce: Announce,
    leased: ExitStack,
    put: Callable[[Leases], Sequence[bytes]],
    link: Callable[[], None],
) -> None:
    """Let `put` store what has no vector yet and return the keys of all texts, then `link` them.

    Shards are leased, which keeps `gc` away from what was stored before, and located again before and after they are
    linked. What is removed all the same, by a `gc --min-age 0` at the same moment, is stored again. Raises
    Failure where that goes on.
    """
    linked = False
    for _ in range(ROUNDS):
        keys = put(leased.enter_context(Leases(features, announce)))
        features, lost = _located(store, features, keys)
        if not lost and not linked:
            link()
            linked = True
            features, lost = _located(store, features, keys)
        if not lost:
            return
        announce(f"{lost:,} vectors went while this command ran, by `gc` it seems: they are stored again")
    raise Failure(
        f"{features.folder}: vectors went {ROUNDS} times while this command ran; stop the `gc` that runs at the same "
        "time, then give the same command again: it goes on from there"
    )


def _located(store: StoreFolder, features: Features, keys: Sequence[bytes]) -> tuple[Features, int]:
    """Return the features as they are now, and how many keys have no vector there."""
    features, _ = whole_features(store, features.settings)
    return features, int((features.locate(pl.Series(keys, dtype=pl.Binary)) < 0).sum())


def commit_parts(
    dataset: Dataset,
    features: Features,
    incoming: list[Incoming],
    plan: NumberedTexts,
    responses: str,
    retired: list[Commit],
) -> Dataset:
    """Write pairs, then the links that say they are embedded, then remove what is replaced; return what is there."""
    start = 0
    for one in incoming:
        part, pair_ids = write_numbered(dataset, one, retired)
        dataset = dataset.reopened(part.stem)
        rows = range(start, start + len(one.pairs))
        folder = dataset.links_folder(features.id)
        files = {"links": write_table(folder, part.stem, "links", link_table(plan, rows, pair_ids))}
        rejects = [
            Reject(one.pairs[row - start].origin, why) for row, why in sorted(plan.set_aside.items()) if row in rows
        ]
        if rejects:
            files["rejects"] = write_rejects(folder, part.stem, rejects)
        record = {
            "pairs_digest": part.files["pairs"].digest,
            "responses": responses,
            **({SET_ASIDE: Counter(one.kind for one in rejects)} if rejects else {}),
            **({"imported": features.imported} if features.imported else {}),
            **{
                name: int(getattr(plan, name)[rows.start : rows.stop].sum())
                for name in ("trimmed", "overlong", "indistinguishable", "special")
            },
            "lost": {what: int(flags[rows.start : rows.stop].sum()) for what, flags in plan.lost.items()},
        }
        commit(folder, part.stem, files, record)
        start = rows.stop
    for part in retired:
        for features_id in dataset.linked_features():
            try:
                links = dataset.links(part, features_id)
            except Damaged:
                (dataset.links_folder(features_id) / f"{part.stem}.json").unlink(missing_ok=True)
            else:
                if links is not None:
                    links.remove()
        part.remove()
    return dataset.reopened()


def link_table(plan: NumberedTexts, rows: range, pair_ids: list[str]) -> pa.Table:
    """Return which vectors the pairs of `rows` became, in the store's schema."""
    lengths = np.array(plan.lengths or [0], dtype=np.int32)
    counted = len(plan.lengths) > 0
    keys = np.array([*plan.keys, None], dtype=object)  # number -1 finds the None at the end
    columns = {column: pa.array(keys[plan.roles[at, rows]], KEY_TYPE) for at, column in enumerate(KEY_COLUMNS)}
    for role in ("prompt", "chosen", "rejected"):
        numbers = plan.roles[KEY_COLUMNS.index(f"{role}_key"), rows]
        if role != "prompt":  # only responses behind a context were wanted
            behind = plan.roles[KEY_COLUMNS.index(f"{role}_context_key"), rows]
            numbers = np.where(numbers >= 0, numbers, behind)
        there = (numbers >= 0) & counted
        columns[f"{role}_tokens"] = pa.array(lengths[np.where(there, numbers, 0)], pa.int32(), mask=~there)
    trimmed = pa.array(plan.trimmed[rows.start : rows.stop])
    return pa.table({"pair_id": pair_ids, **columns, "trimmed": trimmed}, schema=LINK_SCHEMA)
