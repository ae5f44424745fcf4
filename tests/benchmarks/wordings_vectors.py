"""What `make bench-wordings` embeds: contexts in several forms, the demo's prompts and answers, each text once.

C contexts, P prompts, R reference prompts, D embedding width. Vectors are kept in a folder, one file a form, under a
digest of the texts: a second run reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from micropref.cache.choices import TEST, TRAIN
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.demo import generate as demo
from micropref.pipeline.forwarding.choose_pass import choose_pass
from micropref.pipeline.options import TemplateName
from micropref.pipeline.sources.pairs import Message, Origin, PreferencePair, Text
from micropref.pipeline.text.tokenizer import Tokenizing
from micropref.pipeline.text.tokens import Tokens

STYLES = demo.TASTES["brevity"]
"""Names of a prompt's answers, in the order of `Vectors.answers`."""
GROUPS = tuple(demo.TASTES)
Pool = Literal["stated", "oblique", "demo"]
"""Where contexts are from: the benchmark's own, which say what is liked or leave it to be guessed, or the demo's."""
NOBODY = Origin("wordings", 1)


@dataclass(frozen=True)
class Wordings:
    """The texts of the benchmark."""

    contexts: list[str]
    """[C]"""
    group: torch.Tensor
    """[C] number of each context's group in GROUPS."""
    split: list[str]
    """[C] the demo's split that has a context, train or test; empty for the benchmark's own."""
    prompts: list[str]
    """[P] those of the demo."""
    topic: torch.Tensor
    """[P] number of each prompt's topic; topic t is home to group t mod 4."""
    answers: list[list[str]]
    """[P][6] by style."""
    references: list[str]
    """[R] prompts that are the same for every context."""


@dataclass(frozen=True)
class Vectors:
    """Their embeddings, float32."""

    forms: dict[str, torch.Tensor]
    """Form -> [C, D] of the contexts without a prompt of the pair."""
    prompts: torch.Tensor
    """[P, D]"""
    answers: torch.Tensor
    """[P, 6, D]"""
    joint: torch.Tensor | None
    """[C, P', D] each context before each of the first P' prompts; None where nothing asks for it."""


def read_wordings(prompts: int, pool: Pool) -> Wordings:
    """Return the contexts of a pool, and so many prompts of the demo with their answers."""
    own = json.loads(Path(__file__).with_name("wordings.json").read_text(encoding="utf-8"))
    texts = demo._load_texts()
    named = {"": own[pool]} if pool != "demo" else {split: _of(texts, split) for split in (TRAIN, TEST)}
    sourced = [(text, group, split) for split, of in named.items() for group in GROUPS for text in of[group]]
    made = demo._pick_prompts(demo._Random(0), texts, 600)[:prompts]
    topics = list(texts.topics)
    return Wordings(
        contexts=[text for text, _, _ in sourced],
        group=torch.tensor([GROUPS.index(group) for _, group, _ in sourced]),
        split=[split for _, _, split in sourced],
        prompts=[one.text for one in made],
        topic=torch.tensor([topics.index(one.topic) for one in made]),
        answers=[[one.responses[style] for style in STYLES] for one in made],
        references=own["reference_prompts"],
    )


def _of(texts: Any, split: Any) -> dict[str, list[str]]:
    return {group: splits[split] for group, splits in texts.contexts.items()}


