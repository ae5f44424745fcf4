"""The command line: each command parses, calls one plain function with the same arguments, and prints.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cache.errors import MicroprefError
from cache.store import Store
from pipeline.options import (
    CONTEXT_TEMPLATE,
    DEFAULT_STORE,
    MINILM,
    PINNED_DATE,
    BatchOption,
    DataSeedOption,
    DeviceOption,
    EmbedDtype,
    EpochsOption,
    FeaturesOption,
    FitDtypeOption,
    HiddenOption,
    JsonOption,
    LrOption,
    Method,
    OnBad,
    Overlong,
    Pass,
    PatienceOption,
    Pooling,
    PriorOption,
    ProjectionOption,
    PruneOption,
    Responses,
    RewardInputOption,
    RouterInputOption,
    SeedOption,
    Shape,
    Solver,
    StoreDtype,
    StoreOption,
    SweptMethod,
    TableFormat,
    Template,
    WeightDecayOption,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class _Commands(TyperGroup):
    """Tells errors as one line with their exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MicroprefError as error:
            typer.echo(f"micropref: {error}", err=True)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Learn whose preference a reward is: embed once, then train, evaluate and query mixture reward heads.",
)


def _print(report: DataclassInstance, text: str, *, as_json: bool) -> None:
    """Print a report once: as one JSON object for scripts, as text for people."""
    if as_json:
        value = dataclasses.asdict(report)
        typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False, default=lambda table: table.to_dicts()))
    else:
        typer.echo(text, nl=False)


