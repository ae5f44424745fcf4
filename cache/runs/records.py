"""Runs: a folder with run.json, heads.safetensors and, once evaluated, tables of scores and accuracies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.atomic import publish, staged_file, write_bytes
from micropref.cache.choices import OldJoint, RouterInput
from micropref.cache.commits import Commit, commit, read_commit, read_commits, write_table
from micropref.cache.errors import BadInput, Damaged, Failure, MicroprefError, cannot_read
from micropref.cache.keys import digest_file, finite, sha256_hex, signed, unsigned
from micropref.cache.store import NAME, ORIGIN, StoreFolder, check_name

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

HEADS = "heads.safetensors"
BUDGET = "budget"
CONTEXTS = "contexts"
TABLES = ("head_accuracy", "mixture_accuracy", "best_head", "router_weights")
"""Roles of every commit of accuracies."""
LATER_TABLES = ("calibration", "head_profile", "head_correlation", "mixture_vs_single")
"""Roles that commits of the first releases lack."""


@dataclass(frozen=True)
class Run:
    """One fitted model and the record of how it came to be."""

    folder: Path
    record: dict[str, Any]
    """run.json: run, parent, method, data, features, k, lam, seed, settings, created, versions, figures."""

    @property
    def id(self) -> str:
        """Return the run's name."""
        return self.folder.name

    @property
    def scale(self) -> float:
        """Return what its log-odds are multiplied by for probabilities and NLL; runs made without one have 1."""
        return float(self.record.get("scale", 1.0))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the saved weights. Raises Damaged where their digest is not the recorded one."""
        from safetensors.torch import load

        return load(self.heads())

    def heads(self) -> bytes:
        """Return the file of the saved weights. Raises Damaged where its digest is not the recorded one."""
        path = self.folder / HEADS
        try:
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        except OSError as error:
            raise cannot_read(path, error) from error
        if sha256_hex(data) != self.record["heads_digest"]:
            raise Damaged(f"{path}: missing or changed since it was saved; train the run again")
        return data

    def eval_folder(self, data: str) -> Path:
        """Return the folder of this run's scores and tables on one data set."""
        return self.folder / "eval" / check_name("data set", data)

    def evaluated(self) -> list[str]:
        """Return the data sets this run was evaluated on, sorted."""
        folder = self.folder / "eval"
        entries = folder.iterdir() if folder.is_dir() else ()
        return sorted(path.name for path in entries if path.is_dir() and NAME.fullmatch(path.name))

    def score_shards(self, data: str, split: str | None = None) -> list[Commit]:
        """Return the committed score tables (role `scores`) on a data set, of one split or of all."""
        found = [item for item in read_commits(self.eval_folder(data)) if "scores" in item.files]
        return [item for item in found if split in (None, item.record["split"])]

    def origin(self) -> dict[str, Any] | None:
        """Return what is known of where a run came from, as `unpack` and `pull` note it; None: it was fitted here."""
        found = read_commit(self.folder / f"{ORIGIN}.json")
        return None if found is None else found.record

    @property
    def lacks_budget(self) -> bool:
        """Say whether the run came without the pairs that its router was re-fitted on: packs leave them out."""
        here = (self.folder / f"{BUDGET}.json").is_file()
        return not here and "budgets" in self.record.get("settings", {}) and self.origin() is not None

    def budget(self) -> Commit | None:
        """Return the committed table (role `budget`) of the pairs a router was re-fitted on, None where it was not.

        Raises Failure where the table is gone, BadInput where the run came without it: without it those pairs would be
        scored.
        """
        path = self.folder / f"{BUDGET}.json"
        if self.lacks_budget:
            raise BadInput(
                f"run {self.id} came from a pack, without the pairs that its router was re-fitted on, so what it may "
                "be scored on is not known; ask where it was made, or route another run here"
            )
        found = read_commit(path)
        if found is None and "budgets" in self.record.get("settings", {}):
            raise Failure(f"{path}: missing, so what this run may be scored on is not known; route its parent again")
        return found

    def contexts(self) -> Commit | None:
        """Return the committed vectors (role `contexts`) of contexts that the router was fitted on, if it keeps any."""
        return read_commit(self.folder / f"{CONTEXTS}.json")

    def tables(self, data: str) -> list[Commit]:
        """Return the committed accuracy tables (roles of TABLES) on a data set, one commit for each split."""
        return [item for item in read_commits(self.eval_folder(data)) if set(TABLES) <= set(item.files)]


