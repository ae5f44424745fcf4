"""Runs: fitted models, opened by name."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.errors import BadInput
from micropref.cache.store import StoreFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl

    from micropref.pipeline.api.scorer import Scorer
    from micropref.pipeline.options import DeviceName


class Run:
    """A fitted model and how it came to be. `Store.run` opens one.

    Example:
        store = Store("data")
        run = store.run(store.train("mine", k=5).run)
        run.settings["k"], run.heads.shape, run.table("head_accuracy")

    """

    def __init__(self, folder: StoreFolder, name: str) -> None:
        """Open a run by a name, its id or the start of its id. Raises BadInput listing the runs there are."""
        from micropref.cache.runs.names import find_run

        self._folder, self._run = folder, find_run(folder, name)

    def __repr__(self) -> str:
        record = self._run.record
        return f"Run({self.id!r}, method={record['method']!r}, data={record['data']!r}, k={record['k']})"

    @property
    def id(self) -> str:
        """Return the run's id."""
        return self._run.id

    @property
    def names(self) -> list[str]:
        """Return the names the run has now, the first given first."""
        from micropref.cache.runs.names import read_names

        return read_names(self._folder).of(self.id)

    @property
    def note(self) -> str | None:
        """Return the run's note, None where it has none."""
        from micropref.cache.runs.names import read_note

        return read_note(self._run)

    @property
    def record(self) -> dict[str, Any]:
        """Return all of run.json: settings, seeds, versions, validation figures."""
        return dict(self._run.record)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that the run was fitted with, `k`, `lam` and `seed` among them."""
        record = self._run.record
        return {"k": record["k"], "lam": record["lam"], "seed": record["seed"], **record["settings"]}

    @cached_property
    def heads(self) -> npt.NDArray[np.float32]:
        """Return the reward heads [K, D], float32: row k times a response's vector is its reward under head k.

        Raises BadInput where the run's method has none, Failure where they are damaged.
        """
        tensors = self._run.tensors()
        if "heads" not in tensors:
            there = ", ".join(sorted(tensors))
            raise BadInput(f"run {self.id}: method {self._run.record['method']} has no reward heads (there: {there})")
        heads: npt.NDArray[np.float32] = tensors["heads"].float().numpy()
        return heads

    def scorer(
        self,
        *,
        backbone: str | None = None,
        device: DeviceName = "auto",
        trust_remote_code: bool = False,
        feedback: str | Path | None = None,
        strength: float | None = None,
    ) -> Scorer:
        """Load the run's backbone to score new texts.

        Args:
            backbone: where it lies now; None: where it was when the run's features were embedded.
            device: where it computes.
            trust_remote_code: whether its own Python code may run.
            feedback: SQLite file of people's choices, which `learn` adds to; None: they are kept in memory.
            strength: s² of shrunk: how far choices may move a person's weights; None: chosen on validation users.

        Raises:
            BadInput: where it is not there or another one, or the run's heads reward no response by itself.

        """
        from micropref.pipeline.api.scorer import Scorer
        from micropref.pipeline.rewards.scoring.options import BackboneOptions

        options = BackboneOptions(backbone, device, trust_remote_code)
        return Scorer(self._folder, self.id, options, None if feedback is None else Path(feedback), strength)

    def table(self, name: str) -> pl.DataFrame:
        """Return the run's rows of a view: head_accuracy, mixture_accuracy, best_head or router_weights.

        Any other view with a column `run` works too. Raises BadInput where there is no such view.
        """
        import polars as pl

        from micropref.cache.runs.records import TABLES
        from micropref.cache.sql.query import run_query

        if not name.isidentifier():
            raise BadInput(f"table {name!r}: expected the name of a view, such as {', '.join(TABLES)}")
        found = pl.from_arrow(run_query(self._folder.root, f"FROM {name} WHERE run = '{self.id}'"))
        assert isinstance(found, pl.DataFrame)
        return found
