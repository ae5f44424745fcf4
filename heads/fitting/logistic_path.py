"""One Bradley-Terry head by scikit-learn: logistic regression without intercept on Δ, its L2 chosen on validation.

Letters: N pairs, D embedding width. Minimised for each C of a path, from strong penalties to weak ones, each from the
last one's weights:

    C Σ_i −log σ(w · Δ_i) + ½ ‖w‖²

Half of the pairs are turned round, Δ with label 1 to −Δ with label 0: the same loss, and the two classes that
scikit-learn asks for. C is recorded for the features as they were given. The path is as exact as scikit-learn is by
default, the chosen C is solved once more.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch

from micropref.cache.errors import BadInput
from micropref.heads.evaluation.metrics import accuracy, nll
from micropref.heads.fitting.pair_source import Source, source_scales
from micropref.heads.fitting.settings import Execution, FitProgress, FitSetting, Fitted, PairTensors
from micropref.heads.mixture import Mixture

POWERS = tuple(step / 2 for step in range(-8, 9))
"""Powers of ten of C·D, features scaled to rms 1: the variance of margins that the penalty expects, whatever N and D.
Half a decade next to the optimum costs some .0005 nats."""
LOST = 0.02
"""Nats above the best that end a path: what overfits so much does not come back with less of a penalty."""
WIDEST_NEWTON = 512
"""Up to this width the chosen C is settled by Newton's method, which costs N D² a step and takes two or three."""
ON_THE_WAY, SETTLED = 1e-4, 1e-8
"""Largest entry of the gradient, in nats per pair of features with rms 1: along the path, scikit-learn's default, and
at the chosen C."""
ITERATIONS = 500
"""Of one C at most; a point that did not settle is still judged by validation."""


def fit_path(
    train: Source, validation: Source, setting: FitSetting, progress: Callable[[FitProgress], None] | None = None
) -> Fitted:
    """Fit one head for each C of the path and return the one of the lowest validation NLL; w = 0 competes.

    A setting with an `l2` above 0 has the one C = 1 / l2. Users or contexts with one group each change nothing about
    one head. Raises BadInput for a setting of more heads, or of users that weigh alike, and pairs that are not in
    memory.
    """
    if setting.weight != "pair":
        raise BadInput(f"solver scikit-learn with weight {setting.weight}: it weighs pairs alike, so use adamw")
    if setting.method != "single":
        raise BadInput(f"solver scikit-learn with method {setting.method}: it fits one head, so use adamw or lbfgs")
    if not isinstance(train, PairTensors) or not isinstance(validation, PairTensors):
        raise BadInput("solver scikit-learn: pairs are streamed, and it reads them all at once; use adamw")
    scale = source_scales(train).delta
    problem, held_out = _Problem(train, scale), validation.delta.double() / scale
    given = setting.l2 > 0
    wanted = [scale**2 / setting.l2] if given else [10**power / train.width for power in POWERS]
    path, heads = [0.0], [torch.zeros(train.width, dtype=torch.float64)]
    predicted = [_log_probability(heads[0], held_out)]
    history, train_history = [math.inf if given else nll(predicted[0])], []
    for c in wanted:
        path.append(c)
        heads.append(problem.solve(c, heads[-1]))
        predicted.append(_log_probability(heads[-1], held_out))
        history.append(nll(predicted[-1]))
        train_history.append(problem.loss(heads[-1]))
        if progress is not None:
            progress(FitProgress(1, 1, len(path) - 1, len(wanted), 1, min(history)))
        if history[-1] > min(history) + LOST:
            break
    best = min(range(len(path)), key=history.__getitem__)
    head = problem.solve(path[best], heads[best], settle=True) if best else heads[0]
    mixture = Mixture((head / scale).float()[None])
    return Fitted(
        setting=setting,
        mixture=mixture,
        best_epoch=best,
        epochs_run=len(train_history),
        validation_nll=_loss(mixture.heads[0].double(), validation.delta.double()),
        known=None if setting.latent == "pair" else torch.zeros(validation.pairs, 1),
        train_history=tuple(train_history),
        validation_history=tuple(history[1:]),
        validation_accuracy_history=tuple(map(accuracy, predicted[1:])),
        execution=Execution(device="cpu", dtype="float64", batch=train.pairs, chunk=1, lr=None),
        path=tuple(c / scale**2 for c in path[1:]),
        c=path[best] / scale**2,
    )


def _loss(head: torch.Tensor, delta: torch.Tensor) -> float:
    """Return the mean NLL of a head on pairs [N, D]."""
    return nll(_log_probability(head, delta))


def _log_probability(head: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(delta @ head)


class _Problem:
    """The pairs to fit as scikit-learn takes them, divided by `scale`."""

    def __init__(self, train: PairTensors, scale: float) -> None:
        # A pair alone is counted half each way round: both classes have to be there.
        rows = torch.arange(max(train.pairs, 2)) % train.pairs
        self._labels = 1.0 - 2 * (torch.arange(len(rows)) % 2).double()
        self._features = train.delta[rows].double().mul_((self._labels / scale)[:, None])
        self._weights = torch.full((len(rows),), train.pairs / len(rows), dtype=torch.float64)
        self._newton = train.width <= min(WIDEST_NEWTON, train.pairs)

    def loss(self, head: torch.Tensor) -> float:
        """Return the mean NLL of a head on the pairs."""
        return -torch.nn.functional.logsigmoid((self._features @ head) * self._labels).mean().item()

    def solve(self, c: float, start: torch.Tensor, *, settle: bool = False) -> torch.Tensor:
        """Return the head [D] of one C, from another one's; with `settle` to the last digits."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(
            C=c,
            fit_intercept=False,
            solver="newton-cholesky" if settle and self._newton else "lbfgs",
            tol=SETTLED if settle else ON_THE_WAY,
            max_iter=ITERATIONS,
            warm_start=True,
        )
        model.coef_ = start.numpy()[None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(self._features.numpy(), self._labels.numpy(), sample_weight=self._weights.numpy())
        return torch.from_numpy(model.coef_[0].copy())
