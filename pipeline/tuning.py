"""The strength of adaptation, chosen on people's validation pairs."""

from __future__ import annotations

from cache.errors import BadInput
from heads.adaptation import GRIDS, AdaptMethod, adapt_groups
from heads.metrics import nll
from pipeline.draws import draw
from pipeline.fit_data import SPLIT
from pipeline.frozen import By, Frozen
from pipeline.lesson import read_lesson


def choose_strength(frozen: Frozen, by: By, method: AdaptMethod, counts: tuple[int, ...], seed: int) -> float:
    """Return the strength of the least NLL over validation pairs, averaged over the numbers of shots; none of test.

    A group learns from its pairs to fit and is scored on its validation pairs, prompts that the heads were not fitted
    on. Where no group has enough for the largest number of shots, the next smaller one takes its place. Raises
    BadInput where none has enough for any.
    """
    table = frozen.pairs_of(SPLIT, by)
    for place in range(len(counts), 0, -1):
        drawn = draw(table, by, counts[place - 1], seed, shared=False, pool=table["part"] == "fit")
        if drawn.group:
            lesson = read_lesson(frozen, by, table, drawn, responses=False)
            return min(
                GRIDS[method],
                key=lambda strength: sum(
                    nll(lesson.rescored(adapt_groups(method, lesson.shots.first(count), strength)).log_probability())
                    for count in counts[:place]
                ),
            )
    raise BadInput(
        f"data set {frozen.dataset.name!r}: no {by} has {counts[0]} train pairs to learn from and a validation pair "
        f"to choose the strength of --method {method} by; choose another --method"
    )
