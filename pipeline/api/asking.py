"""`Store.diagnose`, `compare` and `sql`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.choices import TEST
from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.page_file import page_file
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.values import words
from micropref.pipeline.options import (
    ArmoGate,
    DeviceName,
    Paper,
    RewardInput,
)

if TYPE_CHECKING:
    import polars as pl

    from micropref.pipeline.comparison.compare import Compared
    from micropref.pipeline.people.diagnose import Diagnosis


class Asking(OpenedStore):
    """What is asked of data sets and of the whole store."""

    @checked
    def diagnose(
        self,
        name: str,
        *,
        k: int = 5,
        restarts: int = 4,
        reward_input: RewardInput = "plain",
        seed: int = 0,
        device: DeviceName = "auto",
        features: str | None = None,
        html: str | Path | None = None,
    ) -> Diagnosis:
        """Say whether personalisation is worth it on this data: what knowing who chose adds on held-out prompts.

        Args:
            name: data set with a train and a test split.
            k: groups that people may fall into.
            restarts: initialisations fitted together; the best by validation NLL is kept.
            reward_input: vectors of responses after the prompt (plain), or after context and prompt (context).
            seed: seed of the first restart.
            device: where to compute.
            features: features id; None: the only one there is.
            html: file for a page of the figures; it replaces an earlier page of ours, and no other file.

        Returns:
            A yes or no for users, attributes and contexts, with the gain in nats and its interval.

        Raises:
            BadInput: for unknown names, and data that names nobody.

        Example:
            Store("data").diagnose("mine")

        """
        from micropref.heads.adaptation.diagnosis import DiagnosisPlan
        from micropref.pipeline.people import diagnose as stage
        from micropref.pipeline.show.diagnose import show_diagnosis
        from micropref.pipeline.show.sections.diagnosed import diagnosis_page

        write = page_file(html, self._announce)
        plan = DiagnosisPlan(k, restarts, device, seed)
        found = stage.diagnose(self._store, name, plan, features=features, reward_input=reward_input)
        page = diagnosis_page(found)
        write(page)
        return readable(found, show_diagnosis(found, self.folder), page)

    @checked
    def compare(
        self,
        name: str,
        *,
        methods: str | Sequence[str] = "all",
        seeds: int = 5,
        split: str = TEST,
        shots: int = 16,
        budget: int = 50,
        k: int | None = None,
        lam: float | None = None,
        armo_gate: ArmoGate = "small",
        paper: Paper | None = None,
        route_on: str | None = None,
        device: DeviceName = "auto",
        features: str | None = None,
        html: str | Path | None = None,
    ) -> Compared:
        """Fit every compared method on one data set and score all on the same held-out pairs.

        Args:
            name: data set to train on.
            methods: rows of the table, or "all".
            seeds: fits of every method.
            split: split to score.
            shots: labelled pairs of each attribute to adapt to.
            budget: pairs with context of each attribute to route by.
            k: reward heads; None: the paper's for the table asked for, else 5.
            lam: λ of the mixtures; None: the paper's for the table asked for, else what `train` has.
            armo_gate: size of ARMO's gate: 3 x 1024 units (paper), or 1 x 128 (small).
            paper: table of the paper to print next to ours, with its protocol.
            route_on: data set to route and score on; None: the one trained on.
            device: where to compute.
            features: features id; None: the only one there is.
            html: file for a page of the figures; it replaces an earlier page of ours, and no other file.

        Returns:
            A row for each method, with intervals and paired differences to the single reward.

        Raises:
            BadInput: for unknown names and methods.

        Example:
            Store("data").compare("mine", methods=["single", "mixture", "lore"], seeds=2)

        """
        from micropref.pipeline.comparison import compare as stage
        from micropref.pipeline.comparison.experiment import ExperimentOptions
        from micropref.pipeline.show.compare import show_compared
        from micropref.pipeline.show.sections.compared import compared_page

        write = page_file(html, self._announce)
        wanted = None if methods == "all" else words(methods)
        options = ExperimentOptions(split, shots, budget, k, seeds, armo_gate, paper, route_on, features, device, lam)
        compared = stage.run_comparison(self._store, name, wanted, options, self._announce)
        page = compared_page(compared)
        write(page)
        return readable(compared, show_compared(compared, self.folder), page)

    @checked
    def sql(
        self,
        query: str,
        *,
        tables: Mapping[str, Any] | None = None,
        limit_vectors: int | None = None,
        timeout: float = 60.0,
        memory_mb: int = 4096,
        threads: int | None = None,
    ) -> pl.DataFrame:
        """Run one read-only DuckDB SELECT over the store's views and return its rows.

        Args:
            query: one SELECT; `micropref sql` lists the views with an example each.
            tables: tables of your own by the name the query has for each: CSV, JSON Lines, Parquet or Arrow files, or
                tables of Polars, pandas or Arrow.
            limit_vectors: vectors to load of the view `embeddings`; None: all.
            timeout: seconds before the query is stopped.
            memory_mb: memory of the query in MiB.
            threads: threads of the query; None: the machine's.

        Returns:
            A Polars table.

        Raises:
            BadInput: for anything but one SELECT over the views and these tables, and for files that cannot be read.
            Failure: where a limit is exceeded.

        Example:
            Store("data").sql("SELECT run, validation_nll FROM leaderboard ORDER BY 2")

        """
        import polars as pl

        from micropref.cache.sql.query import SqlLimits, run_query
        from micropref.pipeline.api.own_tables import own_tables
        from micropref.pipeline.api.query_text import tell_of_damaged_runs

        limits = SqlLimits(memory_mb, timeout, threads, limit_vectors)
        tell_of_damaged_runs(self._store, self._announce)
        found = pl.from_arrow(run_query(self.folder, query, limits, own_tables(tables or {}, limits)))
        assert isinstance(found, pl.DataFrame)
        return found