def load_vectors(wordings: Wordings, backbone: str, folder: Path, joint: int, references: bool) -> Vectors:
    """Embed what the folder does not have yet.

    `joint`: prompts that every context is put before, 0 for none; `references`: whether contexts are read before the
    reference prompts too.
    """
    reader = _Reader(backbone, folder / backbone)
    contexts, prompts = wordings.contexts, wordings.prompts
    forms = {
        "alone": reader.vectors("alone", [_alone(c) for c in contexts], "prompt"),
        "raw": reader.vectors("raw", [_alone(c) for c in contexts], "prompt", "plain"),
        "system": reader.vectors("system", [_alone((Message("system", c),)) for c in contexts], "prompt"),
        "empty": reader.vectors("empty", [_joint(c, "") for c in contexts], "context"),
    }
    answers = [_answered(x, a) for x, row in zip(prompts, wordings.answers, strict=True) for a in row]
    pairs = [_joint(c, x) for c in contexts for x in prompts[:joint]]
    read = Vectors(
        forms=forms,
        prompts=reader.vectors("prompts", [_alone(x) for x in prompts], "prompt"),
        answers=reader.vectors("answers", answers, "chosen").view(len(prompts), len(STYLES), -1),
        joint=reader.vectors("joint", pairs, "context").view(len(contexts), joint, -1) if joint else None,
    )
    if references:
        behind = reader.vectors("reference", [_joint(c, x) for c in contexts for x in wordings.references], "context")
        alone = reader.vectors("reference-prompts", [_alone(x) for x in wordings.references], "prompt")
        forms["references"] = (behind.view(len(contexts), len(alone), -1) - alone).mean(1)
    return read


def _alone(prompt: Text) -> PreferencePair:
    """Return a pair of which only the prompt is wanted."""
    answer: Text = "a" if isinstance(prompt, str) else (Message("assistant", "a"),)
    return PreferencePair(prompt, answer, answer, origin=NOBODY)


def _joint(context: str, prompt: str) -> PreferencePair:
    return PreferencePair(prompt, "a", "a", context=context, origin=NOBODY)


def _answered(prompt: str, answer: str) -> PreferencePair:
    return PreferencePair(prompt, answer, answer, origin=NOBODY)


class _Reader:
    """A backbone that is loaded when a text is not in the folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._backbone: Backbone | None = None

    def vectors(
        self, what: str, pairs: Sequence[PreferencePair], role: str, template: TemplateName = "auto"
    ) -> torch.Tensor:
        """Return the vectors [n, D] of one text of each pair."""
        said = repr([(one.context, one.prompt, one.chosen) for one in pairs])
        file = self._folder / f"{what}-{hashlib.sha256(said.encode()).hexdigest()[:12]}.safetensors"
        if not file.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            vectors = self._embed(what, pairs, role, template)
            part = file.with_suffix(".part")
            save_file({"vectors": vectors.half()}, part)
            part.replace(file)
        return load_file(file)["vectors"].float()

    def _embed(self, what: str, pairs: Sequence[PreferencePair], role: str, template: TemplateName) -> torch.Tensor:
        if self._backbone is None:
            self._backbone = Backbone.load(self._name)
        backbone = self._backbone
        tokenizer = backbone.pair_tokenizer(Tokenizing(backbone.max_length, template))
        encoded = tokenizer.encode(pairs)
        index: Iterable[int] = getattr(encoded, role).tolist()
        wanted = list(dict.fromkeys(index))
        texts = [encoded.texts[at] for at in wanted]
        print(f"{self._name}: {len(texts):,} texts, {sum(map(len, texts)):,} tokens: {what}", flush=True)
        found = _forward(backbone, texts)
        place = {at: row for row, at in enumerate(wanted)}
        return found[[place[at] for at in getattr(encoded, role).tolist()]]


def _forward(backbone: Backbone, texts: Sequence[Tokens]) -> torch.Tensor:
    """Return the vectors of texts; those that begin alike are neighbours, so that a causal backbone reads less."""
    order = sorted(range(len(texts)), key=lambda at: texts[at].ids.tolist())
    near = [texts[at] for at in order]
    groups = [number // GROUP for number in range(len(near))]
    found = torch.empty(len(texts), backbone.width)
    for batch in choose_pass(backbone, "auto", None, near, groups, print).run(near, groups):
        found[[order[at] for at in batch.places]] = batch.vectors
    return found


GROUP = 64
"""Texts of one tree at most."""
