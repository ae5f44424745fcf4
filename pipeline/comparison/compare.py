"""Every method of the paper side by side: the same cached features, the same scored pairs.

Letters: S seeds, n scored pairs, A groups (attributes).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.store import StoreFolder
from micropref.heads.evaluation.comparison import Comparison, compare, group_means
from micropref.heads.methods.registry import methods
from micropref.pipeline.comparison.entries import REFERENCE, Entry, entries
from micropref.pipeline.comparison.experiment import Experiment, ExperimentOptions
from micropref.pipeline.comparison.prediction import Prediction
from micropref.pipeline.comparison.published import Published, published
from micropref.pipeline.comparison.sections import sections_of
from micropref.pipeline.options import Paper
from micropref.pipeline.progress import Announce

AVERAGE = "average"


@dataclass(frozen=True)
class ComparedRow:
    """One method's figures by attribute, and their mean over attributes as `average`."""

    system: str
    """Name as in `methods`."""
    title: str
    supervision: str
    """What it learns from."""
    accuracy: dict[str, float]
    """Mean over seeds."""
    deviation: dict[str, float | None]
    """Standard deviation over seeds; None for a single one."""
    low: dict[str, float]
    """Lower end of the 95 % interval, seeds averaged."""
    high: dict[str, float]
    difference: dict[str, float]
    """Accuracy less that of the single reward."""
    difference_low: dict[str, float]
    """Lower end of its interval, of paired differences; a single one, not adjusted for the number of rows."""
    difference_high: dict[str, float]
    difference_p: float
    """Of no difference in the average, adjusted for the number of rows (Holm); 1 for the single reward itself."""
    nll: float
    """Of all scored pairs, mean over seeds, in nats per pair; log-odds are multiplied by `scale` first."""
    scale: float
    """Chosen on validation pairs for each seed, their mean; 0: no signal there."""
    published: dict[str, float]
    """The paper's figures for the same attributes, where they were asked for and there are any."""
    sections: dict[str, float]
    """RewardBench's sections and their average, by its own metric, where the attributes are its subsets."""
    seconds: float
    """What fitting and scoring took; a row that reuses another's models does not count them."""


@dataclass(frozen=True)
class PublishedHead:
    """Figures of the paper that no row here is like, on another backbone: those of one of MiCRo's heads."""

    title: str
    source: str
    """Table of the paper."""
    accuracy: dict[str, float]
    """By those of our attributes that it has."""


@dataclass(frozen=True)
class Compared:
    """The result of `compare`."""

    data: str
    """Data set trained on."""
    scored_on: str
    """Data set whose pairs are scored."""
    split: str
    features: str
    k: int
    lam: float | None
    """λ of mixtures; None: what `train` has by default."""
    seeds: int
    shots: int
    """Labelled pairs for each attribute of methods that adapt to them."""
    shots_from: str
    budget: int
    """Pairs with context for each attribute that MiCRo's router learns from."""
    budget_from: str
    scored: dict[str, int]
    """Scored pairs of each attribute."""
    prompts: int
    """Prompts they belong to."""
    clusters: dict[str, int]
    """Users, prompts and wordings of contexts that intervals are over, the fewest of any figure; wordings for methods
    that read contexts."""
    rows: list[ComparedRow]
    skipped: dict[str, str]
    """Methods that the data does not allow, and why."""
    groups_left_out: dict[str, int]
    """Attributes with too few pairs to sample shots and score the rest, and how many they have."""
    paper: Paper | None
    protocol: list[str]
    """How the paper did it, and where it disagrees with itself; empty where no table was asked for."""
    published_heads: list[PublishedHead]
    """Of the table asked for."""
    warnings: list[str]
    """What too few choices of each person mean for the methods that learn from them."""


