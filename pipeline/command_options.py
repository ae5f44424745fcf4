"""Options of commands, taken from the methods of the Python API: names, types, defaults and help are written once.

`Store.train(name, *, k=None, ...)` becomes `micropref train NAME --k K ...`; a `Form` says where the command line
differs. Free of torch, so that `micropref --help` is quick.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from micropref.cache.store import StoreFolder
from micropref.pipeline.options import DEFAULT_STORE

_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n        .*)*)$", re.MULTILINE)
"""A line of a docstring's Args, with those that continue it."""
_NAMES_OF = {
    "run": "runs",
    "runs": "runs",
    "name": "datasets",
    "data": "datasets",
    "route_on": "datasets",
    "features": "features",
    "router_features": "features",
}
"""Arguments whose values are names in the store, which shells complete."""


@dataclass(frozen=True)
class Form:
    """How the command line has an argument, where the Python API has it otherwise."""

    flag: str | None = None
    """Such as `--format`; None: made of the argument's name, or none where Python takes the argument by position."""
    metavar: str | None = None
    """Shown for the value in the help; None: typer's choice."""
    short: str | None = None
    """Such as `-o`, besides the flag."""
    help: str | None = None
    """None: what the docstring says of the argument."""
    kind: Any = None
    """Type that is typed in; None: that of the argument."""
    default: Any = inspect.Parameter.empty
    """As it is typed in; empty: that of the argument."""
    parse: Callable[[Any], Any] | None = None
    """Makes the argument's value of what was typed in; not called for the default of an option left out."""


@dataclass(frozen=True)
class CommandOptions:
    """The options of the command that calls a method of the Python API, or one of several."""

    method: Callable[..., Any]
    """Such as `Store.train`."""
    owner: type
    """The class whose method it is: its other methods may document an argument."""
    forms: Mapping[str, Form]
    """By argument; others are as in Python."""
    more: tuple[Callable[..., Any], ...] = ()
    """Further methods that the command calls instead; an argument of several is that of the first."""

    @cached_property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """Return the methods' parameters by name."""
        found: dict[str, inspect.Parameter] = {}
        for method in (self.method, *self.more):
            found = found | {name: one for name, one in resolved_parameters(method).items() if name not in found}
        return found

    @cached_property
    def flags(self) -> dict[str, str]:
        """Return the option of each argument that has one, such as {"lam": "--lam"}."""
        named = {name: self.form(name).flag for name in self.arguments}
        return {name: flag.partition("/")[0] for name, flag in named.items() if flag}

    def form(self, name: str) -> Form:
        """Return how the command line has an argument, its flag settled."""
        form, argument = self.forms.get(name, Form()), self.arguments[name]
        if form.flag or argument.kind is not inspect.Parameter.KEYWORD_ONLY:
            return form
        flag = f"--{name.replace('_', '-')}"
        return replace(form, flag=f"{flag}/--no-{flag[2:]}" if argument.default is True else flag)

    def parameters(self) -> list[inspect.Parameter]:
        """Return the parameters of a typer command that has these options."""
        return [self._parameter(name) for name in self.arguments]

    def values(self, typed: Mapping[str, Any], given: frozenset[str]) -> dict[str, Any]:
        """Return the method's arguments from what was typed in. Raises BadInput as the forms' parsers do."""
        found = {}
        for name, argument in self.arguments.items():
            parse = self.form(name).parse
            if parse is not None and (name in given or argument.default is inspect.Parameter.empty):
                found[name] = parse(typed[name])
            else:
                found[name] = typed[name] if parse is None else argument.default
        return found

    def _parameter(self, name: str) -> inspect.Parameter:
        form, argument = self.form(name), self.arguments[name]
        default = argument.default if form.default is inspect.Parameter.empty else form.default
        told: dict[str, Any] = {"help": form.help or self._help(name), "metavar": form.metavar}
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        elif isinstance(default, str) and "\n" in default:
            told |= {"show_default": False, "help": f"{told['help']}  [default: {default!r}]"}
        if name in _NAMES_OF:
            told["autocompletion"] = completion(_NAMES_OF[name])
        kind = form.kind or _typed_in(argument.annotation)
        if default is None and type(None) not in get_args(kind):
            kind = kind | None
        if form.flag:
            info: Any = typer.Option(form.flag, *filter(None, [form.short]), **told)
        else:
            info = typer.Argument(**told | {"metavar": form.metavar or name.upper()})
        return argument.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default)

    def _help(self, name: str) -> str:
        """Return what the docstring says of an argument, as help of an option has it."""
        text = next(told[name] for told in map(documented, (self.method, *self.more)) if name in told)
        if other := re.fullmatch(r"as in `(\w+)`\.", text):
            text = documented(getattr(self.owner, other[1]))[name]
        text = re.sub(r"; None: (.*)\.$", r".  [default: \1]", text)
        if text.partition(" ")[0].rstrip(",") not in ("λ", *get_args(self.arguments[name].annotation)):
            text = text[0].upper() + text[1:]
        return re.sub(r"`([^`]*)`", lambda word: self.flags.get(word[1], word[1]), text)


@cache
def resolved_parameters(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return a method's parameters by name, annotations resolved, without `self`; its result is left unresolved."""
    signature = inspect.signature(method)
    texts = {name: one.annotation for name, one in signature.parameters.items() if name != "self"}
    hints = get_type_hints(types.SimpleNamespace(__annotations__=texts), vars(inspect.getmodule(method)))
    return {name: signature.parameters[name].replace(annotation=hint) for name, hint in hints.items()}


@cache
def documented(method: Callable[..., Any]) -> dict[str, str]:
    """Return what a docstring's section Args says of each argument, on one line."""
    section = (inspect.getdoc(method) or "").partition("Args:\n")[2].partition("\n\n")[0]
    return {name: " ".join(text.split()) for name, text in _ARGUMENT.findall(section)}


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Return an error of the Python API with options in place of arguments: "k is 0: ..." becomes "--k is 0: ...".

    Arguments are known as the message's first word where a verb follows it, and in backticks anywhere.
    """
    first, _, rest = message.partition(" ")
    if first in flags and rest.partition(" ")[0] in ("is", "has", "are", "have"):
        message = f"{flags[first]} {rest}"
    return re.sub(r"`(\w+)`", lambda word: flags.get(word[1], word[0]), message)


def completion(kind: str) -> Callable[[typer.Context, str], list[str]]:
    """Return what completes names of `runs`, `datasets` or `features` in the store that the command line names."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        before = ctx.parent.params.get("store") if ctx.parent else None
        store = StoreFolder(Path(ctx.params.get("store") or before or DEFAULT_STORE))
        found = store.names(kind)
        if kind == "runs":
            from micropref.cache.runs.names import read_names

            found = [one.name for one in read_names(store).entries] + found
        return [name for name in found if name.startswith(incomplete)]

    return complete


def _typed_in(hint: Any) -> Any:
    """Return the type that is typed in for an argument: a path where it may be one."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    kind = Path if Path in kinds else kinds[0]
    return kind | None if len(kinds) < len(get_args(hint)) else kind
