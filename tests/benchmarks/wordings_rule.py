"""The rule that chooses what the router reads, and how often it is right: part of `make bench-wordings`.

The context alone is the default. A form that reads the prompt as well has to be better on validation by more than two
standard errors, paired and by prompt. Where contexts repeat it must not lose either on wordings that are held out,
every one once, by more than two standard errors over wordings: else the data cannot tell, and the default stays.
Validation on known wordings alone takes memory of (context, prompt) for a better form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from micropref.heads.evaluation.intervals import standard_error
from micropref.heads.fitting.settings import FitPlan, FitSetting
from tests.benchmarks.wordings_draws import Draw
from tests.benchmarks.wordings_recipes import Prediction, fitted, read_input, recipes
from tests.benchmarks.wordings_vectors import Vectors

DEFAULT = "alone"
FOLDS = 4
"""Parts of the contexts that are held out in turns."""
FOLD_RESTARTS = 4
"""Restarts of each fit with contexts held out: there are many fits."""
ERRORS = 2.0
"""Standard errors that a form has to be ahead by on validation, and may be behind by on held-out wordings.

Held-out wordings are few and swing: at one standard error the rule refuses forms that win on new wordings."""
REPEATED = 3
"""Contexts that have more than one fit pair, from which on they are held out."""


@dataclass(frozen=True)
class Decision:
    """What the rule takes."""

    choice: str
    """Name of the input."""
    reason: str
    """Why, in a few words."""


def decide(draw: Draw, vectors: Vectors, candidates: Sequence[str], setting: FitSetting, restarts: int) -> Decision:
    """Return the input that the rule takes, from fit and validation pairs alone."""
    base = _validation(draw, vectors, DEFAULT, setting, restarts)
    ahead = {}
    for name in candidates:
        gain = _validation(draw, vectors, name, setting, restarts) - base
        error = float(standard_error(gain[:, None], draw.validation.prompt))
        if gain.mean() > ERRORS * error:
            ahead[name] = float(gain.mean())
    if not ahead:
        return Decision(DEFAULT, "no form is two standard errors ahead on validation")
    best = max(ahead, key=lambda name: ahead[name])
    if int((torch.bincount(draw.fit.context) > 1).sum()) < REPEATED:
        return Decision(best, "ahead on validation, whose contexts are new")
    gain = _held_out(draw, vectors, best, setting) - _held_out(draw, vectors, DEFAULT, setting)
    error = float(standard_error(gain[:, None], draw.validation.context))
    seen = f"{best} is ahead on validation, {float(gain.mean()):+.3f} ± {error:.3f} nats on held-out wordings"
    return Decision(best, seen) if gain.mean() > -ERRORS * error else Decision(DEFAULT, f"not decidable: {seen}")


def _validation(draw: Draw, vectors: Vectors, name: str, setting: FitSetting, restarts: int) -> torch.Tensor:
    """Return the log-probability [N] of every validation pair under merged restarts."""
    return _merged(draw, vectors, name, setting, restarts).validation.double()


def _held_out(draw: Draw, vectors: Vectors, name: str, setting: FitSetting) -> torch.Tensor:
    """Return the log-probability of the validation pairs, each from a fit that had not seen its wording."""
    contexts = torch.unique(draw.fit.context)
    fold = torch.full((int(max(contexts.max(), draw.validation.context.max())) + 1,), -1)
    fold[contexts] = torch.randperm(len(contexts), generator=torch.Generator().manual_seed(0)) % FOLDS
    found = torch.zeros(len(draw.validation.context), dtype=torch.float64)
    for number in range(FOLDS):
        held = fold[draw.validation.context] == number
        if not held.any():
            continue
        known = draw.validation.of(~held)
        part = Draw(draw.fit.of(fold[draw.fit.context] != number), known, draw.validation.of(held))
        found[held] = _merged(part, vectors, name, setting, FOLD_RESTARTS).log_p.double()
    return found


def _merged(draw: Draw, vectors: Vectors, name: str, setting: FitSetting, restarts: int) -> Prediction:
    read = read_input(name, draw, vectors).centred()
    seeds = [replace(setting, seed=seed) for seed in range(restarts)]
    return recipes(fitted(draw, vectors, read, seeds, FitPlan()), draw, vectors, read, False)["merged"]
