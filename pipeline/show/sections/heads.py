"""A card for each head: what it rewards in words, pairs that show it, its nearest head."""

from __future__ import annotations

from collections.abc import Iterator

from micropref.pipeline.evaluation.claims import HeadCard
from micropref.pipeline.evaluation.reporting.pairs import ShownPair
from micropref.pipeline.evaluation.reporting.run_report import RunReport
from micropref.pipeline.evaluation.text_features import BY_NAME
from micropref.pipeline.show.page.colours import step_of
from micropref.pipeline.show.page.figures import Card, Cards, Cell, Example, Figure, HeatTable, Section
from micropref.pipeline.show.sections.accuracy import chosen_heads
from micropref.pipeline.show.sections.values import named, numbers_of

IN_SUMMARY = 3
"""Claims that a card's first sentence has; the others stand in its list."""
IN_LIST = 5
"""Claims that a card tells in full."""


def heads_section(run: RunReport, prefix: str, title: str) -> Section:
    """Return the cards of a run's heads and how alike their margins are."""
    cards = Cards(
        f"{prefix}cards",
        "What each head rewards",
        "From correlations of a head's margins with plain features of the two texts, over the n pairs that differ in a "
        "feature. Only those are listed that differ from 0 after Holm's correction for all heads and features of the "
        "run, first those that explain most of the head's margins over all pairs. A correlation is no cause, and "
        "features go together (lists make texts long): 'given length' is the partial correlation, length held fixed. "
        "Rewards of different prompts cannot be compared, so best and worst responses are shown as the pairs with the "
        "largest margins.",
        tuple(_card(run, card) for card in run.cards),
    )
    parts: list[Cards | Figure] = [cards, _profile(run, prefix)]
    if run.heads > 1:
        parts.append(_alike(run, prefix))
    return Section(f"{prefix}heads", title, (), tuple(parts))


def _card(run: RunReport, card: HeadCard) -> Card:
    return Card(
        f"head {card.head}",
        _summary(card),
        tuple(_lines(run, card)),
        tuple(_example(pair, card.head) for pair in run.pairs.examples[card.head]),
    )


def _summary(card: HeadCard) -> str:
    if not card.claims:
        return card.words[0].upper() + card.words[1:]
    told = ", ".join(one.rewards for one in card.claims[:IN_SUMMARY])
    more = len(card.claims) - IN_SUMMARY
    return f"Prefers {told}" + (f", and {more} more" if more > 0 else "")


def _lines(run: RunReport, card: HeadCard) -> Iterator[str]:
    for one in card.claims[:IN_LIST]:
        # With what the words say: of "shorter responses" the correlation is with being short.
        sign = 1 if one.correlation > 0 else -1
        low, high = sorted((sign * one.low, sign * one.high))
        given = "" if one.given_length is None else f"; {sign * one.given_length:+.2f} given length"
        yield f"{one.rewards}: correlation {abs(one.correlation):.2f} ({low:.2f} to {high:.2f}), n = {one.n:,}{given}"
    if len(card.claims) > IN_LIST:
        yield f"also, all in the table below: {', '.join(one.rewards for one in card.claims[IN_LIST:])}"
    best = _best_at(run, card.head)
    if best:
        yield f"best head on validation pairs for: {', '.join(best)}"
    if card.nearest is not None and card.nearest_correlation is not None:
        kin = "nearest head" if card.nearest_correlation >= 0 else "nearest head, as its opposite"
        yield f"{kin}: {card.nearest} (correlation of margins {card.nearest_correlation:+.2f})"


def _best_at(run: RunReport, head: int) -> list[str]:
    if run.heads < 2:
        return []
    return [named(attribute) for attribute, best in chosen_heads(run, "validation").items() if best == head]


def _example(pair: ShownPair, head: int) -> Example:
    margin = pair.margins[head]
    right = "it prefers the chosen response" if margin > 0 else "it prefers the rejected response"
    context = "" if pair.context is None else f", context: {pair.context}"
    liked, disliked = (pair.chosen, pair.rejected) if margin > 0 else (pair.rejected, pair.chosen)
    about = f"{named(pair.attribute)}{context}: {right}, margin {abs(margin):.2f}"
    return Example(pair.prompt, liked, disliked, about)


def _profile(run: RunReport, prefix: str) -> Figure:
    table = run.tables.head_profile
    claimed = {(one.head, one.feature) for card in run.cards for one in card.claims}
    names = [name for name in table["feature"].unique(maintain_order=True).to_list() if name in BY_NAME]
    by_key = {(row["feature"], row["head"]): row for row in table.iter_rows(named=True)}
    rows = []
    for name in names:
        cells = []
        for head in range(run.heads):
            value = by_key[name, head]["correlation"]
            step = step_of(value, -0.5, 0.5) if value is not None and (head, name) in claimed else None
            cells.append(Cell("" if value is None else f"{value:+.2f}", "" if value is not None else "too few", step))
        rows.append((BY_NAME[name].more, tuple(cells)))
    return Figure(
        f"{prefix}profile",
        "Heads and features of texts",
        "Correlation of each head's margins with what the chosen text has more of. Coloured are those that hold after "
        "Holm's correction for all of this table: ±0.50 has the strongest colour; the others may be chance.",
        HeatTable("rewards", tuple(f"head {head}" for head in range(run.heads)), tuple(rows)),
        numbers_of(table),
    )


def _alike(run: RunReport, prefix: str) -> Figure:
    table = run.tables.head_correlation
    found = {(row["head"], row["other"]): row["correlation"] for row in table.iter_rows(named=True)}
    rows = []
    for head in range(run.heads):
        values = [found.get((head, other)) for other in range(run.heads)]
        cells = [
            Cell("", "itself" if other == head else "unknown") if value is None
            else Cell(f"{value:+.2f}", "", step_of(value, -1.0, 1.0))
            for other, value in enumerate(values)
        ]  # fmt: skip
        rows.append((f"head {head}", tuple(cells)))
    return Figure(
        f"{prefix}alike",
        "How alike heads are",
        "Correlation of two heads' margins: 1 where they order all pairs alike, -1 where they are opposite.",
        HeatTable("head", tuple(f"head {head}" for head in range(run.heads)), tuple(rows)),
        numbers_of(table),
    )
