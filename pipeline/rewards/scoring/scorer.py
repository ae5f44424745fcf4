"""A run as a reward model: rewards of new texts, by the run's own weights or for one context, attribute or person.

G groups of candidates, n texts, K heads, D embedding width.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from micropref.cache.choices import OldJoint, RouterInput
from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.heads.methods.base import Scores
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.forwarding.forwarder import Forwarder
from micropref.pipeline.progress import Announce
from micropref.pipeline.rewards.scoring.backbone import load_backbone
from micropref.pipeline.rewards.scoring.candidates import Candidates, Rewarded, without_reward
from micropref.pipeline.rewards.scoring.options import BackboneOptions
from micropref.pipeline.rewards.scoring.taste import RewardHeads, Taste, Weighed
from micropref.pipeline.rewards.scoring.texts import Chunk, GroupTexts, Wanted, read_chunk
from micropref.pipeline.text.tokenizer import PairTokenizer
from micropref.pipeline.text.tokens import Tokens

CHUNK_RESPONSES = 512
"""Responses that are tokenized and forwarded together: as many as keep a CPU's threads busy."""
KEPT_CONTEXTS = 4096
"""Contexts whose vectors are kept."""
NOT_FINITE = "the backbone's vector of this text is not finite"


@dataclass(frozen=True)
class Asked:
    """Groups of candidates, and the texts that have to be forwarded for them."""

    candidates: list[Candidates]
    refused: dict[int, str]
    """Groups that the run cannot score, and why."""
    contexts: dict[str | None, torch.Tensor | None]
    """Vector [D] of each context by itself."""
    chunk: Chunk
    """The texts [n], and whose they are."""


