"""The choices that options of fits and methods have. Free of torch, so that `micropref --help` is quick."""

from __future__ import annotations

from typing import Literal

FitMethod = Literal["mixture", "static", "single", "ensemble"]
"""Methods of the batched fit, `heads.fitting`."""
OtherMethod = Literal[
    "mixture-user",
    "maxmin",
    "drm",
    "lore",
    "dpl-mean-variance",
    "dpl-categorical",
    "pal-a",
    "pal-b",
    "armo",
    "own-head",
]
"""Methods with a fit of their own, `heads.methods`."""
Method = Literal[FitMethod, OtherMethod]
SweptMethod = Literal["mixture", "static", "ensemble"]
"""Methods of the batched fit that have more than one head."""
Prior = Literal["example", "batch"]
"""What λ pulls to uniform: each pair's weights, or their mean over the minibatch."""
Solver = Literal["scikit-learn", "adamw", "lbfgs"]
"""scikit-learn: one head, its L2 chosen on validation; the others fit several settings of every kind."""
Latent = Literal["pair", "user", "context"]
"""What has one group: every pair its own, or all pairs of a user or of a context the same."""
Weight = Literal["pair", "user"]
"""What the loss is a mean over: pairs, or the users or contexts that have a group."""
ComputeDtype = Literal["auto", "bfloat16", "float32", "float64"]
ArmoGate = Literal["paper", "small"]
"""ARMO's gate: the published size (3 × 1024), or 1 × 128 for CPUs."""
AdaptMethod = Literal["hedge", "bayes", "tempered", "shrunk", "hyre", "drm", "fit"]
Target = Literal["context", "example"]
"""What shares a soft label when a router is refitted: all contexts of an attribute, or one pair."""
RouteSolver = Literal["ridge", "adam"]
"""How a router is re-fitted: a linear correction of it with a ridge, or a descent on all its weights."""
Anchor = Literal["previous", "stage1"]
"""Where soft labels start: from the router so far, or from the run's."""
PER_UNIT = frozenset({"known", "cluster"})
"""Tensors of a method's `state` with a row for each unit of its data; they stay where a run leaves without people."""
SHARED_TENSORS = frozenset(
    (
        *("heads", "static", "no_context", "shares", "unknown", "prototypes", "penalties", "scale", "weights"),
        *("router.v1", "router.b1", "router.v2", "router.b2"),
        *(f"{network}{part}{layer}" for network in ("", "f.", "g.") for part in "vb" for layer in range(4)),
    )
)
"""The other tensors of methods and of `adapt`; only those that are named here leave a store."""
