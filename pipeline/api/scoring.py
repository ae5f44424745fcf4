"""`Store.score` and `export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.run import Run
from micropref.pipeline.api.values import run_id
from micropref.pipeline.options import DeviceName, EmbedDtype, PassName
from micropref.pipeline.rewards.scoring.options import BackboneOptions

if TYPE_CHECKING:
    from micropref.pipeline.rewards.exporting.export import ExportReport
    from micropref.pipeline.rewards.scoring.best_of import BestOfReport
    from micropref.pipeline.rewards.scoring.score import ScoreReport


class Scoring(OpenedStore):
    """Rewards of new texts, here and in other tools."""

    @checked
    def score(
        self,
        run: str | Run,
        source: str | Path,
        out: str | Path = "-",
        *,
        context: str | None = None,
        attribute: str | None = None,
        user: str | None = None,
        weights: Sequence[float] | None = None,
        best_of: bool = False,
        backbone: str | None = None,
        device: DeviceName = "auto",
        pass_: PassName = "auto",  # noqa: S107 - no password
        tokens_per_batch: int | None = None,
        trust_remote_code: bool = False,
    ) -> ScoreReport:
        """Give new responses a reward: r = Σ_k π_k w_k · e, by the run's own weights or for one taste.

        A row has `prompt` and `response`, `prompt` and a list `responses`, or `chosen` and `rejected`; its own
        `context` and `user` go before those given here. It is written with `reward`, `heads` [K], `weights` [K] and,
        where responses are compared, `p_chosen` and `best`; a response that cannot be scored has the reward null and
        a `reason`.

        Args:
            run: the run, one of its names, or its id; also what `adapt` made.
            source: .jsonl, .csv or .parquet file or folder; - is JSON Lines on standard input.
            out: .jsonl, .csv or .parquet file; - is JSON Lines on standard output.
            context: sentence that says what is wanted, for rows without one.
            attribute: attribute of the run's data, whose mean weights are taken.
            user: person the run has weights for, for rows without one.
            weights: weights of the heads themselves.
            best_of: write the best response to each prompt only; rows of one prompt are neighbours.
            backbone: where the backbone lies now; None: where it was when the run's features were embedded.
            device: where the backbone computes.
            pass_: how texts are put together for the backbone.
            tokens_per_batch: tokens of a batch, padding included; None: what is good for the device.
            trust_remote_code: whether the backbone's own Python code may run.

        Returns:
            What was scored and what was not, and why.

        Raises:
            BadInput: for a run without such heads, an unknown taste, and a file without responses.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.score(trained.run, "pairs.jsonl", "scored.jsonl")

        """
        from micropref.pipeline.rewards.scoring import score as stage
        from micropref.pipeline.rewards.scoring.taste import Taste
        from micropref.pipeline.show.score import show_scored

        taste = Taste(context, attribute, user, None if weights is None else tuple(weights))
        loaded = BackboneOptions(backbone, device, trust_remote_code, pass_, tokens_per_batch)
        options = stage.ScoreOptions(taste, best_of, loaded)
        report = stage.score(self._store, run_id(run), str(source), str(out), options, self._announce)
        return readable(report, show_scored(report))

    @checked
    def best_of_curve(
        self,
        run: str | Run,
        source: str | Path,
        held_out: str | Run,
        *,
        n: Sequence[int] | None = None,
        context: str | None = None,
        attribute: str | None = None,
        user: str | None = None,
        weights: Sequence[float] | None = None,
        held_out_weights: Sequence[float] | None = None,
        backbone: str | None = None,
        device: DeviceName = "auto",
        trust_remote_code: bool = False,
    ) -> BestOfReport:
        """Say what choosing the best of n responses gains, by the run that chooses and by one that does not.

        Gains are over one response, in standard deviations of a prompt's rewards, with 95 % intervals over prompts:
        expectations over all draws of n of a prompt's responses, so that none are drawn. Where the run's own gain goes
        on rising with n and the held-out one does not, the run's reward is over-optimised.

        Args:
            run: the run that chooses, one of its names, or its id.
            source: file of responses as `score` reads it, many to each prompt; - is JSON Lines on standard input.
            held_out: run that values what was chosen; the same run with other weights is another of its heads.
            n: numbers of responses to choose from; None: 1, 2, 4, ... 64, as far as every prompt has responses.
            context: as in `score`.
            attribute: as in `score`.
            user: as in `score`.
            weights: as in `score`.
            held_out_weights: weights of the held-out run's heads; None: the same taste as
                of the run that chooses, as far as it can follow it.
            backbone: as in `score`.
            device: as in `score`.
            trust_remote_code: as in `score`.

        Returns:
            Gains for each n, and how often both runs name the same best response.

        Raises:
            BadInput: for an unknown taste, and a file without prompts of enough responses.

        Example:
            store = Store("data")
            chooses, judges = (store.train("mine", k=2, data_seed=seed).run for seed in (0, 1))
            store.best_of_curve(chooses, "pairs.jsonl", judges, n=[1, 2])

        """
        from micropref.pipeline.rewards.scoring import best_of as stage
        from micropref.pipeline.rewards.scoring.taste import Taste
        from micropref.pipeline.show.score import show_best_of

        taste = Taste(context, attribute, user, None if weights is None else tuple(weights))
        judge = None if held_out_weights is None else Taste(weights=tuple(held_out_weights))
        loaded = BackboneOptions(backbone, device, trust_remote_code)
        options = stage.BestOfOptions(taste, judge, None if n is None else tuple(n), loaded)
        ids = run_id(run), run_id(held_out)
        report = stage.best_of_curve(self._store, *ids, str(source), options, self._announce)
        return readable(report, show_best_of(report))

    @checked
    def export(
        self,
        run: str | Run,
        folder: str | Path,
        *,
        context: str | None = None,
        attribute: str | None = None,
        user: str | None = None,
        weights: Sequence[float] | None = None,
        all_heads: bool = False,
        dtype: EmbedDtype = "auto",
        link: bool = False,
        force: bool = False,
        backbone: str | None = None,
        device: DeviceName = "auto",
        trust_remote_code: bool = False,
    ) -> ExportReport:
        """Write a run as a model folder: a sequence classifier of transformers, for encoders a CrossEncoder.

        The heads become one head for one taste; weights that depend on the prompt are averaged over stored prompts,
        and what that costs is reported. The folder is loaded again, and its rewards compared, before it gets its name.

        Args:
            run: the run, one of its names, or its id; also what `adapt` made.
            folder: model folder to write.
            context: sentence that says what is wanted.
            attribute: attribute of the run's data, whose mean weights are taken.
            user: person the run has weights for.
            weights: weights of the heads themselves.
            all_heads: give every head an output of its own, for people who weigh them themselves.
            dtype: dtype of the folder's weights; auto: they stay as they are, and are read in the run's.
            link: hard links to the backbone's weights in place of copies.
            force: replace an export of that name.
            backbone: as in `score`.
            device: where the check computes.
            trust_remote_code: as in `score`.

        Returns:
            Where it is, how heads are weighed, and accuracies on validation pairs before and after.

        Raises:
            BadInput: for an unknown taste, a folder that is there, and backbones that have no such class.
            Failure: where the folder's rewards are not the run's.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.export(trained.run, "reward-model", attribute="warm")

        """
        from micropref.pipeline.rewards.exporting import export as stage
        from micropref.pipeline.rewards.scoring.taste import Taste
        from micropref.pipeline.show.score import show_exported

        taste = Taste(context, attribute, user, None if weights is None else tuple(weights))
        loaded = BackboneOptions(backbone, device, trust_remote_code)
        options = stage.ExportOptions(taste, all_heads, dtype, link, force, loaded)
        report = stage.export(self._store, run_id(run), Path(folder), options, self._announce)
        return readable(report, show_exported(report))

    @checked
    def serve(
        self,
        run: str | Run,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token_file: str | Path | None = None,
        feedback: str | Path | None = None,
        strength: float | None = None,
        queue: int = 2048,
        timeout: float = 60.0,
        body_mb: float = 16.0,
        backbone: str | None = None,
        device: DeviceName = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        """Serve a run's rewards over HTTP until it is interrupted: own routes and those of other servers.

        Clients of OpenRLHF, verl, vLLM, sglang and TEI work unchanged, by a person's taste where they name one. Without
        a token only programs of this machine get in.

        Args:
            run: the run, one of its names, or its id.
            host: address to listen at; beyond this machine a token is needed.
            port: port to listen at; 0: one that is free.
            token_file: file whose one line every request has to bring as `Authorization: Bearer ...`.
            feedback: SQLite file of people's choices, on a local disk; None: feedback.sqlite in the run's folder.
            strength: s² of shrunk: how far choices may move a person's weights; None: chosen on validation users.
            queue: responses that may wait; beyond that the answer is 503.
            timeout: seconds that a request may take.
            body_mb: size of a request at most, in MB.
            backbone: as in `score`.
            device: as in `score`.
            trust_remote_code: as in `score`.

        Raises:
            BadInput: for a run without rewards, a missing token, and a port that is taken.

        """
        from micropref.pipeline.rewards.serving import serve as stage
        from micropref.pipeline.rewards.serving.options import ServeOptions

        token, choices = (None if path is None else Path(path) for path in (token_file, feedback))
        loaded = BackboneOptions(backbone, device, trust_remote_code)
        options = ServeOptions(
            host, port, token, choices, strength, loaded, queue=queue, timeout=timeout, body_mb=body_mb
        )
        stage.serve(self._store, run_id(run), options, self._announce)
