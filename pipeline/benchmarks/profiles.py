"""What a benchmark's rows say of a person, as the context that a run reads."""

from __future__ import annotations

from collections import Counter

from micropref.pipeline.benchmarks.items import Item
from micropref.pipeline.rewards.scoring.scorer import ScoringEngine


class Profiles:
    """Makes contexts of profiles: as many posts, from the first, as the backbone reads."""

    def __init__(self, engine: ScoringEngine) -> None:
        """Take the engine that scores."""
        reading = engine.heads.fitted.reading
        self._engine = engine
        self._alone = reading.router_input == "context" and not reading.heads_read_contexts
        self._with_responses = reading.heads_read_contexts
        self.counts: Counter[str] = Counter()
        """Rows whose profile was read, read in part, and not read at all."""

    def context(self, item: Item) -> str | None:
        """Return the context of a row; None where it has no profile, or not one post fits."""
        behind = [] if self._alone else [item.prompt]
        if self._with_responses:
            behind.append(max(item.chosen + item.rejected, key=len))
        contexts = ["\n".join(item.profile[:count]) for count in range(1, len(item.profile) + 1)]
        fits = self._engine.fits(["\n\n".join([one, *map(str, behind)]) for one in contexts])
        count = next((at for at, fit in enumerate(fits) if not fit), len(fits))
        kind = "unread" if count == 0 else "cut" if count < len(contexts) else "whole"
        self.counts[kind] += 1
        return contexts[count - 1] if count else None
