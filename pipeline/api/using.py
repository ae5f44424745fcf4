"""`Store.evaluate`, `route`, `adapt`, `diagnose`, `compare` and `sql`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from micropref.cache.choices import TEST
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.run import Run
from micropref.pipeline.api.values import run_id, several, words
from micropref.pipeline.options import (
    AdaptMethod,
    Anchor,
    ArmoGate,
    DeviceName,
    GroupedBy,
    Paper,
    RewardInput,
    ShotsFrom,
    Target,
)

if TYPE_CHECKING:
    import polars as pl

    from micropref.pipeline.comparison.compare import Compared
    from micropref.pipeline.evaluation.evaluate import Evaluation
    from micropref.pipeline.people.adapt import Adaptation
    from micropref.pipeline.people.diagnose import Diagnosis
    from micropref.pipeline.routing.route import Routed


class Using(OpenedStore):
    """What is done with runs and data sets."""

    def evaluate(self, run: str | Run, *, data: str | None = None, split: str = TEST) -> Evaluation:
        """Say how well every head, the best head and the mixture predict each attribute, with 95 % intervals.

        Args:
            run: the run, one of its names, or its id.
            data: data set; None: the run's own.
            split: split to evaluate on.

        Returns:
            Accuracies as Polars tables.

        Raises:
            BadInput: for unknown names.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.evaluate(trained.run).mixture_accuracy

        """
        from micropref.pipeline.evaluation import evaluate as stage
        from micropref.pipeline.show.evaluate import show_evaluation

        evaluation = stage.evaluate(self._store, run_id(run), data, split)
        return readable(evaluation, show_evaluation(evaluation, self.folder))

    def route(
        self,
        run: str | Run,
        *,
        data: str | None = None,
        budget: int | Sequence[int] = 50,
        tau: float | None = None,
        epochs: int = 10,
        batch: int = 32,
        lr: float = 1e-3,
        target: Target = "context",
        anchor: Anchor = "previous",
        reward_input: RewardInput | None = None,
        seed: int = 0,
        run_name: str | None = None,
    ) -> Routed:
        """Teach a run's router to read contexts from a few pairs of each attribute, its heads frozen (Algorithm 1).

        Args:
            run: the run, one of its names, or its id.
            data: data set; None: the run's own.
            budget: pairs of each attribute; several: a curve, of which the largest makes the run.
            tau: temperature of Hedge; None: the best on pairs held out inside the budget.
            epochs: passes over the budget.
            batch: pairs in a minibatch.
            lr: learning rate.
            target: what shares a soft label: all contexts of an attribute (context), or one pair (example).
            anchor: soft labels start from the router so far (previous), or from the run's (stage1).
            reward_input: vectors of responses after the prompt, or after context and prompt; None: the run's.
            seed: seed of the draw and of the order of pairs.
            run_name: name to give the new run, which keeps its id too.

        Returns:
            Accuracies by size of the budget, and the new run.

        Raises:
            BadInput: for unknown names, and data without contexts.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5, router_input="prompt")
            store.route(trained.run, budget=[5, 10])

        """
        from micropref.heads.adaptation.router_refit import RouteSetting
        from micropref.pipeline.routing import route as stage
        from micropref.pipeline.show.route import show_routed

        self._check_name(run_name)
        setting = RouteSetting(target, anchor, epochs, batch, lr, seed)
        options = stage.RouteOptions(tuple(several(budget)), tau, reward_input, setting)
        routed = stage.route(self._store, run_id(run), data, options)
        self._give_name(run_name, routed.run)
        return readable(routed, show_routed(routed, self.folder))

    def adapt(
        self,
        run: str | Run,
        by: GroupedBy,
        *,
        data: str | None = None,
        shots: int | Sequence[int] = 16,
        method: AdaptMethod = "hedge",
        tau: float | None = None,
        shots_from: ShotsFrom = TEST,
        seed: int = 0,
        out: str | Path | None = None,
        run_name: str | None = None,
    ) -> Adaptation:
        """Weigh a run's heads for each user, attribute or context by a few choices, and say how much that helps.

        Args:
            run: the run, one of its names, or its id.
            by: whose choices share one set of weights.
            data: data set; None: the run's own.
            shots: choices that weights are learned from; one number: also 0 and the powers of 2 below it.
            method: how weights are learned from the choices.
            tau: temperature of hedge; None: 1, Bayes' rule.
            shots_from: split that the choices are from; those of test are never scored.
            seed: seed of the draw of choices.
            out: folder for a JSON file of each person's weights.
            run_name: name to give the new run, which keeps its id too.

        Returns:
            Accuracy and NLL by number of choices, and the run that keeps them.

        Raises:
            BadInput: for unknown names, and groups with too few choices.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.adapt(trained.run, "user", shots=[1, 2, 4])

        """
        from micropref.pipeline.people import adapt as stage
        from micropref.pipeline.show.adapt import show_adaptation

        self._check_name(run_name)
        options = stage.AdaptOptions(by, tuple(several(shots)), method, tau, shots_from, seed)
        adapted = stage.adapt(self._store, run_id(run), data, options, None if out is None else Path(out))
        self._give_name(run_name, adapted.run)
        return readable(adapted, show_adaptation(adapted, self.folder))

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

        plan = DiagnosisPlan(k, restarts, device, seed)
        found = stage.diagnose(self._store, name, plan, features=features, reward_input=reward_input)
        return readable(found, show_diagnosis(found, self.folder))

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
        armo_gate: ArmoGate = "small",
        paper: Paper | None = None,
        route_on: str | None = None,
        device: DeviceName = "auto",
        features: str | None = None,
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
            armo_gate: size of ARMO's gate: 3 x 1024 units (paper), or 1 x 128 (small).
            paper: table of the paper to print next to ours, with its protocol.
            route_on: data set to route and score on; None: `name`.
            device: where to compute.
            features: features id; None: the only one there is.

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

        wanted = None if methods == "all" else words(methods)
        options = ExperimentOptions(split, shots, budget, k, seeds, armo_gate, paper, route_on, features, device)
        compared = stage.run_comparison(self._store, name, wanted, options, self._announce)
        return readable(compared, show_compared(compared, self.folder))

    def sql(
        self,
        query: str,
        *,
        limit_vectors: int | None = None,
        timeout: float = 60.0,
        memory_mb: int = 4096,
        threads: int | None = None,
    ) -> pl.DataFrame:
        """Run one read-only DuckDB SELECT over the store's views and return its rows.

        Args:
            query: one SELECT; `micropref sql` lists the views with an example each.
            limit_vectors: vectors to load of the view `embeddings`; None: all.
            timeout: seconds before the query is stopped.
            memory_mb: memory of the query in MiB.
            threads: threads of the query; None: the machine's.

        Returns:
            A Polars table.

        Raises:
            BadInput: for anything but one SELECT over the views.
            Failure: where a limit is exceeded.

        Example:
            Store("data").sql("SELECT run, validation_nll FROM leaderboard ORDER BY 2")

        """
        import polars as pl

        from micropref.cache.sql.query import SqlLimits, run_query

        found = pl.from_arrow(run_query(self.folder, query, SqlLimits(memory_mb, timeout, threads, limit_vectors)))
        assert isinstance(found, pl.DataFrame)
        return found
