"""`Store.train` and `Store.sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from micropref.cache.errors import BadInput
from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.page_file import page_file
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.values import changed, several, size
from micropref.pipeline.options import (
    ArmoGate,
    ComputeDtype,
    DeviceName,
    FitMethod,
    Latent,
    Method,
    Prior,
    RewardInput,
    Solver,
    SweptMethod,
    WantedRouterInput,
    Weight,
)

if TYPE_CHECKING:
    from micropref.pipeline.training.choose_width import Width
    from micropref.pipeline.training.method_runs import TrainedMethod
    from micropref.pipeline.training.sweep import Swept
    from micropref.pipeline.training.train import Trained


class Fitting(OpenedStore):
    """Fits on cached vectors."""

    @checked
    def train(
        self,
        name: str,
        *,
        method: Method = "mixture",
        k: int | None = None,
        lam: float | None = None,
        router_input: WantedRouterInput = "auto",
        reward_input: RewardInput = "plain",
        hidden: int = 128,
        prior: Prior = "example",
        latent: Latent = "pair",
        weight: Weight = "pair",
        anneal: bool = True,
        epochs: int = 20,
        lr: float = 2e-3,
        batch: int = 2048,
        wd: float = 0.01,
        l2: float = 0.0,
        patience: int = 5,
        solver: Solver | None = None,
        projection: str | int = "none",
        prune: float | None = None,
        memory: str | int | None = None,
        restarts: int = 8,
        merge: bool = True,
        armo_gate: ArmoGate = "small",
        seed: int = 0,
        data_seed: int = 0,
        dtype: ComputeDtype = "auto",
        device: DeviceName = "auto",
        features: str | None = None,
        router_features: str | None = None,
        run_name: str | None = None,
    ) -> Trained | TrainedMethod:
        """Fit reward heads and router, or another method, on a data set's cached features.

        Args:
            name: the data set.
            method: mixture (heads and a router), static (one set of weights), single (one head), or another method.
            k: reward heads K; None: 5, and 1 for single.
            lam: λ, the KL penalty towards uniform mixture weights; None: 0.03 where a router reads contexts, else 0.1.
            router_input: what the router reads: prompt, context (by itself), context+prompt (as one text, the paper's
                form), difference (context+prompt less prompt) or context,prompt (side by side); auto: context where
                rows have contexts, else prompt; context,prompt where that is ahead, on contexts held out too.
            reward_input: vectors of responses after the prompt (plain), or after context and prompt (context).
            hidden: hidden units of the router; 0: a linear router.
            prior: penalise each pair's weights (example), or their mean over the minibatch (batch).
            latent: which pairs share one group: none (pair), those of a user, or those of a context.
            weight: what counts equally in the loss: pairs, or the users or contexts of `latent`.
            anneal: with `latent` user or context, raise the weight of their evidence over the first half of the fit.
            epochs: most passes over the pairs.
            lr: peak learning rate; vectors wider than 384 take 384 / width of it.
            batch: pairs in a minibatch.
            wd: weight decay.
            l2: explicit L2 term; scikit-learn's C is 1 / l2; with solver scikit-learn 0 lets validation choose it.
            patience: stop after so many epochs without a better validation NLL; 0: never.
            solver: adamw on minibatches, lbfgs on all pairs to convergence, or scikit-learn for one head, its L2 chosen
                on validation; None: scikit-learn for single, adamw for the others.
            projection: fit on N principal components; auto: as few as validation allows.
            prune: remove one of two heads whose predictions correlate above this, such as 0.95.
            memory: most memory of the process in bytes, or such as "6GB"; pairs that need more are streamed.
            restarts: initialisations fitted together; the best by validation NLL is kept, or the best merged.
            merge: make one mixture of the best four restarts where the router reads contexts and they found the same
                groups; else keep the best alone.
            armo_gate: size of ARMO's gate: 3 x 1024 units (paper), or 1 x 128 (small).
            seed: seed of the first restart's initial weights.
            data_seed: seed of the order of the pairs.
            dtype: precision of the large matrix multiplications.
            device: where to compute.
            features: features id; None: the only one there is.
            router_features: features id of another backbone whose vectors of contexts the router reads.
            run_name: name to give the run, which keeps its id too.

        Returns:
            The run's id, its record and how the restarts ended.

        Raises:
            BadInput: for unknown names, and options without an effect on the method.

        Example:
            Store("data").train("mine", k=5).run

        """
        from micropref.pipeline.training.method_options import check_used

        check_used(method, changed(Fitting.train, locals()), latent, solver)
        self._check_name(run_name)
        if method not in get_args(FitMethod):
            from micropref.heads.methods.base import MethodOptions
            from micropref.pipeline.show.methods import show_method
            from micropref.pipeline.training.method_runs import train_method

            recipe = MethodOptions(MethodOptions().k if k is None else k, device, armo_gate, lam)
            reads: dict[str, Any] = {"features": features, "router_input": router_input, "reward_input": reward_input}
            fitted = train_method(self._store, name, method, recipe, seed=seed, **reads)
            self._give_name(run_name, fitted.run)
            return readable(fitted, show_method(fitted, self.folder))
        from micropref.heads.fitting.settings import LAM, FitPlan, FitSetting
        from micropref.pipeline.show.train import show_training, training_progress
        from micropref.pipeline.training import train as stage

        heads = k if k is not None else 1 if method == "single" else 5
        strength = LAM if lam is None else lam
        setting = FitSetting(
            cast("FitMethod", method), heads, strength, prior, hidden, lr, wd, l2, seed, latent, weight
        )
        by = solver or ("scikit-learn" if method == "single" else "adamw")
        plan = FitPlan(epochs, batch, data_seed, dtype, device, patience, solver=by, anneal=anneal)
        options = stage.TrainOptions(
            router_input,
            reward_input,
            restarts,
            features,
            cast("Width", projection),
            prune,
            size(memory),
            router_features,
            lam is None,
            merge,
        )
        with training_progress() as progress:
            trained = stage.train(self._store, name, setting, plan, options, progress)
        self._give_name(run_name, trained.run)
        return readable(trained, show_training(trained, self.folder))

    @checked
    def sweep(
        self,
        name: str,
        *,
        k: int | Sequence[int] = (1, 2, 3, 5, 8, 10),
        lam: float | Sequence[float] = (0, 0.03, 0.1, 0.3, 0.5),
        seeds: int = 8,
        method: SweptMethod = "mixture",
        router_input: WantedRouterInput = "auto",
        reward_input: RewardInput = "plain",
        hidden: int = 128,
        prior: Prior = "example",
        latent: Latent = "pair",
        weight: Weight = "pair",
        anneal: bool = True,
        epochs: int = 20,
        lr: float = 2e-3,
        batch: int = 2048,
        wd: float = 0.01,
        patience: int = 5,
        projection: str | int = "none",
        prune: float | None = None,
        memory: str | int | None = None,
        merge: bool = True,
        seed: int = 0,
        data_seed: int = 0,
        dtype: ComputeDtype = "auto",
        device: DeviceName = "auto",
        features: str | None = None,
        router_features: str | None = None,
        run_name: str | None = None,
        html: str | Path | None = None,
    ) -> Swept:
        """Fit many K, λ and seeds at once, choose K by the one-standard-error rule, and save the winner as a run.

        Args:
            name: the data set.
            k: numbers of reward heads.
            lam: values of λ, the KL penalty towards uniform mixture weights.
            seeds: initialisations of each K and λ.
            method: mixture, static or ensemble.
            router_input: what the router reads, as in `train`; auto does not try context,prompt.
            reward_input: as in `train`.
            hidden: as in `train`.
            prior: as in `train`.
            latent: as in `train`.
            weight: as in `train`.
            anneal: as in `train`.
            epochs: as in `train`.
            lr: as in `train`.
            batch: as in `train`.
            wd: as in `train`.
            patience: as in `train`.
            projection: as in `train`.
            prune: as in `train`.
            memory: as in `train`.
            merge: as in `train`, of the setting that is chosen.
            seed: as in `train`.
            data_seed: as in `train`.
            dtype: as in `train`.
            device: as in `train`.
            features: as in `train`.
            router_features: as in `train`.
            run_name: as in `train`.
            html: file for a page of the figures; it replaces an earlier page of ours, and no other file.

        Returns:
            The leaderboard, and the run that was saved.

        Raises:
            BadInput: for unknown names, values and options without an effect.
            Interrupted: on Ctrl-C; the same call goes on from there.

        Example:
            Store("data").sweep("mine", k=[1, 2, 5], lam=[0.03, 0.3], seeds=4)

        """
        from micropref.cache.runs.records import open_run
        from micropref.heads.fitting.settings import FitPlan, FitSetting
        from micropref.pipeline.evaluation.curve_tables import sweep_tables
        from micropref.pipeline.show.sections.swept import swept_page
        from micropref.pipeline.show.train import show_sweep, training_progress
        from micropref.pipeline.training import sweep as stage
        from micropref.pipeline.training.method_options import check_latent
        from micropref.pipeline.training.train import TrainOptions

        check_latent(latent, changed(Fitting.sweep, locals()))
        if seeds < 1:
            raise BadInput(f"seeds is {seeds}: expected at least 1")
        write = page_file(html, self._announce)
        self._check_name(run_name)
        grid = stage.Grid(tuple(several(k)), tuple(float(value) for value in several(lam)))
        base = FitSetting(method, max(grid.k), 0.0, prior, hidden, lr, wd, seed=seed, latent=latent, weight=weight)
        plan = FitPlan(epochs, batch, data_seed, dtype, device, patience, anneal=anneal)
        options = TrainOptions(
            router_input,
            reward_input,
            seeds,
            features,
            cast("Width", projection),
            prune,
            size(memory),
            router_features,
            merge=merge,
        )
        with training_progress() as progress:
            swept = stage.sweep(self._store, name, grid, base, plan, options, progress)
        self._give_name(run_name, swept.run)
        tables = sweep_tables(self._store, open_run(self._store, swept.run))
        assert tables is not None
        page = swept_page(swept, tables)
        write(page)
        return readable(swept, show_sweep(swept, self.folder), page)
