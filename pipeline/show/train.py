"""Trained runs and sweeps as text, and their progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.runs.records import router_input
from micropref.pipeline.progress import progress_bar
from micropref.pipeline.show.figures import about_scale, accuracy, counted, with_error
from micropref.pipeline.show.groups import about_units, known_columns
from micropref.pipeline.show.lines import next_evaluation, paragraphs
from micropref.pipeline.show.tables import show_rows

if TYPE_CHECKING:  # the commands that list and verify have no need of torch
    from micropref.heads.fitting.settings import FitProgress
    from micropref.pipeline.training.sweep import Swept
    from micropref.pipeline.training.train import Trained


ROUTER_READS = {
    "prompt": "the prompt",
    "context": "the context",
    "context+prompt": "context and prompt as one text",
    "difference": "context and prompt as one text, less the prompt",
    "context,prompt": "the context and the prompt",
    "context+prompt or prompt": "context and prompt as one text, or else the prompt",
}
HALF = 0.5
"""Share of agreeing restarts below which it is said what that means."""
LOW_AGREEMENT = (
    "agree: favour the same head on the same pairs; {others} found other groups, so accuracy may be as good, "
    "but do not read much into what a single head stands for"
)


def show_training(trained: Trained, store: Path | None = None) -> str:
    """Return the run's id and the figures it was chosen by."""
    record = trained.record
    known = about_units(record)
    # The range is of the figures that restarts are chosen by, so it stands behind those.
    by_known = "validation_nll_known" in record
    chosen = _restarts(trained)
    contextless = record["pairs_without_context"]
    in_use = f", {record['effective_heads']:.2f} heads in use" if record["k"] > 1 else ""
    lines = [
        f"run {trained.run}: {', '.join(_model(record))}",
        f"{record['train_pairs']:,} pairs to fit, {record['validation_pairs']:,} to validate"
        f"{f' ({contextless:,} without context: they have weights of their own)' if contextless else ''}"
        f"{', streamed from disk' if record['streamed'] else ''}",
        f"validation NLL {with_error(record['validation_nll'], record['validation_nll_se'])}, "
        f"accuracy {accuracy(record['validation_accuracy'])}{in_use}",
        *([] if by_known else chosen),
    ]
    if by_known and chosen:
        known += [f"chosen by that: {chosen[0]}", *chosen[1:]]
    lines += [*known, *_about_choice(record.get("router_choice")), *_about_heads(record)]
    return paragraphs(lines) + next_evaluation(trained.run, trained.splits, store)


def _model(record: dict[str, Any]) -> list[str]:
    """Return the method and those of its settings that it uses."""
    method, fitted_heads = record["method"], record["settings"]["k"]
    facts = [method, f"K = {record['k']}"]
    if fitted_heads == 1 or method not in ("mixture", "static"):
        return [*facts, "no router"]
    facts.append(f"λ = {record['lam']:g}")
    reads_text = method == "mixture" and record["k"] > 1
    return [*facts, f"router reads {ROUTER_READS[router_input(record)]}" if reads_text else "no router"]


def _restarts(trained: Trained) -> list[str]:
    """Return what is kept of several restarts; nothing where there was one."""
    nlls = sorted(restart["validation_nll"] for restart in trained.restarts)
    share = trained.record["restarts_agreeing"]
    if len(nlls) == 1 or share is None:
        return []
    merged = trained.record.get("merged", 1)
    span = f"({nlls[0]:.4f} to {nlls[-1]:.4f})"
    if merged > 1:
        lines = [f"the best {merged} of {len(nlls)} restarts {span} merged; {share:.0%} of all agree with the result"]
    else:
        lines = [f"best of {len(nlls)} restarts {span}; {share:.0%} of the others agree with it"]
    others = len(nlls) - (merged == 1)
    if share < HALF:
        lines.append(LOW_AGREEMENT.format(others=counted(round((1 - share) * others), "restart")))
    return lines


def _about_choice(found: dict[str, Any] | None) -> list[str]:
    """Return what the rule took for the router to read, and why; nothing where it had nothing to choose."""
    if found is None:
        return []
    if found["reason"] == "not tried":
        return ["the router reads the context alone: the prompt next to it takes more --memory, so that was not tried"]
    change = f"changes validation NLL by {_change(found['ahead'], found['ahead_se'])}"
    if found["reason"] == "not ahead":
        return [f"the router reads the context alone: the prompt next to it {change}"]
    held = ", and too few contexts repeat to hold any out"
    if found["held_out"] is not None:
        contexts = counted(found["contexts"], "context")
        held = f", by {_change(found['held_out'], found['held_out_se'])} on {contexts} that were not fitted"
    if found["reason"] in ("ahead", "ahead on new"):
        return [f"the router reads the prompt next to the context, which {change}{held}"]
    return [
        "the router reads the context alone; not decidable whether it should read the prompt next to it, which "
        f"{change}{held}: --router-input context,prompt does"
    ]


