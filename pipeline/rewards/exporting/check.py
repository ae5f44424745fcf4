"""An exported folder loaded again: its rewards are the run's.

T texts, L outputs, K heads.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file

from micropref.cache.errors import Failure
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.loading import loading
from micropref.pipeline.rewards.exporting.chat import rendered
from micropref.pipeline.rewards.exporting.encoder import TRUNK
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest difference of a reward, as a share of the largest reward where that is above 1."""


def check(engine: ScoringEngine, folder: Path, mix: torch.Tensor, texts: list[tuple[str, str]]) -> tuple[int, float]:
    """Return how many texts were compared, and the largest difference of the folder's rewards to the run's.

    `mix` [L, K] is what the run's heads are multiplied by. Raises Failure where the difference is beyond rounding.
    """
    asked = [Candidates(prompt, (response,)) for prompt, response in texts]
    heads = [None if one.trimmed[0] else one.heads[0] for one in engine.score(asked)]
    whole = [text for text, found in zip(texts, heads, strict=True) if found is not None]
    if not whole:
        raise Failure(f"none of {len(texts)} stored texts fits the backbone whole, so the export cannot be checked")
    ours = torch.tensor([found for found in heads if found is not None], dtype=torch.float64) @ mix.T
    read = _by_classifier if engine.backbone.causal else _by_cross_encoder
    theirs = read(engine.backbone, folder, whole).double().reshape(ours.shape)
    worst = float((ours - theirs).abs().max())
    allowed = TOLERANCE[engine.backbone.dtype] * max(1.0, float(ours.abs().max()))
    if not worst <= allowed:
        raise Failure(
            f"the exported model's rewards differ from the run's by up to {worst:.2g} on {len(whole)} stored texts, "
            f"where rounding explains {allowed:.2g}: this backbone cannot be exported; nothing was kept"
        )
    return len(whole), worst


@torch.inference_mode()
def _by_classifier(backbone: Backbone, folder: Path, texts: list[tuple[str, str]]) -> torch.Tensor:
    """Return the logits [T, L] of the folder as transformers reads it, in one padded batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with loading():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=backbone.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = tokenizer.get_chat_template()
    written = [rendered(tokenizer, template, *text) for text in texts]
    batch = tokenizer(written, add_special_tokens=False, padding=True, return_tensors="pt")
    logits: torch.Tensor = model.to(backbone.device)(**batch.to(backbone.device)).logits
    return logits.cpu()


@torch.inference_mode()
def _by_cross_encoder(backbone: Backbone, folder: Path, texts: list[tuple[str, str]]) -> torch.Tensor:
    """Return the scores [T, L] of the folder as sentence-transformers reads it, or as it says that it is read."""
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import CrossEncoder

        scores = CrossEncoder(str(folder), device=backbone.device.type).predict(texts, convert_to_tensor=True)
        return torch.as_tensor(scores).cpu()
    from transformers import AutoModel, AutoTokenizer

    with loading():
        trunk = AutoModel.from_pretrained(folder / TRUNK, dtype=backbone.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / TRUNK)
    (dense,) = folder.glob("*_Dense/model.safetensors")
    weight = load_file(dense)["linear.weight"]
    vectors = []
    for prompt, response in texts:
        batch = tokenizer(prompt, response, return_tensors="pt")
        hidden = trunk(**batch).last_hidden_state[0]
        count = len(hidden)
        vectors.append(backbone.pooling(hidden, torch.arange(count), torch.tensor([count]))[0])
    return torch.stack(vectors) @ weight.T
