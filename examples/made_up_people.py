"""Choices of made-up people, for the examples: three kinds of taste. Use your own rows instead."""

from __future__ import annotations

import random
from typing import Any

TASTES = {  # from the most to the least liked style; the context says in words what the person likes
    "brief": (["terse", "technical", "warm"], "I want short answers without small talk."),
    "friendly": (["warm", "terse", "technical"], "Please be kind and encouraging."),
    "precise": (["technical", "warm", "terse"], "Give me the exact mechanism, with the proper terms."),
}
STYLES = {
    "terse": "{fact}.",
    "warm": "What a lovely question! {fact}, and you will get the hang of it in no time, my friend.",
    "technical": "{fact}; formally, the effect is governed by {term}, to first order and under standard conditions.",
}
THINGS = {
    "rain": ("Water falls from clouds", "condensation of supersaturated vapour"),
    "bread": ("Dough rises and is baked", "fermentation by Saccharomyces cerevisiae"),
    "a magnet": ("It pulls iron", "the alignment of ferromagnetic domains"),
    "sleep": ("The body rests", "circadian and homeostatic regulation"),
    "a rainbow": ("Light bends in drops", "dispersion at the water-air interface"),
    "glue": ("It makes things stick", "adhesion and cohesion of polymer chains"),
    "a battery": ("It stores charge", "a redox reaction between two electrodes"),
    "yeast": ("It makes gas from sugar", "anaerobic glycolysis"),
    "a sail": ("Wind pushes it", "the pressure difference over an airfoil"),
    "soap": ("It lifts grease", "micelles of amphiphilic molecules"),
    "a mirror": ("It throws light back", "specular reflection at a metal surface"),
    "salt": ("It keeps food", "osmotic pressure and water activity"),
}
QUESTIONS = ("What is {thing}?", "How does {thing} work?", "Explain {thing} to me.", "Why does {thing} matter?")


def choices(
    people: int, per_person: int, seed: int = 0, *, contexts: bool = True, held_out: bool = False
) -> list[dict[str, Any]]:
    """Return preference rows: every person chooses between two styles of answer, mostly by taste.

    `contexts`: whether rows carry the sentence that says what the person likes. `held_out`: ask about the last four
    things, of which no other row asks.
    """
    draw = random.Random(seed)
    things = list(THINGS.items())[8:] if held_out else list(THINGS.items())[:8]
    rows = []
    for person in range(people):
        taste = list(TASTES)[person % len(TASTES)]
        ranking, context = TASTES[taste]
        for _ in range(per_person):
            thing, (fact, term) = draw.choice(things)
            better, worse = sorted(draw.sample(ranking, 2), key=ranking.index)
            if draw.random() < 0.1:  # nobody is always consistent
                better, worse = worse, better
            rows.append(
                {
                    "prompt": draw.choice(QUESTIONS).format(thing=thing),
                    "chosen": STYLES[better].format(fact=fact, term=term),
                    "rejected": STYLES[worse].format(fact=fact, term=term),
                    "context": context if contexts else None,
                    "attribute": taste,
                    "user": f"seed{seed}-person{person}",
                }
            )
    return rows
