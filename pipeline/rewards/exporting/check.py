"""An exported folder loaded again: it reads the same tokens as the run, and gives the run's rewards.

T texts, L outputs, K heads, D embedding width.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from micropref.cache.errors import Failure
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.load_trunk import load_parts
from micropref.pipeline.backbone.loading import loading
from micropref.pipeline.rewards.exporting.chat import rendered
from micropref.pipeline.rewards.exporting.encoder import TRUNK
from micropref.pipeline.rewards.scoring.candidates import HERE, Candidates
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.sources.pairs import PreferencePair
from micropref.pipeline.text.tokens import Tokens

TOLERANCE = 1e-4
"""Largest difference of a reward, as a share of the largest reward where that is above 1: what float32 explains."""
ROUNDINGS = 16
"""Roundings of a reward's D summands that a dtype of 16 bits may add: in the head, in the vector, in the sum."""


@dataclass(frozen=True)
class Checked:
    """How an exported folder compares with the run."""

    texts: int
    """T, stored texts whose rewards were computed from the folder."""
    difference: float
    """Largest difference to the run's rewards; these come from another pass, which alone changes them in 16 bits."""


def check(
    engine: ScoringEngine, folder: Path, mix: torch.Tensor, texts: list[tuple[str, str]], dtype: torch.dtype
) -> Checked:
    """Compare the folder's tokens and rewards with the run's backbone, by the same padded batch in the folder's dtype.

    `mix` [L, K] is what the run's heads are multiplied by. Raises Failure where the difference is beyond rounding.
    """
    read = _readable(engine, texts)
    if not read:
        raise Failure(
            f"none of {len(texts)} stored texts is read whole and without control tokens typed in it, so the export "
            "cannot be checked"
        )
    whole, tokens = list(read), list(read.values())
    asked = [Candidates(prompt, (response,)) for prompt, response in whole]
    heads = [found.heads[0] for found in engine.score(asked)]
    matrix, run = mix @ engine.heads.heads, torch.tensor(heads, dtype=torch.float64) @ mix.T
    backbone = _in_dtype(engine.backbone, dtype)
    vectors = backbone.embed(tokens).double()
    by_folder = _by_classifier if backbone.causal else _by_cross_encoder
    theirs = by_folder(backbone, folder, whole, tokens).double().reshape(run.shape)
    ours = vectors @ matrix.T
    summands = (vectors.square() @ matrix.square().T).sqrt()
    rounding = ROUNDINGS * torch.finfo(dtype).eps * summands
    worst = float((ours - theirs).abs().max())
    allowed = float((rounding + TOLERANCE * ours.abs().clamp(min=1.0)).max())
    if not worst <= allowed:
        raise Failure(
            f"the exported model's rewards differ from the run's by up to {worst:.2g} on {len(whole)} stored texts, "
            f"where rounding explains {allowed:.2g}: this backbone cannot be exported; nothing was kept"
        )
    return Checked(len(whole), float((run - theirs).abs().max()))


def _readable(engine: ScoringEngine, texts: list[tuple[str, str]]) -> dict[tuple[str, str], Tokens]:
    """Return the tokens of texts that the folder has to read alike: not cut, and without control tokens in them."""
    pairs = [PreferencePair(prompt, response, response, origin=HERE) for prompt, response in texts]
    encoded = engine.tokenizer.encode(pairs)
    left_out = encoded.overlong | encoded.trimmed | encoded.special
    return {
        text: encoded.texts[encoded.chosen[at]]
        for at, text in enumerate(texts)
        if not left_out[at] and at not in encoded.refused
    }


def _in_dtype(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """Return the backbone in the folder's dtype, its weights read from their files again where that is another."""
    if dtype == backbone.dtype:
        return backbone
    trunk, _ = load_parts(backbone.checkpoint, dtype, trust_remote_code=backbone.trust_remote_code, weights=True)
    nn.Module.to(trunk, backbone.device)
    return replace(backbone, trunk=trunk, dtype=dtype)


@torch.inference_mode()
def _by_classifier(
    backbone: Backbone, folder: Path, texts: list[tuple[str, str]], tokens: list[Tokens]
) -> torch.Tensor:
    """Return the logits [T, L] of the folder as transformers reads it, in one padded batch.

    Raises Failure where its tokenizer and template make other tokens of a text.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with loading():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = tokenizer.get_chat_template()
    written = [rendered(tokenizer, template, *text) for text in texts]
    for ids, expected in zip(tokenizer(written, add_special_tokens=False)["input_ids"], tokens, strict=True):
        if ids != expected.ids.tolist():
            raise Failure(
                f"the exported tokenizer and template read a stored text as {len(ids)} tokens that are not the run's "
                f"{len(expected)}: this backbone cannot be exported; nothing was kept"
            )
    batch = tokenizer(written, add_special_tokens=False, padding=True, return_tensors="pt")
    logits: torch.Tensor = model.to(backbone.device)(**batch.to(backbone.device)).logits
    return logits.cpu()


@torch.inference_mode()
def _by_cross_encoder(
    backbone: Backbone, folder: Path, texts: list[tuple[str, str]], tokens: list[Tokens]
) -> torch.Tensor:
    """Return the scores [T, L] of the folder as sentence-transformers reads it, or as it says that it is read."""
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import CrossEncoder

        with loading():
            encoder = CrossEncoder(str(folder), device=backbone.device.type)
        scores = encoder.predict(texts, convert_to_tensor=True, show_progress_bar=False)
        return torch.as_tensor(scores).cpu()
    from transformers import AutoModel

    with loading():
        trunk = AutoModel.from_pretrained(folder / TRUNK).eval()
    (dense,) = folder.glob("*_Dense/model.safetensors")
    vectors = replace(backbone, trunk=trunk.to(backbone.device)).embed(tokens)
    return vectors @ load_file(dense)["linear.weight"].T
