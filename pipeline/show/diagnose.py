"""Whether personalisation is worth it, as one line and the figures behind it."""

from __future__ import annotations

from micropref.pipeline.people.diagnose import Diagnosis, Gain, UnitDiagnosis
from micropref.pipeline.show.tables import counted, show_rows


def show_diagnosis(diagnosis: Diagnosis) -> str:
    """Return a line for each kind of unit, then what each prediction costs and what is gained by how many pairs."""
    rows = [
        {
            "by": one.kind,
            "units": f"{one.units:,}",
            "pairs each": f"{one.pairs_per_unit:,.0f}",
            "scored": f"{one.scored:,}",
            "single NLL": f"{one.single_nll:.4f}",
            "known NLL": f"{one.unit_nll:.4f}",
            "gain over single": _with_interval(one.over_single),
            "over nobody known": _with_interval(one.over_nobody),
            "over a stranger": _with_interval(one.over_stranger),
            "β": f"{one.beta:g}",
        }
        for one in diagnosis.units
    ]
    lines = [_verdict(diagnosis, one) for one in diagnosis.units]
    about = [
        f"nats per pair on test prompts, worth is the least of the three gains; K = {diagnosis.k}; 95 % intervals over "
        f"{'; '.join(_resampled(diagnosis))}",
        *(_curve(one) for one in diagnosis.units if one.by_count),
    ]
    return "\n".join(lines) + "\n\n" + show_rows(rows) + "\n" + "\n".join(about) + "\n"


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


def _with_interval(gain: Gain) -> str:
    return f"{gain.mean:+.4f} ({gain.low:+.3f} to {gain.high:+.3f})"