@holds(data="name")
def run_comparison(
    store: StoreFolder, name: str, wanted: Sequence[str] | None, options: ExperimentOptions, announce: Announce
) -> Compared:
    """Fit and score methods (None: all) on one data set, or train on it and score on another.

    A method that the data does not allow is left out with its reason, unless it was asked for by name. Raises
    BadInput for unknown methods, missing splits, and more shots or budget than there are pairs.
    """
    chosen = _chosen(wanted)
    experiment = Experiment(store, name, options, announce)
    predicted: dict[str, list[Prediction]] = {}
    seconds: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for entry in chosen:
        start = time.monotonic()
        try:
            predicted[entry.name] = entry.predict(experiment)
        except BadInput as error:
            if wanted is not None and entry.name in wanted:
                raise
            skipped[entry.name] = str(error)
            continue
        seconds[entry.name] = time.monotonic() - start
        hit = torch.stack([one.right() for one in predicted[entry.name]]).mean()
        announce(f"{entry.title}: {float(hit):.4f} of scored pairs")
    right = {name: torch.stack([one.right() for one in seeds]) for name, seeds in predicted.items()}
    found = compare(
        torch.stack([one.mean(0) for one in right.values()]),
        experiment.scored_group,
        [experiment.sides(reads_contexts=entry.reads_contexts) for entry in chosen if entry.name in right],
        list(right).index(REFERENCE),
    )
    table = published(options.paper) if options.paper else None
    rows = []
    for place, entry in enumerate(one for one in chosen if one.name in right):
        paper = {} if table is None else {g: table.value(entry.name, g) for g in (*experiment.groups, AVERAGE)}
        theirs = {group: value for group, value in paper.items() if value is not None}
        rows.append(_row(entry, predicted[entry.name], found, place, experiment, theirs, seconds[entry.name]))
    counts = torch.bincount(experiment.scored_group, minlength=len(experiment.groups)).tolist()
    return Compared(
        data=name,
        scored_on=experiment.target.name,
        split=options.split,
        features=experiment.features.id,
        k=experiment.method_options.k,
        lam=experiment.method_options.lam,
        seeds=options.seeds,
        shots=options.shots,
        shots_from=options.split,
        budget=options.budget,
        budget_from=experiment.budget_from,
        scored=dict(zip(experiment.groups, counts, strict=True)),
        prompts=experiment.table[experiment.rows.numpy()]["prompt_id"].n_unique(),
        clusters=found.clusters,
        rows=rows,
        skipped=skipped,
        groups_left_out=experiment.left_out,
        paper=options.paper,
        protocol=[] if table is None else [*table.protocol, *table.disagreements],
        published_heads=[] if table is None else _published_heads(table, experiment.groups),
        warnings=_few_choices(experiment, predicted),
    )


def _published_heads(table: Published, groups: Sequence[str]) -> list[PublishedHead]:
    found = []
    for row in table.rows:
        values = {group: table.value(row.method, group) for group in groups}
        known = {group: value for group, value in values.items() if value is not None}
        if row.title is not None and known:
            found.append(PublishedHead(row.title, table.source, known))
    return found


def _few_choices(experiment: Experiment, predicted: Collection[str]) -> list[str]:
    """Return the warnings of all methods that learn from annotators, each said once."""
    learn = [name for name in methods() if name in predicted and "units" in methods()[name].needs]
    said: dict[str, list[str]] = {}
    for name in learn:
        data = experiment.training(methods()[name].needs, "prompt")
        for warning in data.warnings(name):
            said.setdefault(warning, []).append(methods()[name].title)
    return [f"{', '.join(titles)}: {warning}" for warning, titles in said.items()]


def _chosen(wanted: Sequence[str] | None) -> list[Entry]:
    known = entries()
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise BadInput(f"methods has {unknown[0]!r}: expected all, or any of {', '.join(known)}")
    return [one for one in known.values() if wanted is None or one.name in {*wanted, REFERENCE}]


def _row(
    entry: Entry,
    predicted: Sequence[Prediction],
    found: Comparison,
    place: int,
    experiment: Experiment,
    theirs: dict[str, float],
    seconds: float,
) -> ComparedRow:
    columns = (*experiment.groups, AVERAGE)
    by_seed = group_means(torch.stack([one.right() for one in predicted]), experiment.scored_group)
    deviations = by_seed.std(0).tolist() if len(by_seed) > 1 else [None] * len(columns)

    def named(figures: torch.Tensor) -> dict[str, float]:
        return dict(zip(columns, figures[place].tolist(), strict=True))

    return ComparedRow(
        system=entry.name,
        title=entry.title,
        supervision=entry.learns_from(experiment),
        accuracy=named(found.accuracy),
        deviation=dict(zip(columns, deviations, strict=True)),
        low=named(found.low),
        high=named(found.high),
        difference=named(found.difference),
        difference_low=named(found.difference_low),
        difference_high=named(found.difference_high),
        difference_p=found.p_value[place],
        nll=statistics.fmean(one.nll() for one in predicted),
        scale=statistics.fmean(one.scale() for one in predicted),
        published=theirs,
        sections=sections_of(predicted, experiment.scored_group, experiment.groups),
        seconds=seconds,
    )
