"""An embedding model's own recipe: what its sentence-transformers files say of texts and of their vectors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.pooling import MODES, SINGLE_MODES, Pooling
from micropref.pipeline.options import PoolingName
from micropref.pipeline.text.text_recipe import PLAIN_TEXT, TextRecipe

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""In the order in which sentence-transformers puts several of them side by side."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a backbone's vectors are made of texts."""

    pooling: Pooling
    """From the hidden states of a text's tokens to its vector."""
    text: TextRecipe = PLAIN_TEXT
    """What is done to a text before it is read."""
    own: bool = False
    """Whether these are the files of an embedding model, rather than what suits any backbone."""

    def describe(self) -> str:
        """Return the recipe in words."""
        parts = [f"{self.pooling.mode} pooling", *(["vectors of length 1"] if self.pooling.normalize else [])]
        parts += ["texts end as its tokenizer ends them"] if self.text.ending else []
        parts += ["small letters"] if self.text.lower_case else []
        parts += [f"{self.text.prompt!r} in front of each text"] if self.text.prompt else []
        return ", ".join(parts)


def choose_recipe(name: PoolingName, folder: Path, *, causal: bool) -> Recipe:
    """Return how texts are read and pooled: `auto` is an embedding model's own recipe where its files have one.

    Otherwise it is the last token for causal backbones and the mean for encoders. `last` and `mean` are that and
    nothing else. Raises BadInput on `auto` for a model whose files ask for what is not followed here.
    """
    if name != "auto":
        return Recipe(Pooling(name))
    if not (folder / "modules.json").is_file():
        return Recipe(Pooling("last" if causal else "mean"))
    try:
        return _own_recipe(folder, causal=causal)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BadInput(
            f"{folder / 'modules.json'}: cannot be read as the modules of an embedding model "
            f"({type(error).__name__}: {error}): correct it, or choose pooling mean or last"
        ) from None


def first_release(recipe: Recipe, *, causal: bool) -> Recipe:
    """Return how version 0.1.0 read the same files: an encoder's pooling, but nothing of a causal model's recipe."""
    return Recipe(Pooling("last")) if causal else Recipe(recipe.pooling)


def _own_recipe(folder: Path, *, causal: bool) -> Recipe:
    modes, normalize, config = list[str](), False, dict[str, Any]()
    for module in _json(folder / "modules.json"):
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Pooling":
            config = _json(folder / module["path"] / "config.json")
            modes = _modes(config)
        elif kind == "Normalize":
            normalize = True
        elif kind not in ("Transformer", "Dropout"):
            raise _unsupported(folder, f"a {kind} module")
    if not config:  # nothing says how a text's vector is made
        return Recipe(Pooling("last" if causal else "mean", normalize))
    mode = "+".join(MODES.get(mode, mode) for mode in modes)
    if not modes or not set(mode.split("+")) <= set(SINGLE_MODES):
        raise _unsupported(folder, f"{mode or 'no'} pooling")
    text = TextRecipe(_default_prompt(folder), _lower_case(folder), ending=causal)
    if text.prompt and config.get("include_prompt") is False:
        raise _unsupported(folder, "pooling that leaves its prompt out")
    return Recipe(Pooling(mode, normalize), text, own=True)


def _modes(config: dict[str, Any]) -> list[str]:
    modes = config.get("pooling_mode", [mode for flag, mode in _FLAGS.items() if config.get(flag)])
    return modes.split("+") if isinstance(modes, str) else list(modes)


def _default_prompt(folder: Path) -> str:
    """Return what its own library puts in front of a text unless told otherwise."""
    config = _json(folder / "config_sentence_transformers.json")
    prompts, name = config.get("prompts") or {}, config.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise KeyError(f"config_sentence_transformers.json has no prompt of its default name {name!r}")
    return str(prompts[name] or "") if name is not None else ""


def _lower_case(folder: Path) -> bool:
    files = sorted(folder.glob("sentence_*_config.json"))  # the middle is the kind of model: bert, roberta, ...
    return any(bool(_json(path).get("do_lower_case", False)) for path in files)


def _json(path: Path) -> Any:
    if not path.is_file():
        if path.name == "config.json":
            raise FileNotFoundError(f"{path} is not there")
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def _unsupported(folder: Path, what: str) -> BadInput:
    return BadInput(
        f"{folder / 'modules.json'}: found {what}; auto pooling knows Pooling (cls, max, mean, last token) and "
        "Normalize: choose pooling mean or last"
    )
