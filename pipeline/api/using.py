"""`Store.evaluate`, `benchmark`, `route` and `adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from micropref.cache.choices import TEST
from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.run import Run
from micropref.pipeline.api.values import run_id, several
from micropref.pipeline.options import (
    AdaptMethod,
    Anchor,
    BenchmarkName,
    DeviceName,
    GroupedBy,
    PassName,
    RewardInput,
    RouteSolver,
    ShotsFrom,
    Target,
)

if TYPE_CHECKING:
    from micropref.pipeline.benchmarks.benchmark import BenchmarkReport
    from micropref.pipeline.evaluation.evaluate import Evaluation
    from micropref.pipeline.people.adapt import Adaptation
    from micropref.pipeline.rewards.people.people import RunPeople
    from micropref.pipeline.routing.route import Routed


class Using(OpenedStore):
    """What is done with runs."""

    @checked
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

    @checked
    def benchmark(
        self,
        run: str | Run,
        benchmark: BenchmarkName,
        *,
        source: str | Path | None = None,
        out: str | Path | None = None,
        context: str | None = None,
        attribute: str | None = None,
        user: str | None = None,
        weights: Sequence[float] | None = None,
        backbone: str | None = None,
        device: DeviceName = "auto",
        pass_: PassName = "auto",  # noqa: S107 - no password
        tokens_per_batch: int | None = None,
        trust_remote_code: bool = False,
    ) -> BenchmarkReport:
        """Score a run on a published benchmark of reward models, by the benchmark's own sections, weights and ties.

        A response is scored by its reward r = Σ_k π_k w_k · e, as in `score`. A response without a reward (too long,
        refused by the chat template) makes its comparisons wrong, and is counted. Personalized RewardBench's profiles
        are the contexts of a run that reads contexts, where no taste is given.

        Args:
            run: the run, one of its names, or its id; also what `adapt` made.
            benchmark: published benchmark of reward models to score the run on.
            source: its rows: a file, a folder, or owner/name[@revision]; None: its own name on the hub.
            out: folder for files of results as the benchmark's own scripts write them.
            context: sentence that says what is wanted.
            attribute: attribute of the run's data, whose mean weights are taken.
            user: person the run has weights for.
            weights: weights of the heads themselves.
            backbone: where the backbone lies now; None: where it was when the run's features were embedded.
            device: where the backbone computes.
            pass_: how texts are put together for the backbone.
            tokens_per_batch: tokens of a batch, padding included; None: what is good for the device.
            trust_remote_code: whether the backbone's own Python code may run.

        Returns:
            Scores of subsets with 95 % intervals over prompts, sections, the overall score, and what had no reward.

        Raises:
            BadInput: for a run without such heads, an unknown taste, and rows that are not the benchmark's.

        Example:
            import json
            from pathlib import Path

            store = Store("data")
            trained = store.train("mine", k=5)
            row = {"id": 1, "prompt": "2 + 2?", "chosen": "4", "rejected": "5", "subset": "math-prm"}
            Path("filtered.jsonl").write_text(json.dumps(row))
            store.benchmark(trained.run, "rewardbench", source="filtered.jsonl").subsets

        """
        from micropref.pipeline.benchmarks import benchmark as stage
        from micropref.pipeline.rewards.scoring.options import BackboneOptions
        from micropref.pipeline.rewards.scoring.taste import Taste
        from micropref.pipeline.show.benchmark import show_benchmark

        options = stage.BenchmarkOptions(
            None if source is None else str(source),
            None if out is None else Path(out),
            Taste(context, attribute, user, None if weights is None else tuple(weights)),
            BackboneOptions(backbone, device, trust_remote_code, pass_, tokens_per_batch),
        )
        report = stage.run_benchmark(self._store, run_id(run), benchmark, options, self._announce)
        return readable(report, show_benchmark(report))

    @checked
    def route(
        self,
        run: str | Run,
        *,
        data: str | None = None,
        budget: int | Sequence[int] = 50,
        tau: float | None = None,
        epochs: int = 10,
        solver: RouteSolver = "ridge",
        batch: int | None = None,
        lr: float | None = None,
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
            tau: temperature of Hedge; None: 1, or another that is clearly better on wordings held out of the budget.
            epochs: rounds of soft labels.
            solver: ridge corrects the router by a linear map of what it reads; adam is a descent on all its weights.
            batch: pairs in a minibatch of adam; None: 32.
            lr: learning rate of adam; None: 0.001.
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
        from micropref.heads.adaptation.routing_budget import RouteSetting
        from micropref.pipeline.routing import route as stage
        from micropref.pipeline.show.route import show_routed

        self._check_name(run_name)
        setting = RouteSetting(target, anchor, epochs, solver, batch, lr, seed)
        options = stage.RouteOptions(tuple(several(budget)), tau, reward_input, setting)
        routed = stage.route(self._store, run_id(run), data, options)
        self._give_name(run_name, routed.run)
        return readable(routed, show_routed(routed, self.folder))

    @checked
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

    @checked
    def people(self, run: str | Run, *, import_: str | Path | None = None, strength: float | None = None) -> RunPeople:
        """List who a run has weights for; with a server's file of choices, fold it into the run's people first.

        A person's weights become those that the server uses; what was learned last wins. Whom the file forgot is
        removed from the run's people folder, and neither an older file nor an older copy brings them back. The file is
        read as it is at this moment, while a server may go on writing it, and never changed.

        Args:
            run: the run, one of its names, or its id; also what `adapt` made.
            import_: SQLite file of choices, as `serve` and `Run.scorer` keep it.
            strength: s² of shrunk: how far weights may move; None: chosen on validation users, as `serve` does.

        Returns:
            Each person with choices, method and time, and what the import did.

        Raises:
            BadInput: for a file of another run or none of choices, and runs whose heads reward no response by itself.
            Failure: where a file is damaged or the disk refuses.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.people(trained.run).people

        """
        from micropref.pipeline.rewards.people import people as stage
        from micropref.pipeline.show.people import show_people

        found = stage.people(self._store, run_id(run), None if import_ is None else Path(import_), strength)
        return readable(found, show_people(found, self.folder))
