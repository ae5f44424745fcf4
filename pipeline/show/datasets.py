"""What is known of public data sets, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from micropref.pipeline.show.lines import next_step, paragraphs

if TYPE_CHECKING:
    from micropref.pipeline.named.catalogue import Catalogue

SHOWN = ("licence", "size", "labels", "attributes", "contexts", "users", "protocol")


def show_catalogue(found: Catalogue) -> str:
    """Return a paragraph for each data set, or all that is known of one."""
    if found.chosen is None:
        blocks = [_short(one) for one in found.datasets]
        return "\n".join(blocks) + "\n" + paragraphs(["micropref datasets NAME prints all that is known of one"])
    (one,) = found.datasets
    lines = [one["name"], *(f"  {name}: {one[name]}" for name in SHOWN if one[name])]
    lines += [f"  config {name}: columns {', '.join(columns)}" for name, columns in one["configs"].items()]
    lines += [f"  in this store: {', '.join(one['embedded_as'])}"] if one["embedded_as"] else []
    return paragraphs(lines) + next_step("embed", one["name"])


def _short(one: dict[str, Any]) -> str:
    here = f"; in this store: {', '.join(one['embedded_as'])}" if one["embedded_as"] else ""
    lines = [f"{one['name']} ({one['licence']}){here}"]
    return paragraphs([*lines, *(f"  {name}: {one[name]}" for name in ("size", "attributes", "contexts", "users"))])
