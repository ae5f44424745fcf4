"""One Bradley-Terry head by scikit-learn: logistic regression without intercept on Δ, its L2 chosen on validation.

Letters: N pairs, D embedding width. Minimised for each C of a path, from strong penalties to weak ones, each from the
last one's weights:

    C Σ_i −log σ(w · Δ_i) + ½ ‖w‖²

Half of the pairs are turned round, Δ with label 1 to −Δ with label 0: the same loss, and the two classes that
scikit-learn asks for. C is recorded for the features as they were given.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from micropref.cache.errors import BadInput
from micropref.heads.fitting.pair_source import Source, source_scales
from micropref.heads.fitting.settings import Execution, FitProgress, FitSetting, Fitted, PairTensors
from micropref.heads.mixture import Mixture

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray
    from sklearn.linear_model import LogisticRegression

POWERS = tuple(step / 2 for step in range(-8, 9))
"""Powers of ten of C·D, features scaled to rms 1: the variance of margins that the penalty expects, whatever N and D.
Half a decade next to the optimum costs some .0005 nats."""
LOST = 0.02
"""Nats above the best that end a path: what overfits so much does not come back with less of a penalty."""
WIDEST_NEWTON = 512
"""Widths up to this are solved by Newton's method, which costs N D² a step and takes two or three; wider ones by
L-BFGS, 4 N D an iteration."""
TOLERANCE = 1e-6
"""Largest entry of the gradient, in nats per pair of features with rms 1, that ends a solver."""
ITERATIONS = 500
"""Of one C at most; a point that did not settle is still judged by validation."""


def fit_path(
    train: Source, validation: Source, setting: FitSetting, progress: Callable[[FitProgress], None] | None = None
) -> Fitted:
    """Fit one head for each C of the path and return the one of the lowest validation NLL; w = 0 competes.

    A setting with an `l2` above 0 has the one C = 1 / l2. Raises BadInput for a setting with more heads or groups, and
    pairs that are not in memory.
    """
    if setting.method != "single" or setting.latent != "pair":
        raise BadInput(f"solver scikit-learn with method {setting.method}: it fits one head, so use adamw or lbfgs")
    if not isinstance(train, PairTensors) or not isinstance(validation, PairTensors):
        raise BadInput("solver scikit-learn: pairs are streamed, and it reads them all at once; use adamw")
    scale = source_scales(train).delta
    given = setting.l2 > 0
    path = [scale**2 / setting.l2] if given else [10**power / train.width for power in POWERS]
    held_out = validation.delta.double() / scale
    heads = [] if given else [torch.zeros(train.width, dtype=torch.float64)]
    tried = [] if given else [0.0]
    history, train_history = _losses(heads, held_out), []
    for place, (head, train_nll) in enumerate(_heads(train, scale, path), 1):
        heads.append(head)
        tried.append(path[place - 1] / scale**2)
        history += _losses([head], held_out)
        train_history.append(train_nll)
        if progress is not None:
            progress(FitProgress(1, 1, place, len(path), 1, min(history)))
        if history[-1] > min(history) + LOST:
            break
    best = min(range(len(heads)), key=history.__getitem__)
    mixture = Mixture((heads[best] / scale).float()[None])
    return Fitted(
        setting=setting,
        mixture=mixture,
        best_epoch=best + given,
        epochs_run=len(train_history),
        validation_nll=_losses([mixture.heads[0].double()], validation.delta.double())[0],
        known=None,
        train_history=tuple(train_history),
        validation_history=tuple(history[-len(train_history) :]),
        execution=Execution(device="cpu", dtype="float64", batch=train.pairs, chunk=1, lr=None),
        path=tuple(tried[-len(train_history) :]),
        c=tried[best],
    )


def _losses(heads: list[torch.Tensor], delta: torch.Tensor) -> list[float]:
    """Return the mean NLL of each head on pairs [N, D]."""
    return [-torch.nn.functional.logsigmoid(delta @ head).mean().item() for head in heads]


def _heads(train: PairTensors, scale: float, path: list[float]) -> Iterator[tuple[torch.Tensor, float]]:
    """Yield each C's head [D], for features divided by `scale`, and its training NLL."""
    from sklearn.exceptions import ConvergenceWarning

    # A pair alone is counted half each way round: both classes have to be there.
    rows = torch.arange(max(train.pairs, 2)) % train.pairs
    labels = 1.0 - 2 * (torch.arange(len(rows)) % 2).double()
    features = train.delta[rows].double().mul_((labels / scale)[:, None]).numpy()
    weights = torch.full((len(rows),), train.pairs / len(rows)).double().numpy()
    model = _model(train)
    for c in path:
        model.C = c
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, labels.numpy(), sample_weight=weights)
        yield torch.from_numpy(model.coef_[0].copy()), _mean_loss(features @ model.coef_[0], labels)


def _mean_loss(margins: NDArray[float64], labels: torch.Tensor) -> float:
    return -torch.nn.functional.logsigmoid(torch.from_numpy(margins) * labels).mean().item()


def _model(train: PairTensors) -> LogisticRegression:
    """Return the estimator for the shape of the pairs."""
    from sklearn.linear_model import LogisticRegression

    newton = train.width <= min(WIDEST_NEWTON, train.pairs)
    return LogisticRegression(
        fit_intercept=False,
        solver="newton-cholesky" if newton else "lbfgs",
        tol=TOLERANCE,
        max_iter=ITERATIONS,
        warm_start=True,
    )
