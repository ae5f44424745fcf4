"""A run as a reward model in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from micropref.cache.errors import BadInput
from micropref.pipeline.options import DeviceName

if TYPE_CHECKING:
    from micropref.cache.store import StoreFolder
    from micropref.pipeline.rewards.scoring.candidates import Rewarded
    from micropref.pipeline.rewards.scoring.taste import Taste
    from micropref.pipeline.sources.pairs import Text

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
        *,
        backbone: str | None = None,
        device: DeviceName = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        """Load the backbone that the run's features were made with.

        Raises BadInput where it is another one, or the run's heads give no reward to a response by itself.
        """
        from micropref.pipeline.rewards.scoring.scorer import ScoringEngine

        self._engine = ScoringEngine.open(
            store, run, backbone=backbone, device=device, trust_remote_code=trust_remote_code
        )

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
        from micropref.pipeline.rewards.scoring.candidates import Candidates

        if len(prompts) != len(responses):
            raise BadInput(f"{len(prompts)} prompts and {len(responses)} lists of responses: expected as many")
        contexts, users = self._each("context", context, len(prompts)), self._each("user", user, len(prompts))
        asked = [
            Candidates(_text("prompt", prompt), _texts(some), self._taste(one, attribute, who, weights), together)
            for prompt, some, one, who in zip(prompts, responses, contexts, users, strict=True)
        ]
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

    def close(self) -> None:
        """End the thread that forwards."""
        self._engine.close()

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


def _text(name: str, value: Any) -> Text:
    """Return a text or a conversation as rows of a file have it. Raises BadInput for anything else."""
    from micropref.pipeline.rewards.scoring.candidates import HERE
    from micropref.pipeline.sources.field_parsing import response
    from micropref.pipeline.sources.rows import Row, RowError

    try:
        return response(Row({name: value}, HERE, textual=False, pool={}), name)
    except RowError as error:
        raise BadInput(str(error)) from None


def _texts(given: Any) -> tuple[Text, ...]:
    """Return one or several responses: a text, a conversation, or a list of these."""
    if isinstance(given, str):
        return (given,)
    several = list(given)
    if several and all(isinstance(one, dict) for one in several):
        return (_text("response", several),)
    return tuple(_text(f"responses[{at}]", one) for at, one in enumerate(several))