class ScoringEngine:
    """Scores groups of candidates: one is tokenized while another is forwarded."""

    def __init__(self, heads: RewardHeads, backbone: Backbone, tokenizer: PairTokenizer, forwarder: Forwarder) -> None:
        """Take a run's heads and the backbone that made its features."""
        self.heads, self.backbone, self.tokenizer, self._forwarder = heads, backbone, tokenizer, forwarder
        reads = heads.fitted.reading.router_input if heads.routed else None
        self._reads = reads
        self._wanted = Wanted(
            prompt=reads in ("prompt", "difference", "context,prompt", "context+prompt or prompt"),
            joint=reads in ("context+prompt", "difference", "context+prompt or prompt"),
            alone=reads in ("context", "context,prompt"),
            behind_context=heads.fitted.reading.heads_read_contexts,
        )
        self._contexts: OrderedDict[str, torch.Tensor | None] = OrderedDict()
        # Libraries of the CPU keep threads of their own for every thread that calls them, so that one does it all.
        self._device = ThreadPoolExecutor(
            1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),), thread_name_prefix="scoring"
        )
        self.forwarded_tokens = 0
        """Tokens that the backbone read so far."""

    @classmethod
    def open(
        cls,
        store: StoreFolder,
        run: str,
        options: BackboneOptions,
        *,
        announce: Announce = lambda _: None,
    ) -> ScoringEngine:
        """Open a run and load its backbone. Raises BadInput where either cannot be used."""
        heads = RewardHeads(store, run)
        loaded, tokenizer = load_backbone(heads.fitted.features, options)
        forwarder = Forwarder(loaded, options.packing, options.tokens_per_batch, announce)
        return cls(heads, loaded, tokenizer, forwarder)

    def close(self) -> None:
        """End the thread that forwards."""
        self._device.shutdown()

    def fits(self, texts: Sequence[str]) -> list[bool]:
        """Say which texts are short enough for the backbone, each as a user's turn or a text by itself."""
        return [tokens is not None for tokens in self.tokenizer.encode_contexts(texts)]

    def score(self, candidates: Sequence[Candidates]) -> list[Rewarded]:
        """Return the rewards of some groups, in order."""
        return list(self.stream(candidates))

    def stream(self, candidates: Iterable[Candidates]) -> Iterator[Rewarded]:
        """Yield the rewards of groups in order, while later ones are still read.

        A group that the run cannot score, such as for a person whom it does not know, has no rewards but a reason.
        """
        waiting: deque[tuple[Asked, Future[torch.Tensor]]] = deque()
        for some in _chunks(candidates):
            asked = self.read(some)
            waiting.append((asked, self.forward(asked.chunk.texts, asked.chunk.trees)))
            if len(waiting) > 1:
                asked, vectors = waiting.popleft()
                yield from self.rewarded(asked, vectors.result())
        for asked, vectors in waiting:
            yield from self.rewarded(asked, vectors.result())

    def read(self, candidates: list[Candidates]) -> Asked:
        """Tokenize some groups; contexts that the router reads by themselves are forwarded. One thread at a time."""
        refused = {at: reason for at, one in enumerate(candidates) if (reason := self._refusal(one.taste))}
        contexts = self._context_vectors(
            {one.taste.context for at, one in enumerate(candidates) if at not in refused and one.taste.context}
        )
        for at, one in enumerate(candidates):
            if one.taste.context in contexts and contexts[one.taste.context] is None:
                refused[at] = f"the context is longer than the backbone's {self.tokenizer.options.max_length} tokens"
        readable = [replace(one, responses=()) if at in refused else one for at, one in enumerate(candidates)]
        return Asked(candidates, refused, contexts, read_chunk(self.tokenizer, readable, self._wanted))

    def forward(self, texts: Sequence[Tokens], trees: Sequence[int]) -> Future[torch.Tensor]:
        """Begin to forward n texts, those of one prompt side by side with equal `trees`; [n, D] once it is done."""
        return self._device.submit(self._vectors, texts, trees)

    def _refusal(self, taste: Taste) -> str | None:
        try:
            self.heads.check(taste)
        except BadInput as error:
            return str(error)
        return None

    def _vectors(self, texts: Sequence[Tokens], trees: Sequence[int]) -> torch.Tensor:
        found, forwarded = self._forwarder.vectors(texts, trees)
        self.forwarded_tokens += forwarded
        return found

    def _context_vectors(self, contexts: set[str]) -> dict[str | None, torch.Tensor | None]:
        """Return the vector [D] of each context by itself, where the router reads these; None: it does not fit.

        Those that were met lately are known.
        """
        if not self._wanted.alone:
            return {}
        new = sorted(contexts - self._contexts.keys())
        if new:
            read = dict(zip(new, self.tokenizer.encode_contexts(new), strict=True))
            fit = {context: tokens for context, tokens in read.items() if tokens is not None}
            vectors = self.forward(list(fit.values()), list(range(len(fit)))).result()
            self._contexts |= dict.fromkeys(new) | dict(zip(fit, vectors, strict=True))
        found: dict[str | None, torch.Tensor | None] = {context: self._contexts[context] for context in contexts}
        while len(self._contexts) > KEPT_CONTEXTS:
            self._contexts.popitem(last=False)
        return found

    def rewarded(self, done: Asked, vectors: torch.Tensor) -> Iterator[Rewarded]:
        """Yield the rewards of groups in order, from the vectors [n, D] of their texts."""
        finite, rewards = vectors.isfinite().all(1), vectors.double() @ self.heads.heads.T
        groups = done.chunk.groups
        inputs = {
            at: self._router_input(done, at, vectors)
            for at, group in enumerate(groups)
            if at not in done.refused and (group.prompt is not None or not self._wanted.prompt)
        }
        router = torch.stack(list(inputs.values())) if inputs else vectors.new_zeros(0, 1)
        weighed = self.heads.weigh([done.candidates[at].taste for at in inputs], router) if inputs else []
        by_group = dict(zip(inputs, weighed, strict=True))
        for at, (one, group) in enumerate(zip(done.candidates, groups, strict=True)):
            if at in done.refused:
                yield without_reward(len(one.responses), done.refused[at])
            else:
                found = self._of_group(group, rewards, finite, by_group.get(at))
                yield replace(found, tokens=tuple(done.chunk.tokens(group)))

    def _router_input(self, done: Asked, at: int, vectors: torch.Tensor) -> torch.Tensor:
        """Return what the router reads of a group [D']."""
        group, taste = done.chunk.groups[at], done.candidates[at].taste
        prompt, joint = (None if place is None else vectors[place] for place in (group.prompt, group.joint))
        alone = done.contexts.get(taste.context)
        return router_input(self._reads, self.backbone.width, prompt, joint, alone)

    def _of_group(
        self, group: GroupTexts, rewards: torch.Tensor, finite: torch.Tensor, weighed: Weighed | None
    ) -> Rewarded:
        """Return a group's rewards."""
        reasons = list(group.reasons)
        for at, text in enumerate(group.responses):
            if text is not None and not finite[text]:
                reasons[at] = NOT_FINITE
        if weighed is None:
            reasons = [reason or "no candidate of this prompt can be read" for reason in reasons]
        there = [at for at, reason in enumerate(reasons) if reason is None]
        heads: list[tuple[float, ...] | None] = [None] * len(reasons)
        totals: list[float | None] = [None] * len(reasons)
        p_first = None
        if weighed is not None and there:
            rows = torch.tensor([group.responses[at] for at in there])
            each = rewards[rows] if weighed.divisor is None else rewards[rows] / weighed.divisor
            sums = each @ weighed.log_weights.exp()
            for at, one, total in zip(there, each.tolist(), sums.tolist(), strict=True):
                heads[at], totals[at] = tuple(one), total
            if len(reasons) == len(there) == 2:
                scores = Scores((each[0] - each[1])[None], weighed.log_weights[None], weighed.combine)
                p_first = float(torch.sigmoid(scores.log_odds() * self.heads.run.scale))
        weights = None if weighed is None else tuple(weighed.log_weights.exp().tolist())
        return Rewarded(tuple(totals), tuple(heads), weights, tuple(reasons), tuple(group.trimmed), p_first)


def _chunks(candidates: Iterable[Candidates]) -> Iterator[list[Candidates]]:
    """Yield groups of about CHUNK_RESPONSES responses."""
    iterator = iter(candidates)
    while True:
        some: list[Candidates] = []
        count = 0
        for one in iterator:
            some.append(one)
            count += len(one.responses)
            if count >= CHUNK_RESPONSES:
                break
        if not some:
            return
        yield some


def router_input(
    reads: RouterInput | OldJoint | None,
    width: int,
    prompt: torch.Tensor | None,
    joint: torch.Tensor | None,
    alone: torch.Tensor | None,
) -> torch.Tensor:
    """Return what a router reads [D'] of the vectors [D] of a prompt, a context with it, and the context alone.

    NaN where the context that it reads is not there; as for stored pairs.
    """
    if reads is None:
        return torch.zeros(1)
    first = {"prompt": prompt, "context": alone, "context,prompt": alone}.get(reads, joint)
    if first is None and reads == "context+prompt or prompt":
        first = prompt
    if first is None:  # the whole input, as where stored pairs have no context
        return torch.full((2 * width if reads == "context,prompt" else width,), math.nan)
    if reads == "context,prompt" and prompt is not None:
        return torch.cat([first, prompt])
    return first - prompt if reads == "difference" and prompt is not None else first
