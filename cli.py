"""The command line: each command parses, calls one plain function with the same arguments, and prints.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from typer.core import TyperGroup

from micropref.cache.choices import TEST
from micropref.cache.errors import BadInput, Failure, Interrupted, MicroprefError
from micropref.cache.keys import finite
from micropref.cache.store import StoreFolder
from micropref.pipeline.api.store import Store
from micropref.pipeline.command_options import CommandOptions, Form, completion, resolved_parameters, with_flags
from micropref.pipeline.options import DEFAULT_STORE, MINILM, GroupedBy, ShotsFrom, TableFormat

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class _Commands(TyperGroup):
    """Prints errors as one line and exits with their code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MicroprefError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            typer.echo(f"micropref: {with_flags(str(error), _flags(command) if command else {})}", err=True)
            raise typer.Exit(error.exit_code) from None
        except typer.TyperException as error:
            problem: Any = error  # with words of the command line, which typer tells in three lines
            path = (problem.ctx or ctx).command_path
            typer.echo(f"micropref: {problem.format_message().rstrip('.')}; see `{path} --help`", err=True)
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
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Learn whose preference a reward is: embed once, then train, evaluate and query mixture reward heads.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"micropref {version('micropref')}")
        raise typer.Exit


STORE_HELP = "Folder of features, data sets and runs; here or before the command."


