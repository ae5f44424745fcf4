"""What of the store's records leaves it: fields that are named here, where they hold numbers and short plain words.

A field that is not named here stays and is named, so that what a later version writes does not leave unseen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from micropref.cache.errors import BadInput
from micropref.pipeline.options import MINILM, SMOLLM2

_ASKED = ("run", "parent", "method", "data", "data_split", "data_digest", "features", "k", "lam", "seed", "combine")
_FIGURES = (
    *("scale", "validation_nll", "validation_nll_se", "validation_accuracy", "effective_heads"),
    *("scale_known", "validation_nll_known", "validation_accuracy_known"),
    *("train_pairs", "validation_pairs", "pairs_without_context", "streamed", "dead_heads", "duplicate_heads"),
    *(
        "best_epoch",
        "epochs_run",
        "train_history",
        "validation_history",
        "validation_accuracy_history",
        "execution",
        "path",
        "c",
        "pruned",
    ),
    *("restarts", "merged", "restarts_agreeing", "by_k", "fit_width", "lr_factor", "widths_tried"),
    *("identified", "one_group_for", "router_choice", "context_known", "router_reading", "tau", "tau_nll"),
)
FIELDS = frozenset((*_ASKED, *_FIGURES, "settings", "created", "versions", "heads_digest"))
"""Of run.json. `units` and `groups` hold names of people, or texts, and are decided on by themselves."""
NEEDED = frozenset({"run", "parent", "method", "data", "data_digest", "features", "k", "settings", "heads_digest"})
LISTED = ("lam", "seed", "created", "validation_nll", "validation_accuracy", "train_pairs")
"""What commands expect to be there, null where it is not known."""
SETTINGS = frozenset(
    (
        *("method", "k", "lam", "prior", "hidden", "lr", "weight_decay", "l2", "seed", "latent", "weight"),
        *("epochs", "batch", "data_seed", "dtype", "device", "patience", "warmup", "anneal", "solver"),
        *("merge", "router_features", "restarts", "router_input", "reward_input", "projection", "prune"),
        *("single", "gate", "target", "anchor", "tau", "budgets"),
        *("by", "shots", "shots_from", "strength", "routed", "combine", "forecaster", "switches"),
    )
)
"""Of run.json's `settings`."""
PEOPLE = frozenset({"name", "method", "strength", "weights", "scale", "routed", "combine", "created"})
"""Of a person's file: not the answers, nor the data they are about."""
DESCRIBED = frozenset(
    (
        *("checkpoint", "tokenizer", "pooling", "dtype", "store_dtype", "width", "trust_remote_code", "attention"),
        *("template", "date", "special_tokens", "special_tokens_behind", "max_length", "overlong"),
        *("context_template", "user_text", "layout_version", "imported"),
    )
)
"""Of features.json, which goes out whole or not at all: the features id is its hash."""
ABOUT = frozenset({"name", "revision", "architecture", "causal", "reward_head", "imported"})
"""Of about.json; not the device, and the name only where anybody can find the backbone by it."""
_WORD = re.compile(r"[A-Za-z0-9_.+-][A-Za-z0-9_ .,:+-]{0,63}|")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")
_DEEP = 6


@dataclass(frozen=True)
class Shared:
    """A record as it leaves, and what of it stays."""

    record: dict[str, Any]
    left_out: tuple[str, ...]
    """Names of fields, `settings.x` for one of the settings."""


def shared_run(record: dict[str, Any]) -> Shared:
    """Return what of run.json leaves, but for `units` and `groups`. Raises BadInput where what is needed cannot."""
    kept = {name: value for name, value in record.items() if name in FIELDS and (name == "settings" or is_plain(value))}
    settings = record["settings"]
    kept["settings"] = {name: value for name, value in settings.items() if name in SETTINGS and is_plain(value)}
    if lacking := sorted(NEEDED - kept.keys()):
        raise BadInput(f"run {record.get('run')}: its {', '.join(lacking)} cannot be shared; it is no plain word")
    kept |= {name: None for name in LISTED if name not in kept}
    apart = {"units", "groups"}
    left = [
        name
        for name, value in record.items()
        if name not in apart and (name not in kept or (name != "settings" and kept[name] != value))
    ]
    left += [f"settings.{name}" for name in settings if name not in kept["settings"]]
    return Shared(kept, tuple(sorted(left)))


def shared_about(about: dict[str, Any]) -> Shared:
    """Return what of about.json leaves: the backbone's name where it is a package's or a hub's, never a path."""
    kept = {name: value for name, value in about.items() if name in ABOUT - {"name", "revision"} and is_plain(value)}
    name, revision = about.get("name"), about.get("revision")
    packaged = name in (MINILM, SMOLLM2) and revision is None
    on_hub = (
        isinstance(name, str) and isinstance(revision, str) and _HUB_ID.fullmatch(name) and _COMMIT.fullmatch(revision)
    )
    kept |= {"name": name, "revision": revision} if packaged or on_hub else {"name": None, "revision": None}
    left = [name for name in about if name not in kept or kept[name] != about[name]]
    return Shared(kept, tuple(f"about.{name}" for name in sorted(left)))


def check_settings(features_id: str, settings: dict[str, Any]) -> None:
    """Raise BadInput where the settings of features hold what may not leave, or what this version does not know."""
    unknown = sorted(settings.keys() - DESCRIBED)
    if unknown:
        raise BadInput(f"features {features_id}: settings {', '.join(unknown)} are not known here: update micropref")
    free = {"context_template", "imported"}  # typed in by a person, part of the features id, and named before they go
    odd = [name for name, value in settings.items() if name not in free and not is_plain(value)]
    odd += ["imported"] if not is_plain(settings.get("imported"), hub_ids=True) else []
    if odd:
        raise BadInput(
            f"features {features_id}: {odd[0]} is {str(settings[odd[0]])[:60]!r}, which may be a path or a text of "
            "yours; it is part of the features id and cannot be left out, so these features cannot be shared"
        )


def is_plain(value: Any, depth: int = 0, *, hub_ids: bool = False) -> bool:
    """Say whether a value is a number, a short word without slashes (or owner/name), or made of these.

    Example:
        >>> is_plain({"seed": 3, "dtype": "bfloat16"}), is_plain("/home/ann/model"), is_plain("a@b.org")
        (True, False, False)

    """
    if value is None or isinstance(value, bool | int | float):
        return True
    if isinstance(value, str):
        forms = (_WORD, _DIGEST, *([_HUB_ID] if hub_ids else []))
        return any(form.fullmatch(value) for form in forms)
    if depth == _DEEP:
        return False
    if isinstance(value, list):
        return all(is_plain(one, depth + 1, hub_ids=hub_ids) for one in value)
    if isinstance(value, dict):
        return all(is_plain(name) and is_plain(one, depth + 1, hub_ids=hub_ids) for name, one in value.items())
    return False
