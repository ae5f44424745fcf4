"""The rows of a comparison: each system with what it learns from, and which scored pairs it gets right.

Letters: S seeds, N test pairs, n scored ones, V validation pairs, A groups (attributes), K heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.cache.errors import BadInput
from micropref.cache.vectors.pair_features import RouterInput
from micropref.heads.adaptation.few_shot import Adapted, Shots, by_drm, by_hyre
from micropref.heads.adaptation.router_refit import RouteSetting, choose_tau, refit_router
from micropref.heads.evaluation.metrics import correct
from micropref.heads.methods.base import Adaptable, Model, Need, Pairs
from micropref.heads.methods.bradley_terry import MixtureModel
from micropref.heads.methods.registry import methods
from micropref.heads.mixture import Mixture
from micropref.pipeline.comparison.ceiling import ceiling
from micropref.pipeline.comparison.experiment import Trial
from micropref.pipeline.routing.data import read_budget
from micropref.pipeline.training.method_data import Reading

REFERENCE = "single"
"""What differences are taken to."""
LEARN_UNITS = ("lore", "pal-a", "pal-b")
"""Methods whose models are Adaptable."""


@dataclass(frozen=True)
class Contestant:
    """One row: a system, and how it is used."""

    name: str
    """As in `--methods`."""
    title: str
    """As in the table."""
    supervision: str
    """What it learns from; oracles and ceilings say so."""
    right: Callable[[Trial], torch.Tensor]
    """[S, n] for each seed, 1 where a scored pair is right, ½ on ties. Raises BadInput where the data is lacking."""

    def learns_from(self, trial: Trial) -> str:
        """Return `supervision`, with what takes the place of users where the data has none."""
        method = methods().get(re.sub("-(shots|best|oracle)$", "", self.name))
        if method is None or "units" not in method.needs:
            return self.supervision
        kind = trial.training(method.needs, "prompt").training.unit_kind
        return self.supervision.replace("users", "users" if kind == "user" else "attributes as users")


def contestants() -> dict[str, Contestant]:
    """Return all rows by name, in the order of the table."""
    rows = [row for name in methods() for row in (_plain(name), *_variants(name))]
    rows.append(Contestant("ceiling", "Ceiling: one model per attribute", "pairs + attributes of all", _ceiling))
    return {row.name: row for row in rows}


def _plain(name: str) -> Contestant:
    method = methods()[name]

    def right(trial: Trial) -> torch.Tensor:
        pairs = trial.scored(method.needs, "prompt")
        return torch.stack([_right(model, pairs) for model in trial.models(name, "prompt")])

    return Contestant(name, method.title, method.supervision, right)


def _variants(name: str) -> list[Contestant]:
    """Return the further rows that use what a method fits."""
    shots = "pairs + labelled test pairs"
    of_method = {
        "ensemble": [
            _best_head("ensemble", "ensemble-best", "Shared-base best head", oracle=False),
            _best_head("ensemble", "ensemble-oracle", "Shared-base best head: oracle (test)", oracle=True),
            Contestant("hyre", "HyRe", shots, lambda trial: _few_shot(trial, "ensemble")),
        ],
        "mixture": [
            _best_head("mixture", "mixture-best", "MiCRo best head", oracle=False),
            _best_head("mixture", "mixture-oracle", "MiCRo best head: oracle (test)", oracle=True),
            Contestant("micro-hyre", "MiCRo-HyRe", shots, lambda trial: _few_shot(trial, "mixture")),
            Contestant("micro", "MiCRo", "pairs + contexts of a budget", _routed),
            _reading_contexts("mixture", "micro-contexts", "MiCRo, contexts in stage 1", "pairs + contexts of all"),
        ],
        "mixture-user": [
            _best_head("mixture-user", "mixture-user-best", "MiCRo, latent user, best head", oracle=False),
            _best_head(
                "mixture-user", "mixture-user-oracle", "MiCRo, latent user, best head: oracle (test)", oracle=True
            ),
            Contestant(
                "mixture-user-shots",
                "MiCRo-HyRe, latent user",
                "pairs with users + labelled test pairs",
                lambda trial: _few_shot(trial, "mixture-user"),
            ),
        ],
        "armo": [
            _reading_contexts("armo", "armo-contexts", "ARMO, gate reads contexts", "ratings, pairs + contexts of all")
        ],
        "drm": [
            Contestant("drm-shots", "Decomposed, few-shot", shots, lambda trial: _few_shot_drm(trial, mean=True)),
            Contestant(
                "drm-components",
                "Decomposed, few-shot, without the mean",
                shots,
                lambda trial: _few_shot_drm(trial, mean=False),
            ),
        ],
    }
    return [_adapted(name)] if name in LEARN_UNITS else of_method.get(name, [])


def _right(model: Model, pairs: Pairs) -> torch.Tensor:
    return correct(model.scores(pairs).log_probability())


def _best_head(method: str, name: str, title: str, *, oracle: bool) -> Contestant:
    """Return the row of the head that does best on each attribute: on validation pairs, or on the scored ones."""

    def right(trial: Trial) -> torch.Tensor:
        return torch.stack(
            [_of_best_head(trial, method, model, oracle=oracle) for model in trial.models(method, "prompt")]
        )

    chosen = f"{methods()[method].supervision}; head chosen on {'test' if oracle else 'validation'}"
    return Contestant(name, title, chosen, right)


def _of_best_head(trial: Trial, method: str, model: Model, *, oracle: bool) -> torch.Tensor:
    needs = methods()[method].needs
    scored = correct(F.logsigmoid(model.scores(trial.scored(needs, "prompt")).margins))
    data = trial.training(needs, "prompt")
    if oracle:
        judged, group = scored, trial.scored_group
    else:
        judged = correct(F.logsigmoid(model.scores(data.training.validation).margins))
        group = trial.groups_of(data.source.validation.table)
    right = torch.empty(len(scored), dtype=scored.dtype)
    for number in range(len(trial.groups)):
        own = judged[group == number]
        # An attribute without validation pairs takes the head that is best on all of them.
        best = (own if len(own) else judged).mean(0).argmax()
        mine = trial.scored_group == number
        right[mine] = scored[mine, best]
    return right


def _few_shot(trial: Trial, method: str) -> torch.Tensor:
    """HyRe on a method's heads: weights from each attribute's shots, on their own scale of combination."""

    def learn(model: Model, shots: Pairs) -> Adapted:
        return by_hyre(Shots(model.scores(shots).margins.view(*trial.shots.shape, -1)))

    return _weighed(trial, trial.models(method, "prompt"), methods()[method].needs, learn)


def _weighed(
    trial: Trial, models: Sequence[Model], needs: frozenset[Need], learn: Callable[[Model, Pairs], Adapted]
) -> torch.Tensor:
    """Return which scored pairs [S, n] are right with the weights that each model learns from all groups' shots."""
    pairs, shots = trial.scored(needs, "prompt"), trial.test(needs, "prompt").take(trial.shots.flatten())
    found = (learn(model, shots).scores(model.scores(pairs), trial.scored_group) for model in models)
    return torch.stack([correct(scores.log_probability()) for scores in found])


