"""What the routes call: the run's rewards, its people, and counts of what was done.

K heads, n responses.
"""

from __future__ import annotations

import asyncio
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder
from micropref.pipeline.forwarding.batching import good_batch
from micropref.pipeline.progress import Announce
from micropref.pipeline.rewards.people.feedback import Feedback
from micropref.pipeline.rewards.people.personal import People, choice_of
from micropref.pipeline.rewards.people.variance import choose_variance, variance_told
from micropref.pipeline.rewards.scoring.candidates import Candidates, Rewarded
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine
from micropref.pipeline.rewards.scoring.taste import Taste
from micropref.pipeline.rewards.serving.batching import Batcher
from micropref.pipeline.rewards.serving.bodies.fields import MOST_TEXTS
from micropref.pipeline.rewards.serving.options import ServeOptions
from micropref.pipeline.sources.pairs import Text


class Counts:
    """Figures for /metrics. Nothing of a request's texts or users is among them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("micropref_requests", "requests", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("micropref_request_seconds", "seconds of a request", ["route"], registry=self.registry)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256, math.inf)
        self.turns = Histogram(
            "micropref_turn_texts", "texts forwarded together", buckets=sizes, registry=self.registry
        )
        self.waiting = Gauge("micropref_waiting_responses", "responses that wait", registry=self.registry)
        self.choices = Counter("micropref_choices", "choices that were new", registry=self.registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)


class Service:
    """A loaded run with its people."""

    def __init__(self, store: StoreFolder, run: str, feedback: Path, options: ServeOptions, announce: Announce) -> None:
        """Load a run's backbone and open the file of choices. Raises BadInput where either cannot be used."""
        self.engine = ScoringEngine.open(store, run, options.backbone, announce=announce)
        heads = self.engine.heads
        self.run, self.k, self._options = heads.run.id, heads.k, options
        self._feedback = Feedback(feedback, self.run, self.k)
        strength, chosen_on = choose_variance(store, heads, options.strength)
        for line in variance_told(strength, chosen_on):
            announce(line)
        self.people = People(heads, self._feedback, strength)
        heads.people = self.people
        self.counts = Counts()
        self.batcher: Batcher | None = None

    def start(self) -> None:
        """Begin to score; called inside the event loop."""
        options = self._options
        self.batcher = Batcher(self.engine, options.queue, options.timeout, self.counts.turns.observe)
        self.counts.waiting.set_function(lambda: self.batcher.waiting if self.batcher else 0)
        self.batcher.start()

    async def stop(self) -> None:
        """Finish what waits and close everything."""
        if self.batcher is not None:
            await self.batcher.stop()
        self.engine.close()
        self._feedback.close()

    @property
    def trouble(self) -> str | None:
        """Say why nothing is scored; None: all is well."""
        return "not started" if self.batcher is None else self.batcher.trouble

    def info(self) -> dict[str, Any]:
        """Return what clients of TEI ask about a model and its server."""
        features, classes = self.engine.heads.fitted.features, {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        return {
            "model_id": self.run,
            "model_sha": None,
            "model_dtype": features.settings["dtype"],
            "model_type": {"reranker": classes},
            "max_concurrent_requests": self._options.queue,
            "max_input_length": features.settings["max_length"],
            "max_batch_tokens": good_batch(self.engine.backbone.device),
            "max_batch_requests": None,
            "max_client_batch_size": MOST_TEXTS,
            "auto_truncate": False,
            "tokenization_workers": 1,
            "version": version("micropref"),
            "sha": None,
            "docker_label": None,
        }

    async def score(self, candidates: list[Candidates]) -> list[Rewarded]:
        """Return the rewards of groups. Raises BadInput for an unknown taste, Busy where too many wait."""
        assert self.batcher is not None
        tastes = {one.taste for one in candidates}
        if any(taste != Taste() for taste in tastes):  # may have to read files
            await asyncio.to_thread(self._check, tastes)
        else:
            self._check(tastes)
        return await self.batcher.score(candidates)

    def _check(self, tastes: set[Taste]) -> None:
        for taste in tastes:
            self.engine.heads.check(taste)

    async def learn(
        self, user: str, prompt: Text, responses: tuple[Text, Text], context: str | None, choice_id: str | None
    ) -> tuple[bool, int, tuple[float, ...]]:
        """Keep a choice; return whether it is new, how many the person made, and the person's weights now [K].

        It is on disk when this returns. Raises BadInput where a response has no reward.
        """
        (found,) = await self.score([Candidates(prompt, responses, Taste(context), together=True)])
        new = await asyncio.to_thread(self.people.learn, user, choice_of(found), choice_id)
        if new:
            self.counts.choices.inc()
        count, weights = await asyncio.to_thread(self.known, user)
        return new, count, weights

    def known(self, user: str) -> tuple[int, tuple[float, ...]]:
        """Return how many choices a person made, and what the heads weigh for the person beside the run's own [K].

        Raises BadInput where nothing is known of the person.
        """
        learned = self.people(user)
        if learned is None:
            raise BadInput(f"run {self.run} has no weights for this user")
        return self.people.count(user), tuple(learned.log_weights[0].exp().tolist())

    def forget(self, user: str) -> int:
        """Remove what a person chose, and return how many choices that were."""
        return self.people.forget(user)
