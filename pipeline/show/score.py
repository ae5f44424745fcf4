"""What `score` did as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from micropref.pipeline.show.lines import paragraphs

if TYPE_CHECKING:
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
    lines += [f"without a reward: {count:,} ({reason})" for reason, count in report.without_reward.items()]
    return paragraphs(lines)
