"""The command line: each command parses, calls one plain function with the same arguments, and prints.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from typer.core import TyperGroup

from micropref.cache.errors import BadInput, Failure, Interrupted, MicroprefError
from micropref.cache.keys import finite
from micropref.cache.store import StoreFolder
from micropref.pipeline.api.store import Store
from micropref.pipeline.options import (
    BACKBONE_HELP,
    CONTEXT_TEMPLATE,
    DEFAULT_STORE,
    MINILM,
    PINNED_DATE,
    AdaptMethod,
    Anchor,
    AnnealOption,
    ArmoGate,
    BatchOption,
    DataSeedOption,
    DeviceOption,
    EmbedDtype,
    EngineName,
    EpochsOption,
    FeaturesOption,
    FitDtypeOption,
    GroupedBy,
    HiddenOption,
    ImportShape,
    JsonOption,
    LatentOption,
    LrOption,
    MemoryOption,
    Method,
    OnBad,
    Overlong,
    Paper,
    Pass,
    PatienceOption,
    Pooling,
    PriorOption,
    ProjectionOption,
    PruneOption,
    Responses,
    RewardInput,
    RewardInputOption,
    RouterInputOption,
    SeedOption,
    Shape,
    ShotsFrom,
    Solver,
    StoreDtype,
    StoreOption,
    SweptMethod,
    TableFormat,
    Target,
    Template,
    WeightDecayOption,
    WeightOption,
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
        except typer.TyperException as error:
            problem: Any = error  # with words of the command line, which typer tells in three lines
            command = (problem.ctx or ctx).command_path
            typer.echo(f"micropref: {problem.format_message().rstrip('.')}; see `{command} --help`", err=True)
            raise typer.Exit(problem.exit_code) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            where = f"{error.filename}: " if error.filename else ""
            typer.echo(f"micropref: {where}{os.strerror(error.errno) if error.errno else error}", err=True)
            raise typer.Exit(Failure.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("micropref: interrupted: what was finished is kept; give the same command again", err=True)
            raise typer.Exit(Interrupted.exit_code) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Learn whose preference a reward is: embed once, then train, evaluate and query mixture reward heads.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"micropref {version('micropref')}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Learn whose preference a reward is: embed once, then train, evaluate and query mixture reward heads."""


def _print(report: DataclassInstance, text: str, *, as_json: bool) -> None:
    """Print a report once: as one JSON object for scripts, as text for people."""
    if as_json:
        value = finite(dataclasses.asdict(report))
        typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False, default=lambda table: table.to_dicts()))
    else:
        typer.echo(text, nl=False)


def _show(report: DataclassInstance, *, as_json: bool) -> None:
    """Print a report of the Python API, which reads as the command prints it."""
    _print(report, f"{report!r}\n", as_json=as_json)


def _is_given(ctx: typer.Context, option: str) -> bool:
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


LAM_HELP = "λ: KL penalty towards uniform mixture weights."
THRESHOLD_HELP = "Stop when the expected information falls below NATS."
MIN_AGE_HELP = "Hours for which new files are left alone; less than 1 only while no other command runs."


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
    backbone: Annotated[str, typer.Option(help=BACKBONE_HELP)] = MINILM,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    pooling: Annotated[Pooling, typer.Option(help="How a text's vector is made.")] = "auto",
    max_length: Annotated[int | None, typer.Option(help="Most tokens of a text.  [default: the backbone's]")] = None,
    overlong: Annotated[Overlong, typer.Option(help="Cut long prompts, or drop the pair.")] = "trim-prompt",
    template: Annotated[Template, typer.Option(help="Chat template where there is one, or plain.")] = "auto",
    date: Annotated[str, typer.Option(help="Date passed to chat templates.")] = PINNED_DATE,
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
    engine: Annotated[EngineName, typer.Option(help="This machine, or a Ray cluster that shares the store.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Processes with a backbone each.  [default: one for each GPU]")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Head of the cluster, such as auto.  [default: found or local]"),
    ] = None,
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
    report = Store(store, _announce).embed(
        sources,
        name,
        split=split,
        split_by_prompt=split_by_prompt,
        backbone=backbone,
        revision=revision,
        pooling=pooling,
        max_length=max_length,
        overlong=overlong,
        template=template,
        date=date,
        contexts=contexts,
        context_template=context_template,
        responses=responses,
        format=shape,
        dtype=dtype,
        store_dtype=store_dtype,
        device=device,
        pass_=packing,
        tokens_per_batch=tokens_per_batch,
        limit=limit,
        on_bad=on_bad,
        replace=replace,
        trust_remote_code=trust_remote_code,
        engine=engine,
        workers=workers,
        ray_address=ray_address,
        plan=plan,
    )
    _show(report, as_json=as_json)


