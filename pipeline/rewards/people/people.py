"""`people`: who a run has weights for, by how many choices, learned how and when."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from micropref.cache.errors import BadInput, Failure
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.forgotten import Forgotten, read_forgotten
from micropref.cache.runs.names import find_run
from micropref.cache.runs.people import read_person, utc
from micropref.cache.runs.records import Run, readable_runs
from micropref.cache.store import StoreFolder
from micropref.pipeline.options import PersonKeptIn
from micropref.pipeline.rewards.people.feedback import Feedback
from micropref.pipeline.rewards.people.feedback_file import FILE
from micropref.pipeline.rewards.people.folding import Imported, import_choices
from micropref.pipeline.rewards.people.variance import check_strength, choose_variance
from micropref.pipeline.rewards.scoring.kept import made_at
from micropref.pipeline.rewards.scoring.taste import RewardHeads


@dataclass(frozen=True)
class KnownPerson:
    """Somebody a run has weights for."""

    user: str
    choices: int | None
    """Choices that the weights were learned from; None: training counted pairs of all people together."""
    method: str
    """How they were learned: ask, shrunk, or the method of the run that was trained or adapted."""
    learned: str
    """When, in UTC: at the last choice of an interview or a server, else when the run was made."""
    kept_in: PersonKeptIn
    """people: the people folder; feedback: a server's file that is not imported yet; adapted or trained: the run."""


@dataclass(frozen=True)
class RunPeople:
    """The people of a run."""

    run: str
    """The run whose heads are weighed."""
    adapted: str | None
    """The run that `adapt` made of it, where that was named."""
    people: list[KnownPerson]
    """One for each person, sorted by name: what was learned last."""
    forgotten: int
    """People whom the run has to forget; one who was forgotten by two servers counts twice."""
    still_named: list[str]
    """Runs, trained or adapted, that hold weights of forgotten people; they are not used for them."""
    not_imported: str | None
    """The run's own file of choices, where it has people, or forgot people, who are not imported yet."""
    problems: list[str]
    """Files that cannot be read."""
    imported: Imported | None
    """What an import did; None: there was none."""


@holds(run="run_id")
def people(store: StoreFolder, run_id: str, file: Path | None, strength: float | None) -> RunPeople:
    """List the people of a run, after folding a server's file of choices into its people folder where one is given.

    Raises BadInput for a run without rewards and a file that is not this run's, Failure on I/O.
    """
    if strength is not None and file is None:
        raise BadInput(f"strength is {strength}: it is for choices that are imported; give a file to `import_` too")
    check_strength(strength)
    heads = RewardHeads(store, run_id)
    imported = None
    if file is not None:

        def chosen() -> tuple[float, str]:
            return choose_variance(store, heads, strength)

        imported = import_choices(heads, file, chosen)
    return _listing(store, heads, find_run(store, run_id).folder / FILE, imported)


def _listing(store: StoreFolder, heads: RewardHeads, feedback: Path, imported: Imported | None) -> RunPeople:
    run, adapted = heads.run, heads.kept.groups
    forgotten = read_forgotten(run.folder)
    problems: list[str] = []
    known = [*_trained(heads), *([] if adapted is None else _adapted(adapted))]
    known = [one for one in known if forgotten.when(one.user) is None]
    known += _in_folder(run, forgotten, problems)
    waiting, forgets_more = _in_feedback(feedback, heads, forgotten, problems) if feedback.is_file() else ([], False)
    newest = {one.user: one for one in sorted([*waiting, *known], key=lambda one: one.learned)}
    return RunPeople(
        run=run.id,
        adapted=None if adapted is None else adapted.id,
        people=[newest[user] for user in sorted(newest)],
        forgotten=len(forgotten),
        still_named=_still_named(store, heads, forgotten) if len(forgotten) else [],
        not_imported=str(feedback) if forgets_more or any(newest[one.user] is one for one in waiting) else None,
        problems=problems,
        imported=imported,
    )


def _trained(heads: RewardHeads) -> list[KnownPerson]:
    units, record = heads.fitted.reading.units, heads.run.record
    names = units.names if units is not None and units.kind == "user" else ()
    return [KnownPerson(name, None, record["method"], _when(heads.run), "trained") for name in names]


def _adapted(run: Run) -> list[KnownPerson]:
    settings = run.record["settings"]
    if settings["by"] != "user":
        return []
    shots = settings.get("shots")
    count = None if shots is None else max(int(number) for number in str(shots).split(","))
    method, when = run.record["method"], _when(run)
    return [KnownPerson(name, count, method, when, "adapted") for name in run.record["groups"]]


def _in_folder(run: Run, forgotten: Forgotten, problems: list[str]) -> list[KnownPerson]:
    found = []
    for path in sorted((run.folder / "people").glob("*.json")):
        try:
            person = read_person(path)
        except Failure as error:
            problems.append(str(error))
            continue
        at = None if person is None else forgotten.when(person.name)
        if person is not None and (at is None or person.at > at):
            found.append(KnownPerson(person.name, person.choices, person.method, utc(person.at), "people"))
    return found


def _in_feedback(
    path: Path, heads: RewardHeads, forgotten: Forgotten, problems: list[str]
) -> tuple[list[KnownPerson], bool]:
    """Return who has choices in the run's own file, and whether it forgot people whom the run does not know of yet."""
    found = []
    try:
        with closing(Feedback(path, heads.run.id, heads.k, read_only=True)) as opened:
            joined = forgotten.joined(opened.forgotten())
            for user in opened.users():
                extent = opened.extent(user, joined.when(user))
                if extent is not None:
                    found.append(KnownPerson(user, extent.count, "shrunk", utc(extent.at), "feedback"))
    except (BadInput, Failure) as error:
        problems.append(str(error))
        return [], False
    return found, joined != forgotten


def _still_named(store: StoreFolder, heads: RewardHeads, forgotten: Forgotten) -> list[str]:
    """Return the runs whose own records name somebody who is forgotten."""
    found = [heads.run.id] if any(forgotten.when(one.user) is not None for one in _trained(heads)) else []
    derived = (run for run in readable_runs(store) if run.record.get("parent") == heads.run.id)
    for run in derived:
        users = _adapted(run) if "groups" in run.record else []
        if any(forgotten.when(one.user) is not None for one in users):
            found.append(run.id)
    return found


def _when(run: Run) -> str:
    return utc(made_at(run))