ROUTER_READING = 2
"""What run.json says as `router_reading`. Runs without it are of the first release, where `context` meant context and
prompt as one text, and the prompt where there was no context."""


def router_input(record: dict[str, Any]) -> RouterInput | OldJoint:
    """Return what the router of a run reads, from its run.json."""
    named: RouterInput = record["settings"]["router_input"]
    return "context+prompt or prompt" if named == "context" and "router_reading" not in record else named


def save_run(store: StoreFolder, run_id: str, record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Run:
    """Write a run: the weights first, then run.json, which makes it exist."""
    from safetensors.torch import save

    return write_run(store, run_id, record, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def write_run(store: StoreFolder, run_id: str, record: dict[str, Any], heads: bytes) -> Run:
    """Write a run whose weights are safetensors already, in the same order."""
    folder = store.run(run_id)
    with staged_file(folder) as (file, temp):
        file.write(heads)
        file.flush()
        digest = digest_file(temp)
    publish(temp, folder / HEADS)
    known: dict[str, Any] = finite({**record, "run": run_id, "heads_digest": digest})
    text = json.dumps(signed(known), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / "run.json", text.encode())
    return Run(folder, known)


def save_budget(store: StoreFolder, run_id: str, pairs: pa.Table) -> None:
    """Write the pairs that a run's router was re-fitted on, before the run itself: none of them is ever scored."""
    folder = store.run(run_id)
    commit(folder, BUDGET, {BUDGET: write_table(folder, BUDGET, BUDGET, pairs)}, {})


def open_run(store: StoreFolder, run_id: str) -> Run:
    """Open a run. Raises BadInput listing the runs there are, Damaged where run.json is not as it was written.

    Those of earlier versions have no digest of themselves.
    """
    return _read_run(store.existing("runs", run_id))


def _read_run(folder: Path) -> Run:
    path = folder / "run.json"
    try:
        record = json.loads(path.read_bytes())
        record = unsigned(record) if "digest" in record else record
        if record["run"] != folder.name:
            raise KeyError("run")
    except OSError as error:
        raise cannot_read(path, error) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path}: damaged or changed; train with the same options again, which writes it anew") from error
    return Run(folder, record)


def unfinished_runs(store: StoreFolder) -> list[str]:
    """Return the ids of runs without a run.json, sorted: a command is at work on them, or was stopped."""
    folder = store.root / "runs"
    entries = (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()) if folder.is_dir() else ()
    return sorted({path.name for path in entries if NAME.fullmatch(path.name)} - set(store.names("runs")))


def read_runs(store: StoreFolder) -> tuple[list[Run], list[str]]:
    """Return the runs of a store by name, and a line for each that cannot be read and is left out."""
    runs, lines = [], []
    for name in store.names("runs"):
        try:
            runs.append(_read_run(store.run(name)))
        except MicroprefError as error:
            lines.append(str(error))
    return runs, lines


def readable_runs(store: StoreFolder) -> list[Run]:
    """Return the runs of a store by name, without those whose run.json is damaged: `ls` and `verify` name these."""
    return read_runs(store)[0]


def sweep_leaderboards(store: StoreFolder) -> list[Commit]:
    """Return the committed tables of sweeps' settings (role `leaderboard`), also of sweeps that were interrupted."""
    folder = store.root / "runs"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = (read_commit(store.run(name) / "leaderboard.json") for name in names if NAME.fullmatch(name))
    return [item for item in found if item is not None]
