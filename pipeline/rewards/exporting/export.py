"""`export`: a run and one taste as a model folder of transformers or sentence-transformers, checked before it is named.

K heads, D embedding width.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from micropref.cache.atomic import check_folder_of
from micropref.cache.choices import TRAIN
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.data import data_is_elsewhere
from micropref.cache.runs.records import Run
from micropref.cache.store import StoreFolder
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.named.licences import run_licences, sources_on_hub
from micropref.pipeline.options import EmbedDtype
from micropref.pipeline.progress import Announce
from micropref.pipeline.rewards.exporting.card import write_card, write_record
from micropref.pipeline.rewards.exporting.causal import patch_config, write_weights
from micropref.pipeline.rewards.exporting.chat import choose_pad, exported_template, rendered, write_tokenizer
from micropref.pipeline.rewards.exporting.check import check
from micropref.pipeline.rewards.exporting.encoder import write_cross_encoder
from micropref.pipeline.rewards.exporting.files import Placing
from micropref.pipeline.rewards.exporting.head import FixedHead, fixed_head
from micropref.pipeline.rewards.scoring.options import BackboneOptions
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.taste import Taste

CLEARLY_LESS = 0.02
"""Accuracy that fixed weights may cost before that is a warning."""
CHECKED_PAIRS = 8
"""Stored pairs whose rewards are computed from the folder again."""
OWN_PROMPTS = (
    *("Hi", "Name a river in Italy.", "How do I cook rice?", "What is 7 times 8?"),
    *("Write a line about the sea.", "Why is the sky blue?", "Fix this: print(1", "Say good night in French."),
)
OWN_RESPONSES = ("Yes.", "That depends on what you need; here is how I would go about it, step by step.")
"""What is scored in the place of stored pairs where a run came without its data."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export`."""

    taste: Taste = field(default_factory=Taste)
    """For whom the heads are weighed."""
    all_heads: bool = False
    """Whether every head is an output of its own, for people who weigh them themselves."""
    dtype: EmbedDtype = "auto"
    """Dtype of the folder's weights; auto: they stay as they are and are read in the run's."""
    link: bool = False
    """Whether the backbone's files are linked instead of copied."""
    force: bool = False
    """Whether a folder that is there is replaced."""
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    """How the backbone is loaded; where it computes is where the check does."""


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote."""

    run: str
    """The run whose heads these are."""
    folder: str
    """The model folder."""
    kind: str
    """Class that reads it."""
    outputs: int
    """Numbers it gives for a text."""
    weights: list[float]
    """[K] what heads weigh; empty where each is an output of its own."""
    averaged_over: int
    """Prompts over which weights that depend on the prompt are a mean; 0: they do not."""
    validation_pairs: int
    """Validation pairs of this taste, on which accuracies are."""
    routed_accuracy: float | None
    """Of the run, weighing its heads for each prompt."""
    averaged_accuracy: float | None
    """Of the run with these weights for every prompt."""
    exported_accuracy: float | None
    """Of the folder's one head."""
    checked_texts: int
    """Stored texts whose reward was computed from the folder again."""
    largest_difference: float
    """Of the folder's rewards to the run's, which another pass computes: in 16 bits that alone changes them."""
    bytes: int
    """Size of the folder."""


