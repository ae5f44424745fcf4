"""The backbone that made a run's features, loaded to read new texts exactly as it read those."""

from __future__ import annotations

from typing import Any

from micropref.cache.errors import BadInput
from micropref.cache.vectors.features import Features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.options import PINNED_DATE, PoolingName
from micropref.pipeline.rewards.scoring.options import BackboneOptions
from micropref.pipeline.text.tokenizer import PairTokenizer, Tokenizing

STORED_AS = ("store_dtype", "layout_version")
"""Settings of features that say how vectors are kept, not how they are made."""


def load_backbone(features: Features, options: BackboneOptions) -> tuple[Backbone, PairTokenizer]:
    """Load the backbone of some features, and the tokenizer that reads texts as theirs were read.

    Raises BadInput where it is not there, is another one, or where the vectors were imported and nothing here can make
    more of them.
    """
    settings, about = features.settings, features.about()
    if features.imported is not None:
        raise BadInput(
            f"features {features.id} were imported (made by {features.imported!r}): no backbone here reads new texts "
            "as theirs were read; score in the place that made them, with the run's heads"
        )
    name = options.backbone or about.get("name")
    if name is None:
        raise BadInput(f"features {features.id} do not say which backbone made them: give `backbone`")
    if settings["trust_remote_code"] and not options.trust_remote_code:
        raise BadInput(f"backbone {name} runs its own Python code: allow it with `trust_remote_code`")
    revision = about.get("revision") if options.backbone is None else None
    loaded = Backbone.load(
        name,
        dtype=settings["dtype"],
        device=options.device,
        pooling=_pooling(settings),
        max_length=settings["max_length"],
        revision=revision,
        trust_remote_code=options.trust_remote_code,
    )
    readings = [loaded, *([loaded.read_as_first_release()] if loaded.recipe.own else [])]
    differs = []
    for one in readings:
        tokenizer = one.pair_tokenizer(_tokenizing(settings))
        differs.append(_difference(features, {**one.settings(), **tokenizer.settings(), "width": one.width}))
        if differs[-1] is None:
            return one, tokenizer
    raise BadInput(
        f"backbone {name} is not the one that made features {features.id}: {differs[0]}; give the folder of the same "
        "files with `backbone`"
    )


def _tokenizing(settings: dict[str, Any]) -> Tokenizing:
    return Tokenizing(
        max_length=settings["max_length"],
        template="auto" if settings["template"] == "pair" else settings["template"],
        overlong=settings["overlong"],
        context_template=settings["context_template"],
        date=settings.get("date") or PINNED_DATE,
        special_tokens="text" if settings.get("user_text") == "text" else "keep",
    )


def _pooling(settings: dict[str, Any]) -> PoolingName:
    """Return the option that comes to the recorded pooling: a record says what it came to."""
    recorded = settings["pooling"]
    named: dict[str, PoolingName] = {"last": "last", "mean": "mean"}
    return "auto" if recorded["normalize"] or recorded["mode"] not in named else named[recorded["mode"]]


def _difference(features: Features, found: dict[str, Any]) -> str | None:
    """Return how a backbone's reading differs from that of the features; None: it does not."""
    made_with = {key: value for key, value in features.settings.items() if key not in STORED_AS}
    differs = sorted(key for key in made_with.keys() | found.keys() if made_with.get(key) != found.get(key))
    if not differs:
        return None
    name = differs[0]
    return f"its {name} is {_short(found.get(name))}, expected {_short(made_with.get(name))}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
