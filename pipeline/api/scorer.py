"""A run as a reward model in Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from micropref.cache.errors import BadInput
from micropref.pipeline.api.texts import candidates_of
from micropref.pipeline.options import RewardHeadsOf, RewardScale

if TYPE_CHECKING:
    from micropref.cache.store import StoreFolder
    from micropref.pipeline.rewards.people.feedback import Feedback
    from micropref.pipeline.rewards.people.personal import People
    from micropref.pipeline.rewards.scoring.candidates import Rewarded
    from micropref.pipeline.rewards.scoring.options import BackboneOptions
    from micropref.pipeline.rewards.scoring.taste import Taste

Asked: TypeAlias = "str | Sequence[Mapping[str, Any]]"
"""A text, or a conversation as a list of {"role", "content"}."""


class Scorer:
    """A run with its backbone loaded: rewards of new texts. `Run.scorer` makes one.

    Example:
        store = Store("data")
        scorer = store.run(store.train("mine", k=5).run).scorer()
        scorer.score("How do I cook rice?", ["Rinse it.", "Boil."], context="Be brief.").rewards
        scorer.best_of("How do I cook rice?", ["Rinse it.", "Boil."])

    """

    def __init__(
        self,
        store: StoreFolder,
        run: str,
        options: BackboneOptions,
        feedback: Path | None = None,
        strength: float | None = None,
    ) -> None:
        """Load the backbone that the run's features were made with; `feedback` is a file of people's choices.

        Raises BadInput where it is another one, or the run's heads give no reward to a response by itself.
        """
        from micropref.pipeline.rewards.people.variance import check_strength
        from micropref.pipeline.rewards.scoring.scorer import ScoringEngine

        check_strength(strength)
        self._store, self._file, self._strength = store, feedback, strength
        self._feedback: Feedback | None = None
        self._people: People | None = None
        self._engine = ScoringEngine.open(store, run, options)
        if feedback is not None:
            self._opened_people()

    def __repr__(self) -> str:
        heads = self._engine.heads
        return f"Scorer(run={heads.run.id!r}, k={heads.k}, backbone={self._engine.backbone.checkpoint.name!r})"

    def score(
        self,
        prompt: Asked,
        responses: Asked | Sequence[Asked],
        *,
        context: str | None = None,
        attribute: str | None = None,
        user: str | None = None,
        weights: Sequence[float] | None = None,
    ) -> Rewarded:
        """Return the rewards of one or several responses to a prompt.

        Args:
            prompt: a text, or a conversation as a list of {"role", "content"}.
            responses: a response, or a list of them; each is read by itself.
            context: sentence that says what is wanted.
            attribute: attribute of the run's data, whose mean weights are taken.
            user: person the run has weights for.
            weights: weights [K] of the heads themselves.

        Returns:
            `rewards` [n], `heads` [n][K], `weights` [K], and `reasons` of responses without a reward.

        Raises:
            BadInput: for a taste that the run does not know, and texts that are none.

        """
        (found,) = self.score_many(
            [prompt], [responses], context=context, attribute=attribute, user=user, weights=weights
        )
        return found

    def score_many(
        self,
        prompts: Sequence[Asked],
        responses: Sequence[Asked | Sequence[Asked]],
        *,
        context: str | Sequence[str | None] | None = None,
        attribute: str | None = None,
        user: str | Sequence[str | None] | None = None,
        weights: Sequence[float] | None = None,
        together: bool = False,
    ) -> list[Rewarded]:
        """Return the rewards of responses to many prompts, one entry a prompt, in order.

        `context` and `user` are one for all or one for each prompt; `together` cuts the prompt of responses that do not
        fit to one text for all of them. Raises like `score`.
        """
        contexts, users = self._each("context", context, len(prompts)), self._each("user", user, len(prompts))
        tastes = [self._taste(one, attribute, who, weights) for one, who in zip(contexts, users, strict=True)]
        asked = candidates_of(prompts, responses, tastes, together=together)
        return self._engine.score(asked)

    def best_of(
        self,
        prompt: Asked,
        responses: Sequence[Asked],
        *,
        context: str | None = None,
        attribute: str | None = None,
        user: str | None = None,
        weights: Sequence[float] | None = None,
    ) -> Asked:
        """Return the response with the highest reward; where a prompt has to be cut, to one text for all.

        Raises BadInput where none can be scored, and like `score`.
        """
        (found,) = self.score_many(
            [prompt], [responses], context=context, attribute=attribute, user=user, weights=weights, together=True
        )
        if found.best is None:
            raise BadInput(f"no response has a reward: {next(iter(found.reasons), 'there is none')}")
        return responses[found.best]

    def learn(
        self, user: str, prompt: Asked, chosen: Asked, rejected: Asked, *, context: str | None = None
    ) -> tuple[float, ...]:
        """Learn from one choice of a person; from now on `user` scores by it.

        Choices are kept in the file that the scorer was opened with, else until it is closed. Weights are those of
        `adapt`'s method shrunk.

        Args:
            user: who chose.
            prompt: what both responses answer.
            chosen: the response that was preferred.
            rejected: the other one.
            context: sentence that said what is wanted.

        Returns:
            What the heads weigh for this person now [K].

        Raises:
            BadInput: for texts that cannot be scored.
            Failure: where the file cannot be written.

        """
        from micropref.pipeline.rewards.people.personal import choice_of

        people = self._opened_people()
        found = self.score_many([prompt], [[chosen, rejected]], context=context, together=True)[0]
        people.learn(user, choice_of(found))
        (after,) = self.score_many([prompt], [chosen], context=context, user=user)
        assert after.weights is not None
        return after.weights

    def trl(
        self,
        *,
        heads: RewardHeadsOf = "together",
        scale: RewardScale = "none",
        clip: float | None = None,
        asynchronous: bool = False,
    ) -> Any:
        """Return reward functions for TRL's `reward_funcs`; columns `context` and `user` of the data set are read.

        Args:
            heads: one function, heads weighed as the run does (together), or a list of one for each head (separate).
            scale: rewards less their mean, divided by their standard deviation, both over the run's stored responses
                (std), or rewards as they are (none): rewards of very different sizes that are summed before they are
                normalised drown each other.
            clip: largest size of what is returned; None: any. With `scale` std it counts deviations from the mean;
                without, a run whose rewards all lie far from 0 would return the same number for each.
            asynchronous: coroutine functions, for trainers that go on meanwhile.

        Returns:
            A function, or a list of K functions `head_0`, `head_1`, ...

        Raises:
            BadInput: where the run's data is gone and `scale` is std, and for a `clip` that is not above 0.

        """
        from micropref.pipeline.rewards.scoring.training_rewards import (
            AsyncRewardFunction,
            RewardFunction,
            SharedScore,
            Spread,
            spreads,
        )

        if clip is not None and not clip > 0:
            raise BadInput(f"clip is {clip}: expected a number above 0")
        count = self._engine.heads.k
        each, whole = [Spread()] * count, Spread()
        if scale == "std":
            each, whole = spreads(self._store, self._engine.heads)

        def score(
            prompts: Sequence[Any],
            completions: Sequence[Any],
            contexts: Sequence[str | None],
            users: Sequence[str | None],
        ) -> list[Rewarded]:
            return self._as_far_as_followed(prompts, completions, contexts, users)

        shared = SharedScore(score)
        functions = [RewardFunction(partial(shared, at), f"head_{at}", at, each[at], clip) for at in range(count)]
        if heads == "together":
            functions = [RewardFunction(score, f"micropref_{self._engine.heads.run.id}", None, whole, clip)]
        made = [AsyncRewardFunction(one) if asynchronous else one for one in functions]
        return made if heads == "separate" else made[0]

    def _as_far_as_followed(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        contexts: Sequence[str | None],
        users: Sequence[str | None],
    ) -> list[Rewarded]:
        """Return rewards as `score` gives them for a file's rows: one that cannot be scored has a reason, no error.

        Contexts and users that the run cannot follow at all are passed over.
        """
        from micropref.pipeline.rewards.scoring.grouping import followed
        from micropref.pipeline.rewards.scoring.taste import Taste

        named = zip(self._each("context", contexts, len(prompts)), self._each("user", users, len(prompts)), strict=True)
        asked = candidates_of(prompts, completions, [Taste(context, None, user) for context, user in named])
        heads = self._engine.heads
        return self._engine.score([followed(one, heads, Taste(), Counter()) for one in asked])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread that forwards, and close the file of choices."""
        self._engine.close()
        if self._feedback is not None:
            self._feedback.close()
            self._feedback = None

    def _opened_people(self) -> People:
        """Return who learns; choices are kept in memory where no file was named."""
        from micropref.pipeline.rewards.people.feedback import Feedback
        from micropref.pipeline.rewards.people.feedback_file import MEMORY
        from micropref.pipeline.rewards.people.personal import People
        from micropref.pipeline.rewards.people.variance import choose_variance

        if self._people is None:
            heads = self._engine.heads
            self._feedback = Feedback(self._file or MEMORY, heads.run.id, heads.k)
            strength, _ = choose_variance(self._store, heads, self._strength)
            self._people = People(heads, self._feedback, strength)
            heads.people = self._people
        return self._people

    def _taste(
        self, context: str | None, attribute: str | None, user: str | None, weights: Sequence[float] | None
    ) -> Taste:
        from micropref.pipeline.rewards.scoring.taste import Taste

        taste = Taste(context, attribute, user, None if weights is None else tuple(weights))
        self._engine.heads.check(taste)
        return taste

    @staticmethod
    def _each(name: str, given: str | Sequence[str | None] | None, count: int) -> Sequence[str | None]:
        if given is None or isinstance(given, str):
            return [given] * count
        if len(given) != count:
            raise BadInput(
                f"{name} has {len(given)} entries for {count} prompts: expected one for each, or one for all"
            )
        return given
