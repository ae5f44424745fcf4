"""Questions to a person as text, where replies come from, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import polars as pl

from micropref.cache.errors import BadInput
from micropref.pipeline.people.ask import REPLIES, Asked, Question, Reply
from micropref.pipeline.people.ask_replay import ReplayedPolicies
from micropref.pipeline.show.figures import (
    accuracy,
    counted,
    few_clusters,
    gain_with_interval,
    weights_of,
    with_interval,
)
from micropref.pipeline.show.lines import paragraph, paragraphs
from micropref.pipeline.show.tables import show_rows

ENDINGS = {
    "n": "that was the last question",
    "threshold": "the next question would tell too little",
    "quit": "stopped by the person",
    "pool": "there is no question left",
}


def show_question(question: Question) -> str:
    """Return the prompt, both responses, and how the weights stand."""
    standing = f"[{question.number}] worth {question.information:.3f} nats; weights {weights_of(question.weights)}"
    return (
        f"\n{paragraph(standing)}\n\n{question.prompt}\n\n--- 1 ---\n{question.first}\n\n--- 2 ---\n{question.second}\n"
    )


def from_terminal(say: Callable[[str], None], read: Callable[[], str]) -> Callable[[Question], Reply]:
    """Return what shows a question and waits for a reply that is one; the end of the input is no more questions."""

    def respond(question: Question) -> Reply:
        say(show_question(question))
        while True:
            say("1, 2, s(kip) or q(uit)?")
            try:
                reply = read().strip().lower()[:1]
            except EOFError:
                return "q"
            if reply in REPLIES:
                return reply

    return respond


def from_file(say: Callable[[str], None], path: Path) -> Callable[[Question], Reply]:
    """Return what shows a question and takes the next line of a file; its end is no more questions.

    Raises BadInput where the file cannot be read or has another line than 1, 2, s or q.
    """
    try:
        replies = list(_parsed(path, path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--answers {path}: cannot be read ({error}); expected a text file of 1, 2, s or q") from error
    left = iter(replies)

    def respond(question: Question) -> Reply:
        say(show_question(question))
        reply: Reply = next(left, "q")
        say(reply)
        return reply

    return respond


def _parsed(path: Path, lines: Iterable[str]) -> Iterable[Reply]:
    for number, line in enumerate(lines, 1):
        word = line.strip().lower()
        if word and word not in REPLIES:
            raise BadInput(f"{path}:{number}: {line!r} is no answer: expected 1, 2, s or q")
        if word:
            yield word


def show_asked(asked: Asked) -> str:
    """Return how the weights moved, why it ended and where the answers are."""
    rows = [
        {
            "question": number,
            "answer": str(row["reply"]),
            "worth": f"{row['information']:.3f}",
            "weights after": weights_of(cast("tuple[float, ...]", row["weights"])),
        }
        for number, row in enumerate(asked.questions, 1)
    ]
    ahead = "" if asked.next_information is None else f" (the next is worth {asked.next_information:.3f} nats)"
    lines = [
        f"{asked.user}: {counted(len(asked.questions), 'question')} of {asked.data}/{asked.split}"
        f"{f' after {asked.resumed} earlier ones' if asked.resumed else ''}, {ENDINGS[asked.stopped]}{ahead}",
        f"weights of the heads of {asked.run}: {weights_of(asked.weights)}; an answer counts {asked.beta:g} "
        f"({asked.beta_chosen_by})",
        f"kept in {asked.file}; the same --user goes on from there" if asked.file else "no answer, so nothing is kept",
    ]
    return show_rows(rows) + paragraphs(lines)


def show_replayed(replayed: ReplayedPolicies) -> str:
    """Return accuracy by number of answers for each policy, and what answers are worth in random ones."""
    curve = replayed.curve
    rows = []
    for count in sorted(set(curve["answers"])):
        row = {one["policy"]: one for one in curve.filter(pl.col("answers") == count).iter_rows(named=True)}
        asked, worth = row["ask"], replayed.worth.get(count)
        ahead = (asked["ahead"], asked["ahead_low"], asked["ahead_high"])
        rows.append(
            {
                "answers": count,
                "ask (95 %)": with_interval(asked["accuracy"], asked["low"], asked["high"]),
                "closest to ½": accuracy(row["uncertainty"]["accuracy"]),
                "random": accuracy(row["random"]["accuracy"]),
                "ask - random (95 %)": gain_with_interval(*ahead),
                "worth random": "" if count == 0 else f"> {max(curve['answers'])}" if worth is None else str(worth),
            }
        )
    lines = [
        f"heads of {replayed.run} on {replayed.data}: {counted(replayed.people, replayed.by)} with "
        f"{replayed.candidates} recorded choices to ask for, drawn {counted(replayed.draws, 'time')}; "
        f"{replayed.left_out:,} had too few",
        f"accuracy on {replayed.pairs:,} pairs, none with a prompt that could be asked about; intervals over "
        f"{replayed.resampled}; an answer counts {replayed.beta:g} ({replayed.beta_chosen_by})",
        "closest to ½: asks where the weighed heads are least sure; worth random: randomly chosen answers that reach "
        "the same accuracy",
        *few_clusters(replayed.clusters),
    ]
    return f"{paragraphs(lines)}\n{show_rows(rows)}"