@holds(run="run_id")
def export(
    store: StoreFolder, run_id: str, folder: Path, options: ExportOptions, announce: Announce = lambda _: None
) -> ExportReport:
    """Write a model folder, load it again, and compare its rewards with the run's before it gets its name.

    Raises BadInput where there is a folder of that name already, or this run or backbone cannot be exported.
    """
    _check_target(folder, force=options.force)
    engine = ScoringEngine.open(store, run_id, options.backbone, announce=announce)
    try:
        heads, backbone = engine.heads, engine.backbone
        if heads.fitted.reading.heads_read_contexts:
            raise BadInput(
                f"run {heads.run.id}: its heads read responses behind contexts, and a model folder reads a prompt and "
                "a response; take a run trained with `reward_input` plain"
            )
        one = fixed_head(store, engine, options.taste)
        mix = torch.eye(heads.k, dtype=torch.float64) if options.all_heads else one.mix[None]
        with _new_folder(folder) as new:
            texts = _texts(store, heads.run)
            placing = _placing(backbone, options)
            kind = _write(engine, new, mix @ heads.heads, texts, placing)
            checked = check(engine, new, mix, texts, placing.dtype)
            write_record(new, heads.run, options.taste, one, mix, checked.difference)
            about = {"name": backbone.checkpoint.name, "revision": backbone.checkpoint.revision}
            licences, data = run_licences(store, heads.run, about), sources_on_hub(store, heads.run.record["data"])
            write_card(new, heads.run, backbone, options.taste, one, len(mix), licences, data)
    finally:
        engine.close()
    for line in _warnings(one):
        announce(line)
    return ExportReport(
        run=heads.run.id,
        folder=str(folder),
        kind=kind,
        outputs=len(mix),
        weights=[] if options.all_heads else list(one.weights),
        averaged_over=one.averaged_over,
        validation_pairs=one.pairs,
        routed_accuracy=one.routed_accuracy,
        averaged_accuracy=one.averaged_accuracy,
        exported_accuracy=None if options.all_heads else one.exported_accuracy,
        checked_texts=checked.texts,
        largest_difference=checked.difference,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


def _warnings(one: FixedHead) -> list[str]:
    """Return a warning where the same weights for every prompt cost accuracy clearly."""
    if one.routed_accuracy is None or one.averaged_accuracy is None:
        return []
    if one.routed_accuracy - one.averaged_accuracy <= CLEARLY_LESS:
        return []
    return [
        f"warning: weights that are the same for every prompt cost accuracy on {one.pairs:,} validation pairs: "
        f"{one.routed_accuracy:.3f} -> {one.averaged_accuracy:.3f}; name a context, an attribute or a person that the "
        "folder is for"
    ]


def _check_target(folder: Path, *, force: bool) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadInput(f"{folder}: found a file or link; expected the name of a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        if not force:
            raise BadInput(f"{folder}: there is a folder already; give another name, or replace it with `force`")
        if not (folder / "micropref.json").is_file():
            raise BadInput(
                f"{folder}: holds no micropref.json, so it is not an export; give another name, or remove it"
            )
    check_folder_of(folder)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Provide a folder that gets its name when all went well, in the place of an export that was there."""
    target = folder.absolute()
    staged = target.with_name(f".{target.name[:60]}-{secrets.token_hex(4)}")
    try:
        staged.mkdir()
        yield staged
        if target.is_dir():
            old = target.with_name(f"{staged.name}-old")
            target.rename(old)
            staged.rename(target)
            shutil.rmtree(old)
        else:
            staged.rename(target)
    except OSError as error:
        raise Failure(f"{folder}: cannot write: {error.strerror or error}; nothing was kept") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _texts(store: StoreFolder, run: Run) -> list[tuple[str, str]]:
    """Return prompt and response of a few stored pairs; of texts of our own where the run came without its data."""
    if data_is_elsewhere(store, run):
        return [(prompt, response) for prompt in OWN_PROMPTS for response in OWN_RESPONSES]
    dataset = open_dataset(store, run.record["data"])
    part = dataset.of_split(TRAIN if TRAIN in dataset.splits() else None)[0]
    table = read_table(part, "pairs", ["prompt", "chosen", "rejected"]).unique("prompt", maintain_order=True)
    return [(prompt, each) for prompt, *both in table.head(CHECKED_PAIRS).iter_rows() for each in both]


def _placing(backbone: Backbone, options: ExportOptions) -> Placing:
    """Return how the backbone's files are placed. Raises BadInput where they cannot be converted or linked."""
    if options.dtype == "auto":
        return Placing(backbone.dtype, convert=False, link=options.link)
    if options.link:
        raise BadInput(f"dtype is {options.dtype} and `link` is given: files that are converted are new ones")
    if getattr(backbone.trunk.config, "quantization_config", None) is not None:
        raise BadInput(f"dtype is {options.dtype}: the backbone's weights are quantized; leave `dtype` out")
    return Placing(getattr(torch, options.dtype), convert=True, link=False)


def _write(
    engine: ScoringEngine, folder: Path, matrix: torch.Tensor, texts: list[tuple[str, str]], placing: Placing
) -> str:
    """Write heads [L, D] with the backbone, and return the class that reads the folder."""
    backbone, settings = engine.backbone, engine.heads.fitted.features.settings
    if not backbone.causal:
        write_cross_encoder(backbone, folder, matrix, settings["max_length"], placing)
        return "CrossEncoder"
    if backbone.pooling.mode != "last" or backbone.pooling.normalize:
        raise BadInput(
            f"features {engine.heads.fitted.features.id}: pooled as {backbone.pooling.settings()}; a sequence "
            "classifier of transformers reads the last token as it is: embed with `pooling` last to export"
        )
    architecture = write_weights(backbone, folder, matrix, placing)
    template = exported_template(backbone.tokenizer, settings)
    written = [rendered(backbone.tokenizer, template, *text) for text in texts]
    pad = choose_pad(backbone.tokenizer, written, template, backbone.known_ids)
    write_tokenizer(folder, pad, template, settings)
    patch_config(folder, pad_token_id=backbone.tokenizer.convert_tokens_to_ids(pad))
    return architecture
