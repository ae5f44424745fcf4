"""Whether personalisation is worth it, as one line and the figures behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from micropref.pipeline.people.diagnose import Diagnosis, Gain, UnitDiagnosis
from micropref.pipeline.show.figures import accuracy, counted, few_clusters, gain_with_interval
from micropref.pipeline.show.lines import next_step, paragraphs
from micropref.pipeline.show.tables import show_rows

LATENT = {"user": "user", "user and context": "user", "context": "context"}
"""--latent that gives each unit of a kind its group; attributes are known by the contexts that a router reads."""


def show_diagnosis(diagnosis: Diagnosis, store: Path | None = None) -> str:
    """Return a line for each kind of unit, then what each prediction costs and what is gained by how many pairs."""
    rows = [
        {
            "by": one.kind,
            "units": one.units,
            "pairs each": f"{one.pairs_per_unit:,.0f}",
            "scored": one.scored,
            "single NLL": accuracy(one.single_nll),
            "known NLL": accuracy(one.unit_nll),
            "β": f"{one.beta:g}",
        }
        for one in diagnosis.units
    ]
    about = [
        f"single: one reward for everybody; known: groups' heads, each unit known by its pairs to fit, which count β; "
        f"K = {diagnosis.k}",
        f"gains in nats per pair on test prompts, worth is the least of the three; 95 % intervals over "
        f"{'; '.join(_resampled(diagnosis))}",
        *dict.fromkeys(line for one in diagnosis.units for line in few_clusters(one.clusters)),
        *(_curve(one) for one in diagnosis.units if one.by_count),
    ]
    gains = show_rows([row for one in diagnosis.units for row in _gains(one)], keys=2)
    ending = next_step("train", diagnosis.data, *_best_model(diagnosis), store=store)
    return f"{paragraphs(diagnosis_verdicts(diagnosis))}\n{show_rows(rows)}\n{gains}\n{paragraphs(about)}\n{ending}"


def diagnosis_verdicts(diagnosis: Diagnosis) -> list[str]:
    """Return whether personalisation is worth it, a line for each kind of unit."""
    verdicts = [_verdict(diagnosis, one) for one in diagnosis.units]
    verdicts += [f"{diagnosis.data}, by {kind}: not known: {reason}" for kind, reason in diagnosis.left_out.items()]
    if not any(one.worth_it == "yes" for one in diagnosis.units):
        verdicts.append("a single reward is enough for this data as it is")
    return verdicts


def diagnosis_gains(one: UnitDiagnosis) -> tuple[tuple[str, Gain], ...]:
    """Return what knowing the units of a kind is worth over each prediction that does not."""
    return (
        ("a single reward", one.over_single),
        ("nobody known", one.over_nobody),
        (f"another {one.kind}'s choices", one.over_stranger),
    )


def _best_model(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Return the options of `train` that make the most of what is worth knowing."""
    paying = [one for one in diagnosis.units if one.worth_it == "yes"]
    if not paying:
        return "--method", "single"
    kind = max(paying, key=lambda one: one.worth).kind
    latent = ("--latent", LATENT[kind]) if kind in LATENT else ()
    return (*latent, "--k", str(diagnosis.k))


def _gains(one: UnitDiagnosis) -> Iterator[dict[str, Any]]:
    for over, gain in diagnosis_gains(one):
        yield {
            "by": one.kind,
            "gain over": over,
            "nats per pair (95 %)": gain_with_interval(gain.mean, gain.low, gain.high),
        }


def _verdict(diagnosis: Diagnosis, one: UnitDiagnosis) -> str:
    """Return in one line whether knowing units of a kind is worth it."""
    more = (
        f"; about {counted(one.more_pairs, 'more pair')} for each {one.kind} would settle it" if one.more_pairs else ""
    )
    gained = f"knowing the {one.kind} is worth {one.worth:+.3f} nats per pair"
    return f"{diagnosis.data}, by {one.kind}: {one.worth_it}: {gained}{more}"


def _resampled(diagnosis: Diagnosis) -> list[str]:
    return [f"{one.resampled} (by {one.kind})" for one in diagnosis.units]


def _curve(one: UnitDiagnosis) -> str:
    gains = ", ".join(f"{count}: {gain:+.3f}" for count, gain in one.by_count.items())
    everything = min(one.over_single.mean, one.over_nobody.mean)
    return f"gain by pairs of each {one.kind} to learn from: {gains}, all: {everything:+.3f}"
