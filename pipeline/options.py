"""Option types that commands share. Free of torch, transformers and numpy: `micropref --help` has to be quick.

The lists of choices are those of the modules that use them; a test holds them equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

MINILM = "minilm"
BACKBONE_HELP = "minilm, smollm2, a folder, a .gguf file, or a hub id."
CONTEXT_TEMPLATE = "{context}\n\n{prompt}"
PINNED_DATE = "2024-07-26"

Pooling = Literal["auto", "last", "mean"]
Overlong = Literal["trim-prompt", "drop"]
Template = Literal["auto", "plain", "chat"]
Responses = Literal["plain", "context", "both"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Pass = Literal["auto", "tree", "packed", "padded"]
EngineName = Literal["local", "ray"]
EmbedDtype = Literal["auto", "float32", "bfloat16", "float16"]
StoreDtype = Literal["auto", "float16", "float32"]
Shape = Literal["auto", "preference", "hh", "ratings", "reversals"]
ImportShape = Literal["auto", "preference", "hh"]
OnBad = Literal["stop", "skip"]
FitMethod = Literal["mixture", "static", "single", "ensemble"]
SystemMethod = Literal[
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
Method = Literal[FitMethod, SystemMethod]
SweptMethod = Literal["mixture", "static", "ensemble"]
RouterInput = Literal["auto", "prompt", "context"]
RewardInput = Literal["plain", "context"]
Prior = Literal["example", "batch"]
FitDtype = Literal["auto", "bfloat16", "float32", "float64"]
Latent = Literal["pair", "user", "context"]
Weight = Literal["pair", "user"]
Solver = Literal["adamw", "lbfgs"]
TableFormat = Literal["table", "json", "csv", "parquet", "md"]
ArmoGate = Literal["paper", "small"]
GroupedBy = Literal["user", "attribute", "context"]
AdaptMethod = Literal["hedge", "bayes", "tempered", "shrunk", "hyre", "drm", "fit"]
Target = Literal["context", "example"]
Anchor = Literal["previous", "stage1"]
ShotsFrom = Literal["test", "train"]
Paper = Literal["helpsteer2", "rpr", "rewardbench", "transfer"]

StoreOption = Annotated[
    Path, typer.Option("--store", envvar="MICROPREF_STORE", help="Folder of features, data sets and runs.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
FeaturesOption = Annotated[
    str | None, typer.Option("--features", metavar="ID", help="Features id; default: the only one there is.")
]
DeviceOption = Annotated[DeviceName, typer.Option("--device", help="Where to compute.")]
RouterInputOption = Annotated[RouterInput, typer.Option("--router-input", help="auto: the context where there is one.")]
RewardInputOption = Annotated[RewardInput, typer.Option("--reward-input", help="What stands before responses.")]
HiddenOption = Annotated[int, typer.Option("--hidden", help="Units of the router; 0: linear.")]
PriorOption = Annotated[Prior, typer.Option("--prior", help="Pull each pair's weights, or the batch mean.")]
LrOption = Annotated[
    float, typer.Option("--lr", help="Peak learning rate; vectors wider than 384 take 384 / width of it.")
]
LatentOption = Annotated[
    Latent, typer.Option("--latent", help="What has one group: each pair its own, or all pairs of a user or context.")
]
WeightOption = Annotated[
    Weight, typer.Option("--weight", help="What counts alike: pairs, or the users or contexts of --latent.")
]
AnnealOption = Annotated[
    bool,
    typer.Option("--anneal/--no-anneal", help="Raise the weight of a user's or context's evidence over half the fit."),
]
BatchOption = Annotated[int, typer.Option("--batch", help="Pairs of a minibatch.")]
WeightDecayOption = Annotated[float, typer.Option("--wd", help="Weight decay.")]
EpochsOption = Annotated[int, typer.Option("--epochs", help="Passes over the pairs at most.")]
PatienceOption = Annotated[
    int, typer.Option("--patience", help="Epochs without a better validation NLL; 0: never stop.")
]
DataSeedOption = Annotated[int, typer.Option("--data-seed", min=0, help="Seed of the order of the pairs.")]
FitDtypeOption = Annotated[FitDtype, typer.Option("--dtype", help="Precision of the large matrix multiplications.")]
ProjectionOption = Annotated[
    str,
    typer.Option(
        "--projection", metavar="none|N|auto", help="Fit on N principal components; auto: as few as validation allows."
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="8GB",
        help="Most memory of the process; pairs that need more are streamed.  [default: 60 % of the machine's]",
    ),
]
PruneOption = Annotated[
    float | None,
    typer.Option("--prune", metavar="R", help="Remove heads whose predictions correlate above R, such as 0.95."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the first restart's initial weights.")]
DEFAULT_STORE = Path("data")
