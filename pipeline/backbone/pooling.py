"""Pooling: from the hidden states of a text's tokens to the vector of the text.

Letters: B texts, T rows of hidden states, M tokens of all texts, D width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from micropref.cache.errors import BadInput
from micropref.pipeline.options import PoolingName

Mode = Literal["last", "mean", "cls"]
"""Hidden state of the last token, mean over all tokens, or hidden state of the first."""
_KNOWN_MODES: dict[str, Mode] = {"lasttoken": "last", "mean": "mean", "cls": "cls"}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the vector of a text is made."""

    mode: Mode
    normalize: bool = False
    """Whether the vector is scaled to length 1."""

    def settings(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)

    def __call__(self, hidden: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """Return [B, D] float32 vectors from hidden states [T, D].

        `rows` [M] are the places of each text's tokens in them, text after text; `lengths` [B] those of the texts.
        """
        ends = lengths.cumsum(0)
        if self.mode == "last":
            vectors = hidden[rows[ends - 1]].float()
        elif self.mode == "cls":
            vectors = hidden[rows[ends - lengths]].float()
        else:
            # Summed in float32: a long sum in bfloat16 would lose its later terms.
            vectors = torch.segment_reduce(hidden[rows].float(), "mean", lengths=lengths)
        return functional.normalize(vectors, dim=1) if self.normalize else vectors


def choose_pooling(name: PoolingName, folder: Path, *, causal: bool) -> Pooling:
    """Return the pooling of a name; `auto` is the last token for causal backbones, an encoder's own otherwise.

    Raises BadInput on `auto` for an encoder whose modules.json asks for more than pooling and normalizing.
    """
    if name != "auto":
        return Pooling(name)
    return Pooling("last") if causal else _own_pooling(folder)


def _own_pooling(folder: Path) -> Pooling:
    """Return what an encoder's sentence-transformers files ask for; without any, the mean."""
    if not (folder / "modules.json").is_file():
        return Pooling("mean")
    mode, normalize = "mean", False
    for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Pooling":
            mode = _mode(json.loads((folder / module["path"] / "config.json").read_text(encoding="utf-8")))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise _unsupported(folder, f"a {kind} module")
    if mode not in _KNOWN_MODES:
        raise _unsupported(folder, f"{mode} pooling")
    return Pooling(_KNOWN_MODES[mode], normalize)


def _mode(config: dict[str, Any]) -> str:
    modes = config.get("pooling_mode", [mode for flag, mode in _FLAGS.items() if config.get(flag)])
    return modes if isinstance(modes, str) else "+".join(modes)


def _unsupported(folder: Path, what: str) -> BadInput:
    return BadInput(
        f"{folder / 'modules.json'}: found {what}; auto pooling knows mean, cls or last token and Normalize: "
        "choose pooling mean or last"
    )