def _announce(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def embed(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help=".jsonl, .csv, .parquet, folder.")],
    name: Annotated[str, typer.Option("--name", help="Data set to embed into.")],
    split: Annotated[str | None, typer.Option(help="Split of every row.  [default: train]")] = None,
    split_by_prompt: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of prompts that go to test; excludes --split.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="minilm, a folder, or a hub id.")] = MINILM,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    pooling: Annotated[Pooling, typer.Option(help="How a text's vector is made.")] = "auto",
    max_length: Annotated[int | None, typer.Option(help="Most tokens of a text.  [default: the backbone's]")] = None,
    overlong: Annotated[Overlong, typer.Option(help="Cut long prompts, or drop the pair.")] = "trim-prompt",
    template: Annotated[Template, typer.Option(help="Chat template where there is one, or plain.")] = "auto",
    date: Annotated[str, typer.Option(help="Today, to chat templates that ask.")] = PINNED_DATE,
    contexts: Annotated[Path | None, typer.Option(help="JSON: attribute -> sentence or list of sentences.")] = None,
    context_template: Annotated[str, typer.Option(help="How a context goes before a prompt.")] = CONTEXT_TEMPLATE,
    responses: Annotated[Responses, typer.Option(help="Behind which prompt responses are embedded.")] = "plain",
    shape: Annotated[Shape, typer.Option("--format", help="Shape of the rows.")] = "auto",
    dtype: Annotated[EmbedDtype, typer.Option(help="Compute dtype.")] = "auto",
    store_dtype: Annotated[StoreDtype, typer.Option(help="float16 for 16-bit compute, else float32.")] = "auto",
    device: DeviceOption = "auto",
    packing: Annotated[
        Pass, typer.Option("--pass", help="Read each distinct prefix once, each text once, or padded batches.")
    ] = "auto",
    tokens_per_batch: Annotated[int | None, typer.Option(help="Tokens of a batch, padding included.")] = None,
    limit: Annotated[int | None, typer.Option(help="Rows read of each source.")] = None,
    on_bad: Annotated[OnBad, typer.Option(help="What a malformed row does.")] = "stop",
    replace: Annotated[bool, typer.Option("--replace", help="Start the split over with these sources.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the checkpoint's code.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would take; forward and write nothing.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Turn preference data into vectors, once.

    \b
    Example:
      micropref embed pairs.jsonl --name mine
      micropref embed held-out.jsonl --name mine --split test
    """
    from pipeline import embed as stage
    from pipeline.ingest import SourceOptions
    from pipeline.show import show_embedding

    source_options = SourceOptions(split, split_by_prompt, shape, contexts, limit, on_bad, replace)
    options = stage.EmbedOptions(
        backbone=backbone,
        revision=revision,
        pooling=pooling,
        max_length=max_length,
        overlong=overlong,
        template=template,
        date=date,
        context_template=context_template,
        responses=responses,
        dtype=dtype,
        store_dtype=store_dtype,
        device=device,
        packing=packing,
        tokens_per_batch=tokens_per_batch,
        trust_remote_code=trust_remote_code,
    )
    report = stage.embed(Store(store), sources, name, source_options, options, plan_only=plan, announce=_announce)
    _print(report, show_embedding(report, planned=plan), as_json=as_json)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="Data set.")],
    method: Annotated[Method, typer.Option(help="Heads with a router, with static weights, or one head.")] = "mixture",
    k: Annotated[int | None, typer.Option(min=1, help="Reward heads.  [default: 5; 1 for single]")] = None,
    lam: Annotated[float, typer.Option(help="Pull of the mixture weights to uniform.")] = 0.1,
    router_input: RouterInputOption = "auto",
    reward_input: RewardInputOption = "plain",
    hidden: HiddenOption = 128,
    prior: PriorOption = "example",
    epochs: EpochsOption = 20,
    lr: LrOption = 2e-3,
    batch: BatchOption = 2048,
    wd: WeightDecayOption = 0.01,
    l2: Annotated[float, typer.Option(help="Explicit L2 term; scikit-learn's C is 1 / l2.")] = 0.0,
    patience: PatienceOption = 5,
    solver: Annotated[Solver, typer.Option(help="Minibatches, or all pairs to convergence.")] = "adamw",
    projection: ProjectionOption = "none",
    prune: PruneOption = None,
    restarts: Annotated[int, typer.Option(help="Initialisations fitted together; the best is kept.")] = 8,
    seed: SeedOption = 0,
    data_seed: DataSeedOption = 0,
    dtype: FitDtypeOption = "auto",
    device: DeviceOption = "auto",
    features: FeaturesOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Fit reward heads and router on cached features.

    \b
    Example:
      micropref train mine --k 5 --lam 0.1
    """
    from heads.settings import FitPlan, FitSetting
    from pipeline import train as stage
    from pipeline.show import show_training, training_progress

    heads = k if k is not None else 1 if method == "single" else 5
    setting = FitSetting(method, heads, lam, prior, hidden, lr, wd, l2, seed)
    plan = FitPlan(epochs, batch, data_seed, dtype, device, patience, solver=solver)
    options = stage.TrainOptions(router_input, reward_input, restarts, features, projection, prune)
    with training_progress() as progress:
        trained = stage.train(Store(store), name, setting, plan, options, progress)
    _print(trained, show_training(trained), as_json=as_json)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="Data set.")],
    k: Annotated[str, typer.Option(metavar="K,K,...", help="Numbers of reward heads.")] = "1,2,3,5,8,10",
    lam: Annotated[str, typer.Option(metavar="L,L,...", help="Pulls to uniform.")] = "0,0.03,0.1,0.3,0.5",
    seeds: Annotated[int, typer.Option(help="Initialisations of each K and lam.")] = 8,
    method: Annotated[SweptMethod, typer.Option(help="Heads with a router, or with static weights.")] = "mixture",
    router_input: RouterInputOption = "auto",
    reward_input: RewardInputOption = "plain",
    hidden: HiddenOption = 128,
    prior: PriorOption = "example",
    epochs: EpochsOption = 20,
    lr: LrOption = 2e-3,
    batch: BatchOption = 2048,
    wd: WeightDecayOption = 0.01,
    patience: PatienceOption = 5,
    projection: ProjectionOption = "none",
    prune: PruneOption = None,
    seed: SeedOption = 0,
    data_seed: DataSeedOption = 0,
    dtype: FitDtypeOption = "auto",
    device: DeviceOption = "auto",
    features: FeaturesOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Fit many K, lam and seeds at once, choose K by the one-standard-error rule, and save the winner.

    \b
    Example:
      micropref sweep mine --k 1,2,3,5 --lam 0,0.1,0.3 --seeds 4
    """
    from heads.settings import FitPlan, FitSetting
    from pipeline import sweep as stage
    from pipeline.show import show_sweep, training_progress
    from pipeline.train import TrainOptions

    grid = stage.Grid(stage.parse_values("k", k, int), stage.parse_values("lam", lam, float))
    base = FitSetting(method, max(grid.k), 0.0, prior, hidden, lr, wd, seed=seed)
    plan = FitPlan(epochs, batch, data_seed, dtype, device, patience)
    options = TrainOptions(router_input, reward_input, seeds, features, projection, prune)
    with training_progress() as progress:
        swept = stage.sweep(Store(store), name, grid, base, plan, options, progress)
    _print(swept, show_sweep(swept), as_json=as_json)


@app.command("eval")
def evaluate(
    run: Annotated[str, typer.Argument(help="Run to evaluate.")],
    data: Annotated[str | None, typer.Option(help="Data set.  [default: the run's own]")] = None,
    split: Annotated[str, typer.Option(help="Split to evaluate on.")] = "test",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Say how well every head, the best head and the mixture predict each attribute.

    \b
    Example:
      micropref eval mixture-1a2b3c4d --split test
    """
    from pipeline import evaluate as stage
    from pipeline.show import show_evaluation

    evaluation = stage.evaluate(Store(store), run, data, split)
    _print(evaluation, show_evaluation(evaluation), as_json=as_json)


