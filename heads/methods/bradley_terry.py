"""Reward heads fitted by `heads.fitting`: one head, mixtures with a router or with static weights, and the ensemble.

All are mixtures of Bradley-Terry models (method of the paper, section 3): P(chosen ≻ rejected) = Σ_k π_k σ(w_k · Δ).
Departures: a mixture's likelihood has local optima, so every seed is the best of RESTARTS by validation NLL; where
the pairs are few, `train`'s default epochs are too few steps to get anywhere, and there are more of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from micropref.heads import choices
from micropref.heads.evaluation.metrics import nll
from micropref.heads.evaluation.scale import choose_scale, scaled_log_probability
from micropref.heads.fitting.fit import FitPlan, FitSetting, Fitted, PairTensors, fit
from micropref.heads.fitting.no_context import with_no_context
from micropref.heads.methods.annotator_weights import alone_where_unknown
from micropref.heads.methods.base import NO_UNIT, Combine, MethodOptions, Need, Pairs, Scores, TrainingData
from micropref.heads.mixture import Mixture

RESTARTS = 8
"""As `train` has it by default."""
LEAST_STEPS = 240
"""Minibatches of a fit at least, unless validation stops it."""


@dataclass(frozen=True, slots=True)
class MixtureModel:
    """A mixture as a fitted method."""

    mixture: Mixture
    """float32 on the CPU."""
    combine: Combine = "probability"
    """How its heads become a prediction."""

    def scores(self, pairs: Pairs) -> Scores:
        """Score pairs; only a router looks at their prompts."""
        weights = self.mixture.log_weights(pairs.router, len(pairs), pairs.router_rows)
        return Scores(self.mixture.margins(pairs.delta), weights, self.combine)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the mixture's tensors."""
        return self.mixture.state()


class _BradleyTerry:
    """What they have in common: settings of one batched call."""

    kind: ClassVar[choices.FitMethod]
    latent: ClassVar[choices.Latent] = "pair"
    needs: ClassVar[frozenset[Need]] = frozenset()
    options: ClassVar[frozenset[str]] = frozenset({"k", "device", "lam"})

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[MixtureModel]:
        """Fit every seed's restarts in one call; of each seed the best by validation NLL is returned."""
        # One head, or heads that do not share a pair, are a convex problem.
        restarts = RESTARTS if self.kind in ("mixture", "static") and options.k > 1 else 1
        setting = FitSetting(self.kind, options.k, latent=self.latent)
        if options.lam is not None:
            setting = replace(setting, lam=options.lam)
        wanted = [replace(setting, seed=seed * restarts + run) for seed in seeds for run in range(restarts)]
        parts = data.fitting, data.validation
        units = unit_codes(*parts) if self.latent != "pair" else (None, None)
        pairs = [
            PairTensors(part.delta, part.router, codes, part.router_rows)
            for part, codes in zip(parts, units, strict=True)
        ]
        plan = FitPlan(device=options.device).reaching(LEAST_STEPS, len(data.fitting))
        fitted = fit(pairs[0], pairs[1], wanted, plan)
        groups = (fitted[start : start + restarts] for start in range(0, len(fitted), restarts))
        best = (min(group, key=lambda one: self._loss(one, data)).mixture for group in groups)
        return [MixtureModel(with_no_context(mixture, pairs[0])) for mixture in best]

    def _loss(self, fitted: Fitted, data: TrainingData) -> tuple[float, float]:
        """Return what restarts are compared by, as `train` compares them: the scaled NLL, then as it is."""
        scores = MixtureModel(fitted.mixture).scores(data.validation)
        odds = (scores if fitted.known is None else replace(scores, log_weights=fitted.known)).log_odds()
        return nll(scaled_log_probability(odds, choose_scale(odds, data.validation.clusters))), fitted.validation_nll

    def restore(self, state: Mapping[str, torch.Tensor]) -> MixtureModel:
        """Return the model of a saved mixture."""
        return MixtureModel(Mixture.from_state(state))


def unit_codes(fitting: Pairs, validation: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes [N] of both parts' units; pairs whose unit is not known are units of their own."""
    codes = torch.cat(
        [torch.full((len(part),), NO_UNIT) if part.units is None else part.units for part in (fitting, validation)]
    )
    known = alone_where_unknown(codes, int(codes.max()) + 1)
    return known[: len(fitting)], known[len(fitting) :]


class RoutedMixture(_BradleyTerry):
    """MiCRo's stage 1: L = −mean_i log Σ_k π_k(x_i) σ(w_k · Δ_i) + λ mean_i KL(π(x_i) ‖ uniform)."""

    name: ClassVar[str] = "mixture"
    title: ClassVar[str] = "MiCRo (stage 1)"
    supervision: ClassVar[str] = "pairs"
    kind = "mixture"
    needs: ClassVar[frozenset[Need]] = frozenset({"router"})


class UserMixture(_BradleyTerry):
    """The same with one group for all pairs of a user, `train --latent user`; prompts alone give a pair's weights."""

    name: ClassVar[str] = "mixture-user"
    title: ClassVar[str] = "MiCRo, latent user"
    supervision: ClassVar[str] = "pairs with users"
    kind = "mixture"
    latent = "user"
    needs: ClassVar[frozenset[Need]] = frozenset({"router", "units"})


class StaticMixture(_BradleyTerry):
    """The same with one set of weights π for all pairs in place of the router."""

    name: ClassVar[str] = "static"
    title: ClassVar[str] = "Static mixture"
    supervision: ClassVar[str] = "pairs"
    kind = "static"


class Single:
    """One Bradley-Terry reward head: logistic regression without intercept on Δ, its L2 chosen on validation pairs.

    The problem is convex and has no seed; see heads/fitting/logistic_path.py.
    """

    name: ClassVar[str] = "single"
    title: ClassVar[str] = "Single reward"
    supervision: ClassVar[str] = "pairs"
    needs: ClassVar[frozenset[Need]] = frozenset()
    options: ClassVar[frozenset[str]] = frozenset()

    def fit(self, data: TrainingData, options: MethodOptions, seeds: Sequence[int]) -> list[MixtureModel]:  # noqa: ARG002
        """Return the same head for every seed."""
        pairs = [PairTensors(part.delta, None) for part in (data.fitting, data.validation)]
        (fitted,) = fit(pairs[0], pairs[1], [FitSetting("single", 1)], FitPlan(solver="scikit-learn"))
        return [MixtureModel(fitted.mixture)] * len(seeds)

    def restore(self, state: Mapping[str, torch.Tensor]) -> MixtureModel:
        """Return the model of a saved head."""
        return MixtureModel(Mixture.from_state(state))


class Ensemble(_BradleyTerry):
    """The shared-base ensemble of HyRe (Lee et al. 2024): K heads w_k + p_k, p_k a frozen prior U(±1/√D).

    Every head learns from every pair, L = (1/K) Σ_k mean_i −log σ((w_k + p_k) · Δ_i); uniform weights predict.
    """

    name: ClassVar[str] = "ensemble"
    title: ClassVar[str] = "Shared-base ensemble"
    supervision: ClassVar[str] = "pairs"
    options: ClassVar[frozenset[str]] = frozenset({"k", "device"})
    kind = "ensemble"