@app.command()
def train(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Data set.")],
    method: Annotated[
        Method, typer.Option(help="Heads with a router, static weights, one head; or a system of others.")
    ] = "mixture",
    k: Annotated[int | None, typer.Option(min=1, help="Reward heads.  [default: 5; 1 for single]")] = None,
    lam: Annotated[float, typer.Option(help=LAM_HELP)] = 0.1,
    router_input: RouterInputOption = "auto",
    reward_input: RewardInputOption = "plain",
    hidden: HiddenOption = 128,
    prior: PriorOption = "example",
    latent: LatentOption = "pair",
    weight: WeightOption = "pair",
    anneal: AnnealOption = True,
    epochs: EpochsOption = 20,
    lr: LrOption = 2e-3,
    batch: BatchOption = 2048,
    wd: WeightDecayOption = 0.01,
    l2: Annotated[float, typer.Option(help="Explicit L2 term; scikit-learn's C is 1 / l2.")] = 0.0,
    patience: PatienceOption = 5,
    solver: Annotated[Solver, typer.Option(help="Minibatches, or all pairs to convergence.")] = "adamw",
    projection: ProjectionOption = "none",
    prune: PruneOption = None,
    memory: MemoryOption = None,
    restarts: Annotated[int, typer.Option(help="Initialisations fitted together; the best is kept.")] = 8,
    armo_gate: Annotated[ArmoGate, typer.Option(help="Size of armo's gate.")] = "small",
    seed: SeedOption = 0,
    data_seed: DataSeedOption = 0,
    dtype: FitDtypeOption = "auto",
    device: DeviceOption = "auto",
    features: FeaturesOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Fit reward heads and router, or another system, on cached features.

    \b
    Example:
      micropref train mine --k 5 --lam 0.1
      micropref train mine --latent user --k 5
      micropref train mine --method lore --k 5
    """
    from micropref.pipeline.training.method_options import check_used

    given = [option for option in ctx.params if _is_given(ctx, option)]
    check_used(method, given, latent)
    report = Store(store, _announce).train(
        name,
        method=method,
        k=k,
        lam=lam,
        l2=l2,
        solver=solver,
        restarts=restarts,
        armo_gate=armo_gate,
        router_input=router_input,
        reward_input=reward_input,
        hidden=hidden,
        prior=prior,
        latent=latent,
        weight=weight,
        anneal=anneal,
        epochs=epochs,
        lr=lr,
        batch=batch,
        wd=wd,
        patience=patience,
        projection=projection,
        prune=prune,
        memory=memory,
        seed=seed,
        data_seed=data_seed,
        dtype=dtype,
        device=device,
        features=features,
    )
    _show(report, as_json=as_json)


@app.command()
def sweep(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Data set.")],
    k: Annotated[str, typer.Option(metavar="K,K,...", help="Numbers of reward heads.")] = "1,2,3,5,8,10",
    lam: Annotated[str, typer.Option(metavar="L,L,...", help=f"Values of {LAM_HELP}")] = "0,0.03,0.1,0.3,0.5",
    seeds: Annotated[int, typer.Option(min=1, help="Initialisations of each K and lam.")] = 8,
    method: Annotated[SweptMethod, typer.Option(help="Heads with a router, static weights, or alike.")] = "mixture",
    router_input: RouterInputOption = "auto",
    reward_input: RewardInputOption = "plain",
    hidden: HiddenOption = 128,
    prior: PriorOption = "example",
    latent: LatentOption = "pair",
    weight: WeightOption = "pair",
    anneal: AnnealOption = True,
    epochs: EpochsOption = 20,
    lr: LrOption = 2e-3,
    batch: BatchOption = 2048,
    wd: WeightDecayOption = 0.01,
    patience: PatienceOption = 5,
    projection: ProjectionOption = "none",
    prune: PruneOption = None,
    memory: MemoryOption = None,
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
    from micropref.pipeline.training.method_options import check_latent
    from micropref.pipeline.training.sweep import parse_values

    check_latent(latent, [option for option in ("weight", "anneal") if _is_given(ctx, option)])
    report = Store(store, _announce).sweep(
        name,
        k=parse_values("k", k, int),
        lam=parse_values("lam", lam, float),
        seeds=seeds,
        method=method,
        router_input=router_input,
        reward_input=reward_input,
        hidden=hidden,
        prior=prior,
        latent=latent,
        weight=weight,
        anneal=anneal,
        epochs=epochs,
        lr=lr,
        batch=batch,
        wd=wd,
        patience=patience,
        projection=projection,
        prune=prune,
        memory=memory,
        seed=seed,
        data_seed=data_seed,
        dtype=dtype,
        device=device,
        features=features,
    )
    _show(report, as_json=as_json)


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
    _show(Store(store, _announce).evaluate(run, data=data, split=split), as_json=as_json)


@app.command()
def route(
    run: Annotated[str, typer.Argument(help="Run whose router is re-fitted; its heads are kept.")],
    data: Annotated[str | None, typer.Option(help="Data set.  [default: the run's own]")] = None,
    budget: Annotated[str, typer.Option(metavar="N|N,N,...", help="Pairs of each attribute; several: a curve.")] = "50",
    tau: Annotated[str, typer.Option(metavar="auto|T", help="Temperature; auto: held out inside the budget.")] = "auto",
    epochs: Annotated[int, typer.Option(help="Passes over the budget.")] = 10,
    batch: BatchOption = 32,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    target: Annotated[
        Target, typer.Option(help="One soft label for an attribute's contexts, or for a pair.")
    ] = "context",
    anchor: Annotated[Anchor, typer.Option(help="Labels start from the router so far, or from the run.")] = "previous",
    reward_input: Annotated[
        RewardInput | None, typer.Option("--reward-input", help="What stands before responses.  [default: the run's]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw and of the order of pairs.")] = 0,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Teach a run's router to read contexts from a few pairs of each attribute, and say how much that helps.

    \b
    Example:
      micropref route mixture-1a2b3c4d --budget 50
      micropref route mixture-1a2b3c4d --budget 5,10,20,50,100
    """
    from micropref.pipeline.routing.route import parse_budgets, parse_tau

    report = Store(store, _announce).route(
        run,
        data=data,
        budget=parse_budgets(budget),
        tau=parse_tau(tau),
        epochs=epochs,
        batch=batch,
        lr=lr,
        target=target,
        anchor=anchor,
        reward_input=reward_input,
        seed=seed,
    )
    _show(report, as_json=as_json)


@app.command()
def adapt(
    run: Annotated[str, typer.Argument(help="Run whose heads are weighed.")],
    by: Annotated[GroupedBy, typer.Option("--by", help="Whose choices share weights.")],
    data: Annotated[str | None, typer.Option(help="Data set.  [default: the run's own]")] = None,
    shots: Annotated[
        str | None,
        typer.Option(metavar="N|N,N,...", help="Choices learned from; N: also 0 and powers of 2.  [default: 16]"),
    ] = None,
    method: Annotated[AdaptMethod | None, typer.Option(help="How weights are learned.  [default: hedge]")] = None,
    tau: Annotated[float | None, typer.Option(help="Temperature of hedge; 1 is Bayes' rule.  [default: 1]")] = None,
    shots_from: Annotated[ShotsFrom | None, typer.Option(help="Split the choices are from.  [default: test]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the draw of choices.  [default: 0]")] = None,
    people: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for a JSON file of each person's weights.")
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Predict, then learn from, every test pair in order.")
    ] = False,
    switches: Annotated[
        int | None, typer.Option(min=1, help="With --online: changes of taste of one group at most.  [default: 1]")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Weigh a run's heads for each person by a few of their choices, and say how much that helps.

    \b
    Example:
      micropref adapt mixture-1a2b3c4d --by user --shots 16
      micropref adapt mixture-1a2b3c4d --by user --online
    """
    told = {"shots": shots, "method": method, "tau": tau, "shots_from": shots_from, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    if online:
        from micropref.pipeline.people.online import adapt_online
        from micropref.pipeline.show.adapt import show_online

        if given or people:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in [*given, *(["out"] if people else [])])
            raise BadInput(f"--online learns from every test pair and has methods of its own: leave out {named}")
        replayed = adapt_online(StoreFolder(store), run, data, by, switches or 1)
        _print(replayed, show_online(replayed), as_json=as_json)
    else:
        if switches is not None:
            raise BadInput(f"--switches is {switches}: only --online follows changes of taste; give both or neither")
        _show(Store(store, _announce).adapt(run, by, data=data, out=people, **given), as_json=as_json)


@app.command()
def ask(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="Run whose heads are weighed.")],
    user: Annotated[str | None, typer.Option("--user", help="User to interview; resumes earlier answers.")] = None,
    pool: Annotated[str | None, typer.Option("--pool", help="Data set to ask about.  [default: the run's own]")] = None,
    split: Annotated[str, typer.Option(help="Split of the pool.")] = "test",
    n: Annotated[int, typer.Option("--n", help="Questions at most.")] = 10,
    answers: Annotated[Path | None, typer.Option(help="File of 1, 2, s or q, a line each, in place of you.")] = None,
    threshold: Annotated[float, typer.Option(metavar="NATS", help=THRESHOLD_HELP)] = 0.01,
    beta: Annotated[
        float | None, typer.Option(help="What an answer counts; 1: Bayes' rule.  [default: by validation users]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of responses, or of draws.")] = 0,
    replay: Annotated[
        bool, typer.Option("--replay", help="Try this way of asking on recorded choices; ask nobody.")
    ] = False,
    by: Annotated[GroupedBy, typer.Option("--by", help="With --replay: whose choices are one person's.")] = "user",
    candidates: Annotated[int, typer.Option(help="With --replay: choices of each that may be asked for.")] = 20,
    draws: Annotated[int, typer.Option(help="With --replay: draws of these choices.")] = 1,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Ask a person the questions that tell most of which heads are theirs, and keep the weights.

    \b
    Example:
      micropref ask maxmin-1a2b3c4d --user ann
      micropref ask maxmin-1a2b3c4d --replay --by attribute --candidates 40 --n 16
    """
    unused_options = ("user", "answers", "threshold") if replay else ("by", "candidates", "draws")
    given = ", ".join(f"--{option}" for option in unused_options if _is_given(ctx, option))
    if given:
        raise BadInput(f"{given}: no effect {'with' if replay else 'without'} --replay; leave out one or the other")
    if replay:
        from micropref.pipeline.people.ask_replay import ReplayOptions, replay_policies
        from micropref.pipeline.show.ask import show_replayed

        if split not in get_args(ShotsFrom):
            raise BadInput(f"--split is {split!r}: --replay asks for choices of {' or '.join(get_args(ShotsFrom))}")
        tried = ReplayOptions(by, cast("ShotsFrom", split), n, candidates, draws, beta, seed)
        replayed = replay_policies(StoreFolder(store), run, pool, tried)
        _print(replayed, show_replayed(replayed), as_json=as_json)
        return
    from micropref.pipeline.people import ask as stage
    from micropref.pipeline.show.ask import from_file, from_terminal, show_asked

    options = stage.AskOptions(user or "", split, n, threshold, beta, seed)
    respond = from_file(_announce, answers) if answers else from_terminal(_announce, input)
    asked = stage.ask(StoreFolder(store), run, pool, options, respond)
    _print(asked, show_asked(asked), as_json=as_json)


@app.command()
def diagnose(
    name: Annotated[str, typer.Argument(help="Data set with a train and a test split.")],
    k: Annotated[int, typer.Option(min=2, help="Groups that people may fall into.")] = 5,
    restarts: Annotated[int, typer.Option(min=1, help="Initialisations fitted together; the best is kept.")] = 4,
    reward_input: RewardInputOption = "plain",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    features: FeaturesOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Say whether personalisation is worth it on this data: what knowing who chose adds on held-out prompts.

    \b
    Example:
      micropref diagnose mine
    """
    report = Store(store, _announce).diagnose(
        name, k=k, restarts=restarts, reward_input=reward_input, seed=seed, device=device, features=features
    )
    _show(report, as_json=as_json)


@app.command()
def compare(
    name: Annotated[str, typer.Argument(help="Data set to train on.")],
    systems: Annotated[str, typer.Option("--methods", metavar="all|A,B,...", help="Rows of the table.")] = "all",
    seeds: Annotated[int, typer.Option(help="Fits of every system.")] = 5,
    split: Annotated[str, typer.Option(help="Split to score.")] = "test",
    shots: Annotated[int, typer.Option(help="Labelled pairs of each attribute to adapt to.")] = 16,
    budget: Annotated[int, typer.Option(help="Pairs with context of each attribute to route by.")] = 50,
    k: Annotated[int | None, typer.Option(min=1, help="Reward heads.  [default: the paper's, or 5]")] = None,
    gate: Annotated[ArmoGate, typer.Option("--armo-gate", help="3 x 1024 units, or 1 x 128.")] = "small",
    paper: Annotated[Paper | None, typer.Option(help="Print the paper's figures and protocol beside ours.")] = None,
    route_on: Annotated[str | None, typer.Option(help="Data set to route and score on.  [default: NAME]")] = None,
    device: DeviceOption = "auto",
    features: FeaturesOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Fit every compared system on one data set and score all on the same held-out pairs.

    \b
    Example:
      micropref compare mine --methods single,static,mixture,micro --seeds 3
    """
    report = Store(store, _announce).compare(
        name,
        methods=systems,
        seeds=seeds,
        split=split,
        shots=shots,
        budget=budget,
        k=k,
        armo_gate=gate,
        paper=paper,
        route_on=route_on,
        device=device,
        features=features,
    )
    _show(report, as_json=as_json)


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
    from micropref.cache.sql.query import SqlLimits, render, run_query, view_examples, view_table

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
    from micropref.cache.maintenance import listing
    from micropref.pipeline.show.store import show_listing

    found = listing.list_store(StoreFolder(store))
    _print(found, show_listing(found), as_json=as_json)


@app.command()
def verify(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Check every stored file against its digest; exit 1 where something is damaged.

    \b
    Example:
      micropref verify
    """
    from micropref.cache.maintenance.verify import verify as check

    found = check(StoreFolder(store))
    counts = f"{found.files:,} files, {found.vectors:,} vectors, {found.duplicate_vectors:,} stored twice"
    _print(found, "\n".join([*found.problems, counts]) + "\n", as_json=as_json)
    if found.problems:
        count = f"{len(found.problems)} problem" + ("s" if len(found.problems) > 1 else "")
        way_out = "embed the sources again to repair vectors and pairs, train again to repair a run"
        typer.echo(f"micropref: {count}; {way_out}", err=True)
        raise typer.Exit(1)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    min_age: Annotated[
        float,
        typer.Option(help=MIN_AGE_HELP),
    ] = 24.0,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Remove vectors no data set needs, second copies, and what killed writers left.

    \b
    Example:
      micropref gc --dry-run
    """
    from micropref.cache.maintenance.gc import collect

    gone = collect(StoreFolder(store), dry_run=dry_run, min_age_s=min_age * 3600)
    text = (
        f"{'would remove' if dry_run else 'removed'} {gone.vectors:,} vectors in {gone.shards:,} shards and "
        f"{gone.files:,} files: {gone.bytes / 1e6:,.1f} MB\n"
    )
    _print(gone, text, as_json=as_json)


@app.command()
def demo(
    backbone: Annotated[str, typer.Option(help=BACKBONE_HELP)] = MINILM,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Run the whole story on generated data with known groups.

    \b
    Example:
      micropref demo
      micropref demo --backbone smollm2
    """
    from micropref.pipeline.demo import demo as stage
    from micropref.pipeline.show.demo import show_demo
    from micropref.pipeline.show.train import training_progress

    with training_progress() as progress:
        outcome = stage.run_demo(StoreFolder(store), _announce, progress, backbone)
    _print(outcome, show_demo(outcome), as_json=as_json)


@app.command("import-vectors")
def import_vectors(
    sources: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".parquet, or a folder of these.")],
    name: Annotated[str, typer.Option("--name", help="Data set to import into.")],
    backbone_name: Annotated[
        str, typer.Option("--backbone-name", metavar="TEXT", help="What made the vectors; part of the features id.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What else tells them from others; part of the features id."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of every row.  [default: train]")] = None,
    split_by_prompt: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Share of prompts that go to test; excludes --split.")
    ] = None,
    shape: Annotated[ImportShape, typer.Option("--format", help="Shape of the rows.")] = "auto",
    store_dtype: Annotated[StoreDtype, typer.Option(help="auto: float16 where all are, else float32.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Rows read of each source.")] = None,
    on_bad: Annotated[OnBad, typer.Option(help="What a malformed row does.")] = "stop",
    replace: Annotated[bool, typer.Option("--replace", help="Start the split over with these sources.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Make a data set of pairs whose vectors you already have.

    A row is a pair: prompt, chosen, rejected, ... and FLOAT[D] columns prompt_vector, chosen_vector, rejected_vector.

    \b
    Example:
      micropref import-vectors vectors.parquet --name mine --backbone-name my-8b --settings pooling=last
    """
    from micropref.pipeline.embedding.import_vectors import parse_settings

    report = Store(store, _announce).import_vectors(
        sources,
        name,
        backbone_name=backbone_name,
        settings=parse_settings(settings or []),
        split=split,
        split_by_prompt=split_by_prompt,
        format=shape,
        store_dtype=store_dtype,
        limit=limit,
        on_bad=on_bad,
        replace=replace,
    )
    _show(report, as_json=as_json)


if __name__ == "__main__":
    sys.exit(app())