def _change(gain: float, error: float | None) -> str:
    """Return how an NLL changes by a gain, with its standard error where that is known."""
    return f"{-gain:+.4f}" + ("" if error is None else f" ± {error:.4f}")


def _about_heads(record: dict[str, Any]) -> list[str]:
    """Return what a person should know of a saved run's width and heads, nothing where all is well."""
    lines = []
    lines += about_scale(record)
    if record["streamed"] and record["method"] == "single":
        lines.append(
            "fitted in minibatches, L2 as given: choosing it on validation reads all pairs at once, so raise --memory"
        )
    if record.get("c") is not None:
        chosen = f"C = {record['c']:.3g}" if record["c"] else "no training, better than any C"
        by = f", chosen on validation among {len(record['path'])}" if len(record["path"]) > 1 else ""
        lines.append(f"scikit-learn, {chosen}{by}")
    if record["widths_tried"]:
        tried = ", ".join(f"{width}: {value:.4f}" for width, value in record["widths_tried"].items())
        lines.append(f"fitted on {record['fit_width']} components (validation NLL by width: {tried})")
    asked = record["settings"]["projection"]
    if asked.isdecimal() and int(asked) > record["fit_width"]:
        lines.append(f"--projection {asked} projects nothing: the vectors have {record['fit_width']:,} dimensions")
    if record["dead_heads"]:
        lines.append(f"dead heads, next to no weight anywhere: {', '.join(map(str, record['dead_heads']))}")
    for first, second, correlation in record["duplicate_heads"]:
        lines.append(f"heads {first} and {second} predict alike (correlation {correlation:.3f})")
    if record["pruned"] is not None:
        removed, before = record["pruned"]["removed"], record["pruned"]["before"]
        lines.append(
            f"pruned {len(removed)} of {len(removed) + record['k']} heads: validation accuracy "
            f"{before['validation_accuracy']:.4f} before, {record['validation_accuracy']:.4f} after"
        )
    elif record["duplicate_heads"]:
        lines.append("--prune 0.95 removes duplicates")
    return lines


def show_sweep(swept: Swept, store: Path | None = None) -> str:
    """Return a row for each K and λ, what K was chosen by, and the saved run."""
    record = swept.record
    regularised = {row["lam"] for row in swept.leaderboard if row["k"] > 1} != {0.0}
    rows = [
        {
            "K": row["k"],
            **({"λ": f"{row['lam']:g}" if row["k"] > 1 else ""} if regularised else {}),
            **known_columns(row),
            "validation NLL": with_error(row["validation_nll"], row["validation_nll_se"]),
            "accuracy": accuracy(row["validation_accuracy"]),
            "heads in use": f"{row['effective_heads']:.2f}",
            "restarts that agree": "" if row["restarts_agreeing"] is None else f"{row['restarts_agreeing']:.0%}",
        }
        for row in swept.leaderboard
    ]
    by_k = ", ".join(f"{one.size}: {with_error(one.nll, one.nll_se)}" for one in swept.by_k)
    strength = f"λ = {record['lam']:g}, " if regularised and record["k"] > 1 else ""
    shares = [row["restarts_agreeing"] for row in swept.leaderboard if row["restarts_agreeing"] is not None]
    lines = [
        f"validation NLL by K, with its standard error over prompts: {by_k}",
        f"run {swept.run}: K = {record['k']}, the smallest within one standard error of the best, {strength}"
        f"seed {record['seed']}, of {counted(swept.settings, 'setting')}",
        *([LOW_AGREEMENT.format(others="restarts of some settings")] if min(shares, default=1) < HALF else []),
        *about_units(record),
        *_about_heads(record),
        "test accuracy of every setting: in the view leaderboard; nothing was chosen by it"
        if swept.untested is None
        else f"no test accuracy of the settings: {swept.untested}",
    ]
    return show_rows(rows) + paragraphs(lines) + next_evaluation(swept.run, swept.splits, store)


@contextmanager
def training_progress() -> Iterator[Callable[[FitProgress], None]]:
    """Yield what shows epochs as they pass, a bar for each fit; settings that stop early make it leap."""
    with ExitStack() as bar:
        advance: list[Callable[[int], None]] = []
        shown = 0

        def show(now: FitProgress) -> None:
            nonlocal shown
            done = (now.chunk - 1) * now.epochs + now.epoch
            if not advance or done <= shown:
                bar.close()
                advance[:] = [bar.enter_context(progress_bar(now.chunks * now.epochs, "training", "epoch"))]
                shown = 0
            advance[0](done - shown)
            shown = done

        yield show
