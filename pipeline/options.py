"""Option types that commands share. Free of torch, transformers and numpy: `micropref --help` has to be quick.

The lists of choices are those of the modules that use them; a test holds them equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

MINILM = "minilm"
CONTEXT_TEMPLATE = "{context}\n\n{prompt}"
PINNED_DATE = "2024-07-26"

Pooling = Literal["auto", "last", "mean"]
Overlong = Literal["trim-prompt", "drop"]
Template = Literal["auto", "plain", "chat"]
Responses = Literal["plain", "context", "both"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
EmbedDtype = Literal["auto", "float32", "bfloat16", "float16"]
StoreDtype = Literal["auto", "float16", "float32"]
Shape = Literal["auto", "preference", "hh", "ratings", "reversals"]
OnBad = Literal["stop", "skip"]
Method = Literal["mixture", "static", "single"]
RouterInput = Literal["auto", "prompt", "context"]
RewardInput = Literal["plain", "context"]
Prior = Literal["example", "batch"]
FitDtype = Literal["auto", "bfloat16", "float32", "float64"]
Solver = Literal["adamw", "lbfgs"]
TableFormat = Literal["table", "json", "csv", "parquet", "md"]

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="MICROPREF_STORE", help="Folder of features, data sets and runs.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
FeaturesOption = Annotated[
    str | None, typer.Option("--features", metavar="ID", help="Features id; default: the only one there is.")
]
DeviceOption = Annotated[DeviceName, typer.Option("--device", help="Where to compute.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the first restart's initial weights.")]
DEFAULT_STORE = Path("data")
