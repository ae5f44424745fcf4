"""What `score` and `export` did as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropref.pipeline.show.lines import paragraphs, without_reward
from micropref.pipeline.show.tables import show_rows

if TYPE_CHECKING:
    from micropref.pipeline.rewards.exporting.export import ExportReport
    from micropref.pipeline.rewards.scoring.best_of import BestOfReport
    from micropref.pipeline.rewards.scoring.score import ScoreReport


def show_scored(report: ScoreReport) -> str:
    """Return the counts that a person checks before trusting the rewards."""
    rate = f"{report.rewarded / report.seconds:,.0f} a second" if report.seconds > 0 else "at once"
    where = "standard output" if report.out == "-" else report.out
    lines = [
        f"{report.rows:,} rows to {where}: {report.rewarded:,} of {report.responses:,} responses have a reward "
        f"({rate}), run {report.run}, features {report.features}"
    ]
    if report.best:
        lines.append(f"{report.best:,} prompts, with the best response of each")
    if report.trimmed:
        lines.append(f"responses whose prompt was cut to fit: {report.trimmed:,}")
    lines += without_reward(report.without_reward)
    return paragraphs(lines)


def show_best_of(report: BestOfReport) -> str:
    """Return the gains for each n as a table, and what they rest on."""
    rows = [
        {
            "n": one.n,
            "KL, nats": one.divergence,
            "gain by the run (95 %)": _gain(one.gain, one.low, one.high),
            "held-out gain (95 %)": _gain(one.held_out_gain, one.held_out_low, one.held_out_high),
        }
        for one in report.sizes
    ]
    lines = [
        f"best of n by run {report.run}, valued by run {report.held_out} too: {report.prompts:,} prompts, "
        f"{report.responses:,} responses; gains over one response, in standard deviations of a prompt's rewards",
        f"both name the same of all responses the best in {report.agreement:.1%} of prompts",
    ]
    if report.too_few:
        lines.append(f"prompts left out, for few responses or one reward for all: {report.too_few:,}")
    lines += without_reward(report.without_reward)
    return show_rows(rows) + paragraphs(lines)


def _gain(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:+.3f}" if low is None or high is None else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def show_exported(report: ExportReport) -> str:
    """Return where the folder is, how heads are weighed, and what fixing the weights costs."""
    outputs = "one output" if report.outputs == 1 else f"{report.outputs} outputs"
    lines = [f"run {report.run} as {report.kind} in {report.folder}: {outputs}, {report.bytes / 1e6:,.1f} MB"]
    if report.weights:
        mean = f", averaged over {report.averaged_over} prompts" if report.averaged_over else ""
        lines.append("weights of the heads: " + ", ".join(f"{weight:.3f}" for weight in report.weights) + mean)
    accuracies = {
        "the run": report.routed_accuracy,
        "with these weights for every prompt": report.averaged_accuracy,
        "as one head": report.exported_accuracy,
    }
    if known := [f"{name} {value:.3f}" for name, value in accuracies.items() if value is not None]:
        lines.append(f"accuracy on {report.validation_pairs:,} validation pairs: " + "; ".join(known))
    else:
        lines.append("accuracy: not known, no validation pair is of this taste")
    lines.append(
        f"loaded again: the rewards of {report.checked_texts} stored texts differ by at most "
        f"{report.largest_difference:.1g}"
    )
    return paragraphs(lines)
