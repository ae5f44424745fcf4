"""The finished chunks of a running sweep, on disk: an interrupted sweep resumes from them.

N validation pairs. A chunk keeps every setting's figures and validation predictions, and the weights of the
settings that may still be chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pyarrow as pa
import torch
from safetensors.torch import load, save

from micropref.cache.commits import Commit, commit, commit_paths, read_commit, write_file, write_table
from micropref.cache.errors import Damaged
from micropref.cache.keys import canonical_json, short_id
from micropref.heads.fitting.settings import FitSetting
from micropref.heads.mixture import Mixture
from micropref.pipeline.training.results import Outcome

CHUNKS = "chunks"
"""Folder of an unfinished run."""


def save_chunk(run: Path, outcomes: Sequence[Outcome], tested: str | None) -> None:
    """Write a chunk of settings below a run's folder; `tested` names the test pairs that their figures are of."""
    entries = [{"setting": asdict(one.setting), "figures": one.figures, "fit": one.fit} for one in outcomes]
    predictions = pa.table(
        {
            "log_probability": pa.array([one.log_probability.numpy() for one in outcomes], pa.list_(pa.float64())),
            "favourites": pa.array([one.favourites.numpy() for one in outcomes], pa.list_(pa.int64())),
        }
    )
    tensors = {
        f"{place}.{name}": tensor.contiguous()
        for place, one in enumerate(outcomes)
        if one.mixture is not None
        for name, tensor in one.mixture.state().items()
    }
    folder, stem = run / CHUNKS, short_id([entry["setting"] for entry in entries])
    files = {
        "predictions": write_table(folder, stem, "predictions", predictions),
        "weights": write_file(folder, stem, "weights", "safetensors", lambda file: file.write(save(tensors)) and 1),
    }
    commit(folder, stem, files, {"outcomes": entries, "tested": tested})


def load_chunks(run: Path, settings: Sequence[FitSetting], tested: str | None) -> dict[int, Outcome]:
    """Return the finished outcomes by their setting's place.

    A damaged chunk counts as not finished, and so does one with figures of other test pairs than these, or of none.
    """
    places = {canonical_json(asdict(setting)): place for place, setting in enumerate(settings)}
    found: dict[int, Outcome] = {}
    for item in filter(None, map(_whole, commit_paths(run / CHUNKS))):
        same = item.record.get("tested", "") == tested  # chunks of earlier versions name none
        if same and not any(item.damage(role, digest=True) for role in item.files):
            found |= {places[canonical_json(asdict(one.setting))]: one for one in _outcomes(item)}
    return found


def _whole(path: Path) -> Commit | None:
    try:
        return read_commit(path)
    except Damaged:
        return None


def remove_chunks(run: Path) -> None:
    """Remove the chunks of a sweep whose run is saved."""
    for path in commit_paths(run / CHUNKS):
        item = _whole(path)
        if item is None:  # damaged: what it named is left to `gc`
            path.unlink(missing_ok=True)
        else:
            item.remove()


def _outcomes(item: Commit) -> list[Outcome]:
    predictions = pl.read_parquet(item.path("predictions"))
    weights = load(item.path("weights").read_bytes())
    return [
        Outcome(
            FitSetting(**entry["setting"]),
            entry["figures"],
            entry["fit"],
            predictions["log_probability"][place].to_torch(),
            predictions["favourites"][place].to_torch(),
            _mixture(weights, f"{place}."),
        )
        for place, entry in enumerate(item.record["outcomes"])
    ]


def _mixture(weights: Mapping[str, torch.Tensor], prefix: str) -> Mixture | None:
    state = {name.removeprefix(prefix): part for name, part in weights.items() if name.startswith(prefix)}
    return Mixture.from_state(state) if state else None