def _few_shot_drm(trial: Trial, *, mean: bool) -> torch.Tensor:
    """DRM as its paper adapts it, with or without the head that is the mean of Δ."""

    def learn(model: Model, shots: Pairs) -> Adapted:
        assert shots.chosen is not None
        shape = (*trial.shots.shape, -1)
        rewards = shots.chosen @ model.state()["heads"].T
        return by_drm(Shots(model.scores(shots).margins.view(shape), rewards.view(shape)))

    heads = (model.state()["heads"][: None if mean else -1] for model in trial.models("drm", "prompt"))
    models = [MixtureModel(Mixture(own), "linear") for own in heads]
    return _weighed(trial, models, methods()["drm"].needs | {"responses"}, learn)


def _adapted(name: str) -> Contestant:
    """Return the row of a method that has units and learns a new one, here an attribute, from its shots."""
    method = methods()[name]

    def right(trial: Trial) -> torch.Tensor:
        shots = trial.test(method.needs, "prompt").take(trial.shots.flatten())
        unit = torch.arange(len(trial.shots)).repeat_interleave(trial.shots.shape[1])
        pairs = replace(trial.scored(method.needs, "prompt"), units=trial.scored_group)
        rows = []
        for model in trial.models(name, "prompt"):
            assert isinstance(model, Adaptable)
            rows.append(_right(model.adapted(replace(shots, units=unit)), pairs))
        return torch.stack(rows)

    return Contestant(
        f"{name}-shots", f"{method.title}, few-shot", f"{method.supervision} + labelled test pairs", right
    )


def _routed(trial: Trial) -> torch.Tensor:
    """MiCRo's stage 2: the router of stage 1, which read prompts, re-fitted on a budget with contexts."""
    pairs = trial.scored(methods()["mixture"].needs, _contexts(trial))
    right = []
    for seed, model in zip(trial.seeds, trial.models("mixture", "prompt"), strict=True):
        assert isinstance(model, MixtureModel)
        mixture = model.mixture
        if mixture.router is None:
            raise BadInput(f"k is {mixture.k}: a router needs two heads or more")
        reads = Reading("prompt", "plain")
        budget = read_budget(mixture, reads, trial.features, trial.target, trial.routing(seed), "attribute")
        setting = RouteSetting(seed=seed)
        tau, _ = choose_tau(mixture.router, budget, setting)
        routed = Mixture(mixture.heads, refit_router(mixture.router, budget, setting, tau))
        right.append(_right(MixtureModel(routed), pairs))
    return torch.stack(right)


def _reading_contexts(method: str, name: str, title: str, supervision: str) -> Contestant:
    """Return the row of a method that is fitted, too, on contexts in front of the prompts."""

    def right(trial: Trial) -> torch.Tensor:
        pairs = trial.scored(methods()[method].needs, _contexts(trial))
        return torch.stack([_right(model, pairs) for model in trial.models(method, "context")])

    return Contestant(name, title, supervision, right)


def _contexts(trial: Trial) -> RouterInput:
    """Return the router input of systems that read contexts. Raises BadInput where scored pairs have none."""
    if not trial.has_contexts:
        raise BadInput(
            f"data set {trial.target.name!r}, split {trial.options.split!r}: no pair has a context to route by; "
            "embed with --contexts FILE"
        )
    return "context"


def _ceiling(trial: Trial) -> torch.Tensor:
    source = trial.training(frozenset(), "prompt").source
    delta, attribute = trial.scored(frozenset(), "prompt").delta, trial.table["attribute"][trial.rows.numpy()]
    right = ceiling(source.fitting, source.validation, delta, attribute, trial.options.device)
    return right.expand(len(trial.seeds), -1)
