"""`people --import`: a server's file of choices becomes weights in the run's people folder; the forgotten go from it.

K heads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from micropref.cache.atomic import sync_folder
from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.uses import hold_alone
from micropref.cache.runs.forgotten import Forgotten, read_forgotten, write_forgotten
from micropref.cache.runs.people import Person, Recorded, person_path, read_person, utc, write_person
from micropref.pipeline.rewards.people.feedback import Choice, Feedback
from micropref.pipeline.rewards.people.personal import learned_of
from micropref.pipeline.rewards.scoring.taste import RewardHeads


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    file: str
    """The file of choices."""
    strength: float
    """s² of shrunk."""
    strength_from: str
    """What it was chosen on."""
    people: int
    """People who have choices in the file."""
    written: int
    """Of these, those whose weights are new or changed."""
    unchanged: int
    """Of these, those whose weights were here already."""
    newer_here: int
    """Of these, those whose weights here are newer than their last choice, and stay."""
    forgotten: int
    """Of these, those who were forgotten after their last choice, and stay so."""
    choices_left_out: int
    """Choices made before the person was forgotten."""
    removed: int
    """Files of forgotten people that were removed from the people folder."""
    unreadable: list[str]
    """Files of the people folder that cannot be read and were left as they are."""


def import_choices(heads: RewardHeads, file: Path, choose: Callable[[], tuple[float, str]]) -> Imported:
    """Fold a file of choices into the people folder of its run; nothing in the file is changed.

    `choose` returns s² of shrunk and what that was chosen on; it is called once the file is known to be good.

    Whom the file forgot is kept with the run first, for good: neither an older file nor an older copy of a person
    brings them back. Raises BadInput for another run's file and while another import runs, Failure on I/O.
    """
    run, folder = heads.run, heads.run.folder / "people"
    source = file.name.encode(errors="replace").decode()  # names of files may be no text
    with closing(Feedback(file, run.id, heads.k, read_only=True)) as opened:
        found = {user: opened.of(user) for user in opened.users()}
        forgotten = opened.forgotten()
    strength, strength_from = choose()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise Failure(f"{folder}: cannot be made ({error.strerror or error}); nothing was imported") from error
    with hold_alone(folder) as others:
        if others:
            raise BadInput(f"run {run.id}: people are being imported by {', '.join(others)}; run this again after that")
        known = read_forgotten(run.folder)
        joined = known.joined(forgotten)
        if joined != known:
            write_forgotten(run.folder, joined)
        removed, unreadable = _remove_forgotten(folder, joined)
        living = {user: _since(choices, joined.when(user)) for user, choices in found.items()}
        chosen = {user: choices for user, choices in living.items() if choices}
        counts = dict.fromkeys(("written", "unchanged", "newer_here"), 0)
        learned = learned_of(list(chosen.values()), strength)
        for (user, choices), adapted in zip(chosen.items(), learned, strict=True):
            person = _person(heads, user, choices, strength, adapted.log_weights[0].exp().tolist(), source)
            try:
                counts[_keep(folder, person)] += 1
            except Failure as error:
                if str(error) not in unreadable:
                    raise
    return Imported(
        file=str(file),
        strength=strength,
        strength_from=strength_from,
        people=len(found),
        **counts,
        forgotten=len(found) - len(chosen),
        choices_left_out=sum(map(len, found.values())) - sum(map(len, chosen.values())),
        removed=removed,
        unreadable=unreadable,
    )


def _since(choices: list[Choice], forgotten_at: float | None) -> list[Choice]:
    return [one for one in choices if forgotten_at is None or (one.at is not None and one.at > forgotten_at)]


def _remove_forgotten(folder: Path, forgotten: Forgotten) -> tuple[int, list[str]]:
    """Remove the files of people who were forgotten after these were written; return how many, and what is unreadable.

    Whose an unreadable file is can still be told by its name where somebody asks for that person: it is never used.
    """
    gone, unreadable = 0, []
    for path in sorted(folder.glob("*.json")):
        try:
            person = read_person(path)
        except Failure as error:
            unreadable.append(str(error))
            continue
        at = None if person is None else forgotten.when(person.name)
        if person is not None and at is not None and person.at <= at:
            try:
                path.unlink(missing_ok=True)
                sync_folder(folder)
            except OSError as error:
                reason = error.strerror or str(error)
                raise Failure(f"{path}: cannot be removed ({reason}); free the cause and import again") from error
            gone += 1
    return gone, unreadable


def _keep(folder: Path, person: Person) -> str:
    """Write a person unless what is there is newer, or the same; return which it was."""
    known = read_person(person_path(folder, person.name))
    if known is not None and known.at > person.at:
        return "newer_here"
    if known is not None and replace(known, recorded=person.recorded) == person:  # a copy may have another name
        return "unchanged"
    write_person(folder, person)
    return "written"


def _person(
    heads: RewardHeads, user: str, choices: list[Choice], strength: float, weights: list[float], source: str
) -> Person:
    """Return a person with what the server's choices come to [K]."""
    return Person(
        name=user,
        grouped_by="user",
        run=heads.run.id,
        features=heads.fitted.features.id,
        data=None,
        split=None,
        data_digest=None,
        method="shrunk",
        strength=strength,
        answers=(),
        weights=tuple(weights),
        scale=None,
        routed=True,
        combine="linear",
        created=utc(max(one.at or 0.0 for one in choices)),
        recorded=Recorded(len(choices), source),
    )