@app.command()
def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT; without it, the views and an example each.")] = None,
    fmt: Annotated[TableFormat, typer.Option("--format", help="How to print the result.")] = "table",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; parquet needs one.")] = None,
    limit_vectors: Annotated[int | None, typer.Option(help="Vectors to load of the view embeddings.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds before the query is stopped.")] = 60.0,
    memory_mb: Annotated[int, typer.Option(help="Memory of the query.")] = 4096,
    threads: Annotated[int | None, typer.Option(help="Threads of the query.  [default: the machine's]")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Run one read-only DuckDB SELECT over the store's views.

    \b
    Example:
      micropref sql "SELECT attribute, head, accuracy FROM head_accuracy ORDER BY accuracy DESC"
    """
    from cache.sql import SqlLimits, render, run_query, view_examples, view_table

    chosen: TableFormat = "json" if as_json else fmt
    if query is not None:
        limits = SqlLimits(memory_mb, timeout, threads, limit_vectors)
        typer.echo(render(run_query(store, query, limits), chosen, out), nl=False)
    elif chosen == "table":
        typer.echo("\n".join(str(view) for view in view_examples()), nl=False)
    else:
        typer.echo(render(view_table(), chosen, out), nl=False)


@app.command("ls")
def list_store(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List features, data sets and runs; a run whose training data changed since says so.

    \b
    Example:
      micropref ls
    """
    from pipeline import listing
    from pipeline.show import show_listing

    found = listing.list_store(Store(store))
    _print(found, show_listing(found), as_json=as_json)


@app.command()
def verify(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Check every stored file against its digest; exit 1 where something is damaged.

    \b
    Example:
      micropref verify
    """
    from cache.verify import verify as check

    found = check(Store(store))
    counts = f"{found.files:,} files, {found.vectors:,} vectors, {found.duplicate_vectors:,} stored twice"
    _print(found, "\n".join([*found.problems, counts]) + "\n", as_json=as_json)
    if found.problems:
        typer.echo(f"micropref: {len(found.problems)} problems; `micropref embed` again mends vectors", err=True)
        raise typer.Exit(1)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    min_age: Annotated[float, typer.Option(help="Hours for which new files are left alone.")] = 24.0,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Remove vectors no data set needs, second copies, and what killed writers left.

    \b
    Example:
      micropref gc --dry-run
    """
    from cache.garbage import collect

    gone = collect(Store(store), dry_run=dry_run, min_age_s=min_age * 3600)
    text = (
        f"{'would remove' if dry_run else 'removed'} {gone.vectors:,} vectors in {gone.shards:,} shards and "
        f"{gone.files:,} files: {gone.bytes / 1e6:,.1f} MB\n"
    )
    _print(gone, text, as_json=as_json)


@app.command()
def demo(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Run the whole story on generated data with known groups.

    \b
    Example:
      micropref demo
    """
    from pipeline import demo as stage
    from pipeline.show import show_demo, training_progress

    with training_progress() as progress:
        outcome = stage.run_demo(Store(store), _announce, progress)
    _print(outcome, show_demo(outcome), as_json=as_json)


if __name__ == "__main__":
    sys.exit(app())