@app.callback()
def _all_commands(
    store: Annotated[Path | None, typer.Option("--store", help=STORE_HELP)] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Learn whose preference a reward is: embed once, then train, evaluate and query mixture reward heads."""


def _chosen_store(ctx: typer.Context, store: Path) -> Path:
    """Return the folder given after the command, else before it, else in the environment."""
    before: Path | None = ctx.parent.params.get("store") if ctx.parent else None
    if before is None or before == store:
        return store
    if _is_given(ctx, "store"):
        raise BadInput(f"--store is {before} before the command and {store} after it: give one of them")
    return before


def _is_given(ctx: typer.Context, option: str) -> bool:
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


StoreOption = Annotated[
    Path,
    typer.Option(
        "--store", envvar="MICROPREF_STORE", callback=_chosen_store, help="Folder of features, data sets and runs."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]


def _print(report: DataclassInstance, text: str, *, as_json: bool) -> None:
    """Print a report once: as one JSON object for scripts, as text for people."""
    if as_json:
        value = finite(dataclasses.asdict(report))
        typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False, default=lambda table: table.to_dicts()))
    else:
        typer.echo(text, nl=False)


def _announce(line: str) -> None:
    typer.echo(line, err=True)


def _announcer(ctx: typer.Context) -> Callable[[str], None]:
    """Return what prints lines of the Python API with options in place of arguments."""
    flags = _flags(ctx.command)
    return lambda line: _announce(with_flags(line, flags))


def _flags(command: Any) -> dict[str, str]:
    """Return the option of each argument of a command."""
    return {one.name: one.opts[0] for one in command.params if one.param_type_name == "option"}


@dataclasses.dataclass(frozen=True)
class _Call:
    """A command of the Python API as it was typed in."""

    store: Store
    """The store that it names."""
    arguments: dict[str, Any]
    """Of the method, by name."""
    given: frozenset[str]
    """Arguments that were typed in, at their default or not."""
    as_json: bool
    """Whether to print JSON."""

    def only(self, method: Callable[..., Any], unused: str) -> dict[str, Any]:
        """Return the arguments of one of the command's methods. Raises BadInput where others were typed in."""
        taken = resolved_parameters(method)
        if other := [f"`{name}`" for name in self.arguments if name in self.given and name not in taken]:
            raise BadInput(f"{', '.join(other)}: no effect {unused}; leave out one or the other")
        return {name: self.arguments[name] for name in taken}


def _command(
    method: Callable[..., Any], command_name: str | None = None, /, *more: Callable[..., Any], **forms: Form
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command that has a method's arguments as options, and prints the report that it returns.

    A command that calls one of several methods has the arguments of all. The decorated function takes the call, and by
    keyword the options that only the command line has.
    """
    options = CommandOptions(method, Store, forms, more)

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        _, *own = inspect.signature(run, eval_str=True).parameters.values()
        own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]

        def command(ctx: typer.Context, *, store: Path, as_json: bool = False, **typed: Any) -> None:
            given = frozenset(option for option in ctx.params if _is_given(ctx, option))
            call = _Call(Store(store, _announcer(ctx)), options.values(typed, given), given, as_json)
            report = run(call, **{one.name: typed[one.name] for one in own})
            if report is not None:
                _print(report, f"{report!r}\n", as_json=as_json)

        named = {one.name: one for one in inspect.signature(command, eval_str=True).parameters.values()}
        parameters = [named["ctx"], *options.parameters(), *own]
        for each, kind, default in (("store", StoreOption, DEFAULT_STORE), ("as_json", JsonOption, False)):
            parameters.append(named[each].replace(annotation=kind, default=default))
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__, command.__doc__, command.__name__ = {}, run.__doc__, run.__name__
        app.command(command_name)(command)
        return run

    return register


def _numbers(name: str, kind: type[int] | type[float]) -> Callable[[str], list[Any]]:
    """Return what reads numbers separated by commas. It raises BadInput naming the one that is none."""

    def parse(text: str) -> list[Any]:
        try:
            return [kind(word) for word in text.split(",")]
        except ValueError:
            example = "1,2,5" if kind is int else "0,0.1,0.3"
            raise BadInput(f"{name} is {text!r}: expected a number, or numbers such as {example}") from None

    return parse


def _tau(text: str) -> float | None:
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise BadInput(f"tau is {text!r}: expected auto or a number above 0") from None


def _assignments(name: str, example: str) -> Callable[[list[str] | None], dict[str, str]]:
    """Return what reads KEY=VALUE words. It raises BadInput naming the one that is none, or a key given twice."""

    def parse(words: list[str] | None) -> dict[str, str]:
        pairs = [word.partition("=") for word in words or []]
        for word, (key, equals, _) in zip(words or [], pairs, strict=True):
            if not equals or not key.strip():
                raise BadInput(f"{name} is {word!r}: expected {example}")
        found = {key: value for key, _, value in pairs}
        if len(found) < len(pairs):
            raise BadInput(f"{name} has one of {', '.join(found)} twice: expected each once")
        return found

    return parse


def _projection(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


COLUMNS = Form(
    "--column",
    metavar="ROLE=NAME",
    kind=list[str],
    parse=_assignments("columns", "ROLE=NAME, such as user=judge_name"),
    help="Column of a role where its name does not say so, such as user=judge_name; repeat it for others. user= alone: "
    "no column is the user.",
)
ATTRIBUTES = Form(
    metavar="A,B,...",
    kind=str,
    parse=lambda text: [name for name in text.split(",") if name],
)
PROJECTION = Form(metavar="none|N|auto", kind=str, parse=_projection)
PAGE = Form(metavar="FILE", kind=Path)
MEMORY = Form(
    metavar="8GB",
    help="Most memory of the process; pairs that need more are streamed.  [default: 60 % of the machine's]",
)
RUNS, DATASETS = completion("runs"), completion("datasets")
THRESHOLD_HELP = "Stop when the expected information falls below NATS."
MIN_AGE_HELP = "Hours for which new files are left alone; less than 1 only while no other command runs."


@_command(
    Store.embed,
    source=Form(
        metavar="SOURCE",
        kind=list[Path],
        help=".jsonl, .json, .csv, .parquet, .arrow, a folder, owner/name[@revision] on the hub, or - for stdin.",
    ),
    name=Form("--name"),
    from_dir=Form("--from", metavar="DIR"),
    adapter=Form(metavar="FILE.py"),
    split_by_prompt=Form(metavar="SHARE"),
    columns=COLUMNS,
    attributes=ATTRIBUTES,
    pass_=Form("--pass"),
    backbone=Form(kind=str),
    ray_address=Form(metavar="ADDRESS"),
)
def embed(call: _Call) -> Any:
    """Turn preference data into vectors, once.

    \b
    Example:
      micropref embed pairs.jsonl --name mine
      micropref embed held-out.jsonl --name mine --split test
      micropref embed nvidia/HelpSteer2
    """
    return call.store.embed(**call.arguments)


@app.command()
def datasets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them, in full; without, all.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """List data sets of the hub that are known by name.

    Their licence, size, labels, attributes, contexts and users, and how the paper uses them.

    \b
    Example:
      micropref datasets
      micropref datasets nvidia/HelpSteer2
    """
    from micropref.pipeline.named.catalogue import catalogue
    from micropref.pipeline.show.datasets import show_catalogue

    found = catalogue(StoreFolder(store), name)
    _print(found, show_catalogue(found), as_json=as_json)


@_command(
    Store.import_vectors,
    "import-vectors",
    source=Form(metavar="FILE", kind=list[Path], help=".parquet, or a folder of these."),
    name=Form("--name"),
    backbone_name=Form(metavar="TEXT"),
    settings=Form(
        metavar="KEY=VALUE", kind=list[str], parse=_assignments("settings", "KEY=VALUE, such as pooling=mean")
    ),
    columns=COLUMNS,
    split_by_prompt=Form(metavar="SHARE"),
)
def import_vectors(call: _Call) -> Any:
    """Make a data set of pairs whose vectors you have.

    A row is a pair: prompt, chosen, rejected, ... and FLOAT[D] columns prompt_vector, chosen_vector, rejected_vector.

    \b
    Example:
      micropref import-vectors vectors.parquet --name mine --backbone-name my-8b --settings pooling=last
    """
    return call.store.import_vectors(**call.arguments)


@_command(Store.train, projection=PROJECTION, memory=MEMORY)
def train(call: _Call) -> Any:
    """Fit reward heads and a router, or another method.

    \b
    Example:
      micropref train mine --k 5
      micropref train mine --latent user --k 5
      micropref train mine --method lore --k 5
    """
    from micropref.pipeline.training.method_options import check_used

    check_used(call.arguments["method"], call.given, call.arguments["latent"], call.arguments["solver"])
    return call.store.train(**call.arguments)


@_command(
    Store.sweep,
    k=Form(metavar="K,K,...", kind=str, parse=_numbers("k", int)),
    lam=Form(metavar="L,L,...", kind=str, parse=_numbers("lam", float)),
    projection=PROJECTION,
    memory=MEMORY,
    html=PAGE,
)
def sweep(call: _Call) -> Any:
    """Fit many K, lam and seeds at once; save the best.

    K is the smallest whose validation NLL is within one standard error of the best.

    \b
    Example:
      micropref sweep mine --k 1,2,3,5 --lam 0,0.1,0.3 --seeds 4
    """
    from micropref.pipeline.training.method_options import check_latent

    check_latent(call.arguments["latent"], call.given)
    return call.store.sweep(**call.arguments)


@_command(
    Store.evaluate,
    "eval",
    Store.benchmark,
    benchmark=Form("--benchmark", default=None),
    source=Form("--from", metavar="FILE|DIR|NAME", kind=str),
    out=Form("--out", metavar="DIR", short="-o"),
    pass_=Form("--pass"),
    weights=Form(metavar="W,W,...", kind=str, parse=_numbers("weights", float)),
)
def evaluate(call: _Call) -> Any:
    """Accuracy of heads and mixture, or a benchmark's score.

    \b
    Example:
      micropref eval mixture-1a2b3c4d --split test
      micropref eval mixture-1a2b3c4d --benchmark rewardbench -o results
      micropref eval mixture-1a2b3c4d --benchmark rm-bench --from total_dataset.json
    """
    if call.arguments["benchmark"] is None:
        return call.store.evaluate(**call.only(Store.evaluate, unused="without `benchmark`"))
    return call.store.benchmark(**call.only(Store.benchmark, unused="with `benchmark`"))


@_command(
    Store.route,
    budget=Form(metavar="N|N,N,...", kind=str, parse=_numbers("budget", int)),
    tau=Form(
        metavar="auto|T",
        kind=str,
        default="auto",
        parse=_tau,
        help="Temperature of Hedge; auto: 1, or another that is clearly better on wordings held out of the budget.",
    ),
)
def route(call: _Call) -> Any:
    """Teach a run's router to read contexts.

    It learns from a few pairs of each attribute (stage 2 of MiCRo); heads are kept.

    \b
    Example:
      micropref route mixture-1a2b3c4d --budget 50
      micropref route mixture-1a2b3c4d --budget 5,10,20,50,100
    """
    return call.store.route(**call.arguments)


@_command(
    Store.adapt,
    by=Form("--by"),
    shots=Form(metavar="N|N,N,...", kind=str, parse=_numbers("shots", int)),
    out=Form(metavar="DIR"),
)
def adapt(
    call: _Call,
    online: Annotated[
        bool, typer.Option("--online", help="Predict, then learn from, every test pair in order.")
    ] = False,
    switches: Annotated[
        int | None, typer.Option(help="With --online: changes of taste of one group at most.  [default: 1]")
    ] = None,
) -> Any:
    """Weigh a run's heads for a person by a few choices.

    \b
    Example:
      micropref adapt mixture-1a2b3c4d --by user --shots 16
      micropref adapt mixture-1a2b3c4d --by user --online
    """
    if not online:
        if switches is not None:
            raise BadInput(f"switches is {switches}: only `online` follows changes of taste; give both or neither")
        return call.store.adapt(**call.arguments)
    from micropref.cache.runs.names import check_new_run_name, name_new_run
    from micropref.pipeline.api.reports import readable
    from micropref.pipeline.people.online import adapt_online
    from micropref.pipeline.show.adapt import show_online

    unused = [f"`{name}`" for name in ("shots", "method", "tau", "shots_from", "seed", "out") if name in call.given]
    if unused:
        raise BadInput(
            f"`online` learns from every test pair and has methods of its own: leave out {', '.join(unused)}"
        )
    run, data, by, run_name = (call.arguments[name] for name in ("run", "data", "by", "run_name"))
    store = StoreFolder(call.store.folder)
    check_new_run_name(store, run_name, _announce)
    replayed = adapt_online(store, run, data, by, 1 if switches is None else switches)
    name_new_run(store, run_name, replayed.run, _announce)
    return readable(replayed, show_online(replayed, call.store.folder))


@_command(
    Store.score,
    source=Form(metavar="INPUT", kind=str),
    out=Form("--out", metavar="FILE", short="-o", kind=str),
    pass_=Form("--pass"),
    weights=Form(metavar="W,W,...", kind=str, parse=_numbers("weights", float)),
)
def score(call: _Call) -> Any:
    """Give new responses a reward.

    A row has prompt and response, prompt and responses (a list), or chosen and rejected.

    \b
    Example:
      micropref score mixture-1a2b3c4d candidates.jsonl -o scored.jsonl --context "Be brief."
      micropref score mixture-1a2b3c4d candidates.jsonl --best-of --user ann
    """
    if call.as_json and call.arguments["out"] == "-":
        raise BadInput("out is -: with `as_json` the report goes to standard output; give a file")
    report = call.store.score(**call.arguments)
    if call.as_json or call.arguments["out"] != "-":
        return report
    _announce(f"{report!r}")
    return None


@_command(
    Store.best_of_curve,
    "best-of",
    source=Form(metavar="INPUT", kind=str),
    held_out=Form("--held-out", metavar="RUN"),
    n=Form(metavar="N,N,...", kind=str, parse=_numbers("n", int)),
    weights=Form(metavar="W,W,...", kind=str, parse=_numbers("weights", float)),
    held_out_weights=Form(metavar="W,W,...", kind=str, parse=_numbers("held_out_weights", float)),
)
def best_of(call: _Call) -> Any:
    """Say what choosing the best of n responses gains.

    That is by the run that chooses, and by a held-out one that does not.

    \b
    Example:
      micropref best-of mixture-1a2b3c4d candidates.jsonl --held-out mixture-5e6f7a8b
    """
    return call.store.best_of_curve(**call.arguments)


@_command(
    Store.export,
    folder=Form(metavar="DIR", kind=Path),
    link=Form("--link/--copy"),
    weights=Form(metavar="W,W,...", kind=str, parse=_numbers("weights", float)),
)
def export(call: _Call) -> Any:
    """Write a run as a model folder for other tools.

    \b
    Example:
      micropref export mixture-1a2b3c4d reward-model --context "Be brief."
      micropref export mixture-1a2b3c4d heads --all-heads
    """
    return call.store.export(**call.arguments)


@_command(Store.serve)
def serve(call: _Call) -> Any:
    """Serve a run's rewards over HTTP.

    \b
    Example:
      micropref serve mixture-1a2b3c4d --port 8000
      curl -s localhost:8000/v1/score -H 'content-type: application/json' \\
        -d '{"prompt": "Hi", "responses": ["Hello!", "What?"], "user": "ann"}'
      curl -s localhost:8000/v1/feedback -H 'content-type: application/json' \\
        -d '{"user": "ann", "prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "id": "1"}'
      curl -s -X DELETE localhost:8000/v1/users/ann
    """
    if call.as_json:
        raise BadInput("as_json has no effect: a server prints no report; ask its route /v1/models")
    return call.store.serve(**call.arguments)


@_command(Store.people, import_=Form("--import", metavar="FILE", kind=Path))
def people(call: _Call) -> Any:
    """List a run's people; import a server's choices.

    \b
    Example:
      micropref people mixture-1a2b3c4d
      micropref people mixture-1a2b3c4d --import choices.sqlite
    """
    return call.store.people(**call.arguments)


@app.command()
def ask(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run whose heads are weighed.", autocompletion=RUNS)],
    user: Annotated[str | None, typer.Option("--user", help="User to interview; resumes earlier answers.")] = None,
    pool: Annotated[
        str | None,
        typer.Option("--pool", autocompletion=DATASETS, help="Data set to ask about.  [default: the run's own]"),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the pool.")] = TEST,
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
    """Ask a person the most informative questions.

    The answers weigh the run's heads; the weights are kept under the user's name.

    \b
    Example:
      micropref ask maxmin-1a2b3c4d --user ann
      micropref ask maxmin-1a2b3c4d --replay --by attribute --candidates 40 --n 16
    """
    unused_options = ("user", "answers", "threshold") if replay else ("by", "candidates", "draws")
    given = ", ".join(f"`{option}`" for option in unused_options if _is_given(ctx, option))
    if given:
        raise BadInput(f"{given}: no effect {'with' if replay else 'without'} `replay`; leave out one or the other")
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


@_command(Store.diagnose, html=PAGE)
def diagnose(call: _Call) -> Any:
    """Say whether personalisation pays on this data.

    That is what knowing who chose adds on held-out prompts.

    \b
    Example:
      micropref diagnose mine
    """
    return call.store.diagnose(**call.arguments)


@_command(Store.compare, methods=Form(metavar="all|A,B,...", kind=str), html=PAGE)
def compare(call: _Call) -> Any:
    """Fit every method and score all on the same pairs.

    \b
    Example:
      micropref compare mine --methods single,static,mixture,micro --seeds 3
    """
    return call.store.compare(**call.arguments)


@_command(
    Store.report,
    runs=Form(metavar="RUN...", kind=list[str]),
    out=Form("--out", metavar="FILE", short="-o", kind=Path),
)
def report(
    call: _Call,
    show: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
) -> Any:
    """Write a page: what each head likes, what it adds.

    Accuracy of heads by attribute, runs side by side, router, curves, calibration, heads in words, pairs to read.

    \b
    Example:
      micropref report mixture-1a2b3c4d
      micropref report mixture-1a2b3c4d single-5e6f7a8b -o both.html --open
    """
    written = call.store.report(**call.arguments)
    if show:
        import webbrowser

        page = Path(written.path).absolute()
        if not webbrowser.open(page.as_uri()):
            _announce(f"{page}: no browser was found to show it")
    return written


@_command(
    Store.sql,
    query=Form(default=None, kind=str, help="One SELECT, or - for standard input; without it, the views."),
    tables=Form(
        "--with",
        metavar="NAME=FILE",
        kind=list[str],
        parse=_assignments("tables", "NAME=FILE, such as mine=labels.csv"),
        help="Your own CSV, JSON Lines, Parquet or Arrow file as a table; repeat it for others.",
    ),
)
def sql(
    call: _Call,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="File that holds the query.")] = None,
    fmt: Annotated[TableFormat, typer.Option("--format", help="How to print the result.")] = "table",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; parquet needs one.")] = None,
) -> Any:
    """Query the store's views with DuckDB SQL, read-only.

    \b
    Example:
      micropref sql "SELECT attribute, head, accuracy FROM head_accuracy ORDER BY accuracy DESC"
      micropref sql "SELECT label, count(*) FROM mine JOIN pairs USING (pair_id) GROUP BY ALL" --with mine=labels.csv
    """
    from micropref.cache.sql.query import SqlLimits, check_output, render, run_query, view_examples, view_table
    from micropref.pipeline.api.own_tables import own_tables
    from micropref.pipeline.api.query_text import query_text, tell_of_damaged_runs

    chosen: TableFormat = "json" if call.as_json else fmt
    check_output(chosen, out)
    query, tables = query_text(call.arguments["query"], file), call.arguments["tables"] or {}
    limits = SqlLimits(*(call.arguments[name] for name in ("memory_mb", "timeout", "threads", "limit_vectors")))
    if query is not None:
        tell_of_damaged_runs(StoreFolder(call.store.folder), _announce)
        found = run_query(call.store.folder, query, limits, own_tables(tables, limits))
        typer.echo(render(found, chosen, out), nl=False)
    elif tables:
        raise BadInput("`tables`: no effect without a query; give one")
    elif chosen == "table":
        typer.echo("\n".join(str(view) for view in view_examples()), nl=False)
    else:
        typer.echo(render(view_table(), chosen, out), nl=False)


@app.command("ls")
def list_store(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List features, data sets and runs.

    A run whose training data changed since says so.

    \b
    Example:
      micropref ls
    """
    from micropref.cache.maintenance import listing
    from micropref.pipeline.show.store import show_listing

    found = listing.list_store(StoreFolder(store))
    _print(found, show_listing(found, store), as_json=as_json)


@app.command()
def verify(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Check every stored file against its digest.

    Exits 1 where something is damaged.

    \b
    Example:
      micropref verify
    """
    from micropref.cache.maintenance.verify import verify as check
    from micropref.pipeline.show.store import show_verification

    found = check(StoreFolder(store))
    _print(found, show_verification(found), as_json=as_json)
    if found.problems:
        count = f"{len(found.problems)} problem" + ("s" if len(found.problems) > 1 else "")
        way_out = (
            "embed the sources again to repair vectors and pairs, train again to repair a run, gc removes leftovers"
        )
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
    """Remove vectors and files that nothing needs.

    These are vectors of no data set, second copies, and what killed commands left.

    \b
    Example:
      micropref gc --dry-run
    """
    from micropref.cache.maintenance.gc import collect
    from micropref.pipeline.show.store import show_collection

    gone = collect(StoreFolder(store), dry_run=dry_run, min_age_s=min_age * 3600)
    _print(gone, show_collection(gone, dry_run=dry_run), as_json=as_json)


@app.command()
def demo(
    backbone: Annotated[str, typer.Option(help="As in `micropref embed`: minilm, smollm2, a folder, ...")] = MINILM,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Run everything on generated data with known groups.

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


@app.command()
def show(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Name, id or start of an id; one or two.", autocompletion=RUNS),
    ],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Print what is known of a run, or how two differ.

    \b
    Example:
      micropref show best
      micropref show best mixture-1a2b3c4d
    """
    from micropref.cache.maintenance.description import describe
    from micropref.pipeline.show.runs import show_runs

    if len(runs) > 2:
        raise BadInput(f"{len(runs)} runs: expected one, or two to compare; `micropref sql` compares more")
    shown = describe(StoreFolder(store), runs)
    _print(shown, show_runs(shown), as_json=as_json)


@app.command("name")
def name_run(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Its name, its id, or the start of its id.", autocompletion=RUNS)
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name to give; without, names are printed.")
    ] = None,
    remove: Annotated[str | None, typer.Option("--remove", metavar="NAME", help="Name to take from it.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Give a run a name, which commands take for its id.

    A run may have several names.

    \b
    Example:
      micropref name mixture-1a2b3c4d best
      micropref name best --remove best
    """
    from micropref.cache.runs.names import find_run, rename
    from micropref.pipeline.show.runs import Named, show_named

    found = find_run(StoreFolder(store), run).id
    named = Named(found, rename(StoreFolder(store), found, add=name, remove=remove).of(found))
    _print(named, show_named(named), as_json=as_json)


@app.command()
def note(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Its name, its id, or the start of its id.", autocompletion=RUNS)
    ],
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="'' removes it; without, it is printed.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Keep a note with a run; `ls` shows its start.

    \b
    Example:
      micropref note best "heads 0 and 3 look alike"
    """
    from micropref.cache.runs.names import find_run, read_note, write_note
    from micropref.pipeline.show.runs import Noted, show_noted

    found = find_run(StoreFolder(store), run)
    if text is not None:
        write_note(found, text)
    noted = Noted(found.id, read_note(found))
    _print(noted, show_noted(noted), as_json=as_json)


@_command(Store.pack)
def pack(call: _Call) -> Any:
    """Write a run as one file for others.

    Its record and heads, and the record of its features; no vectors, texts, users, people or paths.

    \b
    Example:
      micropref pack mixture-1a2b3c4d mine.run
      micropref pack mixture-1a2b3c4d mine.run --plan
    """
    return call.store.pack(**call.arguments)


@_command(Store.unpack)
def unpack(call: _Call) -> Any:
    """Write the run of a pack into the store.

    \b
    Example:
      micropref unpack mine.run
    """
    return call.store.unpack(**call.arguments)


@_command(Store.push, url=Form(metavar="URL", help="Folder, URL such as s3://bucket/folder, or owner/name of the hub."))
def push(call: _Call) -> Any:
    """Send a run or vectors where others read them.

    WHAT is a run, or features:ID for vectors. Repositories of the hub are made private.

    \b
    Example:
      micropref push mixture-1a2b3c4d me/brief-or-long --plan
      micropref push features:d2f468910a5c s3://bucket/helpsteer2 --license cc-by-4.0
    """
    return call.store.push(**call.arguments)


@_command(Store.pull, url=Form(metavar="URL", help="Where it was pushed to; owner/name@revision on the hub."))
def pull(call: _Call) -> Any:
    """Write what was pushed into the store.

    \b
    Example:
      micropref pull me/brief-or-long
      micropref pull s3://bucket/helpsteer2
    """
    return call.store.pull(**call.arguments)


def _can_answer() -> bool:
    return sys.stdin.isatty()


def _says_yes(question: str) -> bool:
    typer.echo(question, nl=False, err=True)  # stdout is the result's
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@app.command("rm")
def remove(
    what: Annotated[str, typer.Argument(metavar="X", help="Exact name or full id of a run, or a data set.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it without asking.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Remove a run or a data set, after saying what goes.

    Vectors are left to `gc`.

    \b
    Example:
      micropref rm mixture-1a2b3c4d
      micropref rm data:mine --yes
    """
    from micropref.cache.maintenance import removal
    from micropref.pipeline.show.runs import show_removal

    planned = removal.plan_removal(StoreFolder(store), what)
    if not yes:
        _announce(show_removal(planned, asked=True).rstrip("\n"))
        if not _can_answer():
            raise BadInput("rm asks before it removes, and there is no terminal to answer at: give --yes")
    if yes or _says_yes("Remove it? [y/N] "):
        removal.remove(StoreFolder(store), planned)
        planned = dataclasses.replace(planned, removed=True)
    text = show_removal(planned, asked=False) if planned.removed else "nothing was removed\n"
    _print(planned, text, as_json=as_json)


@app.command()
def doctor(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Print what a bug report needs.

    Versions, machine, store and environment; tokens are never shown.

    \b
    Example:
      micropref doctor
    """
    from micropref.cache.maintenance.doctor import examine
    from micropref.pipeline.show.doctor import show_doctor

    found = examine(StoreFolder(store))
    _print(found, show_doctor(found), as_json=as_json)


if __name__ == "__main__":
    sys.exit(app())
