"""The contexts that a run's router was fitted on, as vectors next to its weights: what later ones are compared with."""

from __future__ import annotations

from typing import Any

import polars as pl
from safetensors.torch import load, save

from micropref.cache.commits import commit, write_file
from micropref.cache.runs.records import CONTEXTS, Run
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.context_keys import context_keys
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.gathering import gather_keys
from micropref.cache.vectors.router_inputs import SIDE_BY_SIDE
from micropref.heads.fitting.known_contexts import KnownContexts, known_contexts
from micropref.pipeline.training.data import FitData


def save_contexts(store: StoreFolder, run_id: str, data: FitData) -> dict[str, Any]:
    """Keep the contexts of the pairs to fit in a run's folder, before the run itself; return what run.json says.

    Nothing where the router does not read them by themselves, or where they are too few to compare with.
    """
    if data.router_input not in ("context", SIDE_BY_SIDE):
        return {}
    contexts = data.fitting.table["context"].drop_nulls().unique().sort()
    keys = _keys(data.router_features or data.features, contexts)
    known = known_contexts(gather_keys(data.router_features or data.features, keys))
    if known is None:
        return {}
    said = {"threshold": known.threshold, "contexts": len(known.vectors), "of": len(contexts)}
    folder, tensors = store.run(run_id), {"vectors": known.vectors.half().contiguous()}
    file = write_file(
        folder, CONTEXTS, CONTEXTS, "safetensors", lambda file: file.write(save(tensors)) and len(known.vectors)
    )
    commit(folder, CONTEXTS, {CONTEXTS: file}, {"threshold": known.threshold})
    return {"context_known": said}


def open_contexts(run: Run) -> KnownContexts | None:
    """Return what a run keeps of its contexts; None where it keeps nothing. Raises Damaged where it is not whole."""
    kept = run.contexts()
    if kept is None:
        return None
    return KnownContexts(load(kept.path(CONTEXTS).read_bytes())["vectors"], kept.record["threshold"])


def count_known(run: Run, features: Features, contexts: pl.Series) -> int | None:
    """Return how many distinct contexts, embedded by themselves, resemble some that a run was fitted on.

    None where it keeps none.
    """
    known = open_contexts(run)
    if known is None:
        return None
    keys = _keys(features, contexts.unique().sort())
    return int(known.knows(gather_keys(features, keys)).sum()) if len(keys) else 0


def _keys(features: Features, contexts: pl.Series) -> pl.Series:
    """Return the keys of those contexts that are embedded by themselves."""
    frame = contexts.to_frame("context").join(context_keys(features), on="context", maintain_order="left")
    return frame["key"]
