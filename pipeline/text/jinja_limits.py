"""Chat templates run as the code of strangers: sandboxed, for so long, to such a length, the same every time.

The environment is the one that transformers gives to chat templates, so that what a template renders is the same.
"""

from __future__ import annotations

import datetime
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_format
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from micropref.cache.errors import BadInput

MOST_SECONDS = 10.0
"""Time one text may take; a template takes well under a millisecond."""
MOST_STEPS = 300_000
"""Turns of loops and calls of macros for one text."""
MOST_CHARACTERS = 1 << 26
"""Characters of one text, and of any text or list that a template makes on its way, besides what it is given."""


class TooMuch(TemplateRuntimeError):  # noqa: N818 - nothing of ours went wrong
    """The template went beyond a limit."""


class Program:
    """A compiled chat template, to be called from any thread."""

    def __init__(self, source: str, date: datetime.date) -> None:
        """Compile a template, which gets `date` where it asks for the clock.

        Raises BadInput for one that is no template, or that gives another text each time.
        """
        self.source = source
        self._environment = _Environment()
        midnight = datetime.datetime.combine(date, datetime.time())
        self._environment.globals.update(
            raise_exception=_raise_exception, strftime_now=midnight.strftime, dict=_TemplateDict()
        )
        self._environment.globals.pop("lipsum", None)
        try:
            self._template = self._environment.from_string(source)
            found = _changing(self._environment.parse(source))
        except (TemplateError, RecursionError) as error:
            raise BadInput(
                f"the backbone's chat template is broken ({one_line(error)}); use the plain template"
            ) from None
        if found is not None:
            raise BadInput(
                f"the backbone's chat template uses {found}: the same text would be another one each time; correct its "
                "chat_template, or use the plain template"
            )

    def __call__(self, given: int, variables: Mapping[str, Any]) -> str:
        """Return what the template makes of `variables`, which hold about `given` characters.

        Raises TemplateError where it refuses them or goes beyond a limit, and whatever it does wrong.
        """
        with self._environment.limited(given):
            return self._template.render(**variables)


class _Limits(threading.local):
    steps = 0
    most = MOST_CHARACTERS
    until = float("inf")


class _Generation(Extension):
    """The tag {% generation %}, which marks what the assistant said and renders as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the marked statements."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self._limits = _Limits()
        self.filters["tojson"] = _tojson
        for name in ("center", "indent", "batch", "slice", "format", "replace", "join", "wordwrap", "round"):
            self.filters[name] = self._guarded(self.filters[name])
        self.concat = self._concat  # type: ignore[method-assign]
        self.tick = self._tick

    def limited(self, given: int) -> _Limited:
        """Return the limits of one text as a context."""
        return _Limited(self._limits, MOST_CHARACTERS + 8 * given)

    def _tick(self) -> str:
        """Count one turn of a loop or call of a macro."""
        limits = self._limits
        limits.steps += 1
        if limits.steps > MOST_STEPS:
            raise TooMuch(f"stopped after {MOST_STEPS:,} turns of its loops")
        if limits.steps % 256 == 0 and time.monotonic() > limits.until:
            raise TooMuch(f"stopped after {MOST_SECONDS:g} seconds")
        return ""

    def joined(self, pieces: list[Any]) -> str:
        """Return the texts of several values behind each other, what `~` stands for."""
        return self._concat(str(piece) for piece in pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator whose result may be far larger than its operands."""
        if operator == "+" and isinstance(left, str) and isinstance(right, str):  # nearly always
            self._check(len(left) + len(right))
            return left + right
        size = max(_size(left), _size(right))
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and right * left.bit_length() > 4096:
            raise TooMuch("a number of too many digits")
        if operator == "*" and size and not (_size(left) and _size(right)):
            times = right if _size(left) else left
            size *= times if isinstance(times, int) else 1
        elif operator == "+":
            size = _size(left) + _size(right)
        elif operator == "%" and isinstance(left, str):
            self._check_format(left, right)
        self._check(size)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        if obj is self.tick:
            return self._tick()
        self._check_arguments(args, kwargs)
        result = super().call(context, obj, *args, **kwargs)
        self._check(_size(result))
        return result

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Joins().visit(super()._parse(source, name, filename))
        for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
            assert isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock)
            tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
            node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        tree.set_environment(self)
        return tree

    def _guarded(self, made: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that may blow a text up, held to the limits; what jinja marked it with stays."""

        def limited(*args: Any, **kwargs: Any) -> Any:
            self._check_arguments(args, kwargs)
            if made is do_format:
                self._check_format(str(args[0]), args[1:])
            result = made(*args, **kwargs)
            self._check(_size(result))
            return result

        vars(limited).update(vars(made))
        return limited

    def _concat(self, pieces: Iterable[str]) -> str:
        found, size = [], 0
        for piece in pieces:
            size += len(piece)
            self._check(size)
            found.append(piece)
        return "".join(found)

    def wrap_str_format(self, value: Any) -> Any:
        """Refuse what `_check_format` does."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            self._check_format(value.__self__, ())
        return wrapped

    def _check_format(self, form: str, given: Any) -> None:
        """Refuse widths that make a text far longer than what goes into it."""
        wide = isinstance(given, tuple) and any(isinstance(one, int) and abs(one) > 10**6 for one in given)
        if any(len(run) > 6 for run in _digits(form)) or ("*" in form and wide):
            raise TooMuch("a format with a width of millions")

    def _check_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and abs(value) > self._limits.most:
                raise TooMuch(f"a width or count of {value:,}"[:60])

    def _check(self, size: int) -> None:
        if size > self._limits.most:
            raise TooMuch(f"stopped at a text of more than {self._limits.most:,} characters")


class _Joins(NodeTransformer):
    """Has `~` done by the environment, which knows the limits."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja's name for it
        """Return a call in place of the operator."""
        self.generic_visit(node)
        joined = nodes.EnvironmentAttribute("joined")
        return nodes.Call(joined, [nodes.List(node.nodes)], [], None, None, lineno=node.lineno)


class _Limited:
    def __init__(self, limits: _Limits, most: int) -> None:
        self._limits, self._most = limits, most

    def __enter__(self) -> None:
        self._limits.steps, self._limits.most = 0, self._most
        self._limits.until = time.monotonic() + MOST_SECONDS

    def __exit__(self, *_: object) -> None:
        self._limits.most, self._limits.until = MOST_CHARACTERS, float("inf")


class _TemplateDict:
    """`dict` for templates, without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def one_line(error: BaseException) -> str:
    """Return what an error says, its kind where it says nothing, on one line."""
    text = " ".join(str(error).split())
    shown = text if len(text) <= 200 else f"{text[:197]}..."
    return shown if isinstance(error, TemplateError) and shown else f"{type(error).__name__}: {shown}".rstrip(": ")


def _changing(tree: nodes.Template) -> str | None:
    """Return what in a template gives another text each time, None where nothing does."""
    for node in tree.find_all((nodes.Filter, nodes.Name)):
        if isinstance(node, nodes.Filter) and node.name == "random":
            return "the filter `random`"
        if isinstance(node, nodes.Name) and node.ctx == "load" and node.name == "lipsum":
            return "`lipsum`"
    return None


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 0


def _digits(text: str) -> list[str]:
    return "".join(letter if letter.isdigit() else " " for letter in text[:10_000]).split()
