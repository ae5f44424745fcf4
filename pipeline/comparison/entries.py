"""The rows of a comparison: each method with what it learns from, and what it predicts of scored pairs.

Letters: S seeds, N test pairs, n scored ones, V validation pairs, A groups (attributes), K heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from micropref.cache.choices import RouterInput
from micropref.cache.errors import BadInput
from micropref.heads.adaptation.few_shot import Adapted, Shots, by_drm, by_hyre
from micropref.heads.adaptation.router_refit import choose_tau, fresh_router, refit_router
from micropref.heads.adaptation.routing_budget import RouteSetting
from micropref.heads.choices import Target
from micropref.heads.methods.base import Adaptable, Model, Need, Pairs
from micropref.heads.methods.bradley_terry import MixtureModel
from micropref.heads.methods.registry import methods
from micropref.heads.mixture import Mixture
from micropref.pipeline.comparison.best_head import of_best_head
from micropref.pipeline.comparison.ceiling import ceiling
from micropref.pipeline.comparison.experiment import Experiment
from micropref.pipeline.comparison.prediction import Prediction
from micropref.pipeline.routing.data import read_budget
from micropref.pipeline.training.method_data import Reading

REFERENCE = "single"
"""The entry that differences are taken to."""
LEARN_UNITS = ("lore", "pal-a", "pal-b")
"""Methods whose models are Adaptable."""


@dataclass(frozen=True)
class Entry:
    """One row: a method, and how it is used."""

    name: str
    """As in `methods`."""
    title: str
    """As in the table."""
    supervision: str
    """What it learns from; oracles and ceilings say so."""
    predict: Callable[[Experiment], list[Prediction]]
    """What it says with each seed. Raises BadInput where the data is lacking."""
    reads_contexts: bool = False
    """Whether a router or a gate reads contexts, so that the figures are about further wordings too."""

    def learns_from(self, experiment: Experiment) -> str:
        """Return `supervision`, with what takes the place of users where the data has none."""
        if "contexts" in self.supervision:
            read = {"context": "alone", "context+prompt": "before their prompts"}.get(_contexts_read(experiment), "")
            return f"{self.supervision}, read {read}" if read else self.supervision
        method = methods().get(re.sub("-(shots|best|oracle)$", "", self.name))
        if method is None or "units" not in method.needs:
            return self.supervision
        kind = experiment.training(method.needs, "prompt").training.unit_kind
        return self.supervision.replace("users", "users" if kind == "user" else "attributes as users")


def entries() -> dict[str, Entry]:
    """Return all rows by name, in the order of the table."""
    rows = [row for name in methods() for row in (_plain(name), *_variants(name))]
    rows.append(Entry("ceiling", "Ceiling: one model per attribute", "pairs + attributes of all", _ceiling))
    return {row.name: row for row in rows}


def _plain(name: str) -> Entry:
    method = methods()[name]
    return Entry(
        name, method.title, method.supervision, lambda experiment: _of_models(experiment, name, method.needs, "prompt")
    )


def _of_models(
    experiment: Experiment, name: str, needs: frozenset[Need], router_input: RouterInput
) -> list[Prediction]:
    """Return what a method predicts that is fitted on such a router input."""
    pairs, held_out = experiment.scored(needs, router_input), experiment.validation(needs, router_input)
    return [_prediction(model, pairs, held_out) for model in experiment.models(name, router_input)]


def _prediction(model: Model, pairs: Pairs, validation: Pairs) -> Prediction:
    return Prediction(model.scores(pairs).log_odds(), model.scores(validation).log_odds(), validation.clusters)


def _variants(name: str) -> list[Entry]:
    """Return the further rows that use what a method fits."""
    shots = "pairs + labelled test pairs"
    of_method = {
        "ensemble": [
            _best_head("ensemble", "ensemble-best", "Shared-base best head", oracle=False),
            _best_head("ensemble", "ensemble-oracle", "Shared-base best head: oracle (test)", oracle=True),
            Entry("hyre", "HyRe", shots, lambda experiment: _few_shot(experiment, "ensemble")),
        ],
        "mixture": [
            _best_head("mixture", "mixture-best", "MiCRo best head", oracle=False),
            _best_head("mixture", "mixture-oracle", "MiCRo best head: oracle (test)", oracle=True),
            Entry("micro-hyre", "MiCRo-HyRe", shots, lambda experiment: _few_shot(experiment, "mixture")),
            _routed("micro", "MiCRo, targets per context", "context"),
            _routed("micro-example", "MiCRo, targets per example", "example"),
            _reading_contexts("mixture", "micro-contexts", "MiCRo, contexts in stage 1", "pairs + contexts of all"),
        ],
        "mixture-user": [
            _best_head("mixture-user", "mixture-user-best", "MiCRo, latent user, best head", oracle=False),
            _best_head(
                "mixture-user", "mixture-user-oracle", "MiCRo, latent user, best head: oracle (test)", oracle=True
            ),
            Entry(
                "mixture-user-shots",
                "MiCRo-HyRe, latent user",
                "pairs with users + labelled test pairs",
                lambda experiment: _few_shot(experiment, "mixture-user"),
            ),
        ],
        "armo": [
            _reading_contexts("armo", "armo-contexts", "ARMO, gate reads contexts", "ratings, pairs + contexts of all")
        ],
        "drm": [
            Entry("drm-shots", "Decomposed, few-shot", shots, lambda experiment: _few_shot_drm(experiment, mean=True)),
            Entry(
                "drm-components",
                "Decomposed, few-shot, without the mean",
                shots,
                lambda experiment: _few_shot_drm(experiment, mean=False),
            ),
        ],
    }
    return [_adapted(name)] if name in LEARN_UNITS else of_method.get(name, [])


def _best_head(method: str, name: str, title: str, *, oracle: bool) -> Entry:
    """Return the row of the head that does best on each attribute: on validation pairs, or on the scored ones."""

    def predict(experiment: Experiment) -> list[Prediction]:
        return [of_best_head(experiment, method, model, oracle=oracle) for model in experiment.models(method, "prompt")]

    chosen = f"{methods()[method].supervision}; head chosen on {'test' if oracle else 'validation'}"
    return Entry(name, title, chosen, predict)


def _few_shot(experiment: Experiment, method: str) -> list[Prediction]:
    """HyRe on a method's heads: weights from each attribute's shots, on their own scale of combination."""

    def learn(model: Model, shots: Pairs) -> Adapted:
        return by_hyre(Shots(model.scores(shots).margins.view(*experiment.shots.shape, -1)))

    return _weighed(experiment, experiment.models(method, "prompt"), methods()[method].needs, learn)


def _weighed(
    experiment: Experiment, models: Sequence[Model], needs: frozenset[Need], learn: Callable[[Model, Pairs], Adapted]
) -> list[Prediction]:
    """Return what models predict with the weights that each learns from all groups' shots."""
    pairs, shots = experiment.scored(needs, "prompt"), experiment.test(needs, "prompt").take(experiment.shots.flatten())
    held_out, group = _of_groups(experiment, needs)
    found = []
    for model in models:
        learned = learn(model, shots)
        scored, validated = (
            learned.scores(model.scores(part), own).log_odds()
            for part, own in ((pairs, experiment.scored_group), (held_out, group))
        )
        found.append(Prediction(scored, validated, held_out.clusters))
    return found


def _of_groups(experiment: Experiment, needs: frozenset[Need]) -> tuple[Pairs, torch.Tensor]:
    """Return the validation pairs of the scored groups, and their groups."""
    rows = torch.nonzero(experiment.validation_group >= 0)[:, 0]
    return experiment.validation(needs, "prompt").take(rows), experiment.validation_group[rows]


def _few_shot_drm(experiment: Experiment, *, mean: bool) -> list[Prediction]:
    """DRM as its paper adapts it, with or without the head that is the mean of Δ."""

    def learn(model: Model, shots: Pairs) -> Adapted:
        assert shots.chosen is not None
        shape = (*experiment.shots.shape, -1)
        rewards = shots.chosen @ model.state()["heads"].T
        return by_drm(Shots(model.scores(shots).margins.view(shape), rewards.view(shape)))

    heads = (model.state()["heads"][: None if mean else -1] for model in experiment.models("drm", "prompt"))
    models = [MixtureModel(Mixture(own), "linear") for own in heads]
    return _weighed(experiment, models, methods()["drm"].needs | {"responses"}, learn)


def _adapted(name: str) -> Entry:
    """Return the row of a method that has units and learns a new one, here an attribute, from its shots."""
    method = methods()[name]

    def predict(experiment: Experiment) -> list[Prediction]:
        shots = experiment.test(method.needs, "prompt").take(experiment.shots.flatten())
        unit = torch.arange(len(experiment.shots)).repeat_interleave(experiment.shots.shape[1])
        pairs = replace(experiment.scored(method.needs, "prompt"), units=experiment.scored_group)
        held_out, group = _of_groups(experiment, method.needs)
        found = []
        for model in experiment.models(name, "prompt"):
            assert isinstance(model, Adaptable)
            adapted = model.adapted(replace(shots, units=unit))
            found.append(_prediction(adapted, pairs, replace(held_out, units=group)))
        return found

    return Entry(f"{name}-shots", f"{method.title}, few-shot", f"{method.supervision} + labelled test pairs", predict)


def _routed(name: str, title: str, target: Target) -> Entry:
    """Return the row of MiCRo's stage 2, with one soft label for all contexts of an attribute or one for each pair."""
    return Entry(
        name,
        title,
        "pairs + contexts of a budget",
        lambda experiment: [_refitted(experiment, seed, target) for seed in experiment.seeds],
        reads_contexts=True,
    )


def _refitted(experiment: Experiment, seed: int, target: Target) -> Prediction:
    """Return what MiCRo predicts whose router of stage 1, which read prompts, is re-fitted on a budget with contexts.

    Where it reads context and prompt as one text it goes on from stage 1's router, by minibatches, as the paper has it;
    else from its mean weights.
    """
    needs, routed = methods()["mixture"].needs, _contexts(experiment)
    model = experiment.models("mixture", "prompt")[seed]
    assert isinstance(model, MixtureModel)
    mixture = model.mixture
    if mixture.router is None:
        raise BadInput(f"k is {mixture.k}: a router needs two heads or more")
    reads, table = Reading("prompt", "plain"), experiment.routing(seed)
    budget = read_budget(mixture, reads, experiment.features, experiment.target, table, "attribute", routed)
    paper = routed == "context+prompt"
    setting = RouteSetting(target=target, solver="adam" if paper else "ridge", seed=seed)
    start = mixture.router if paper else fresh_router(budget, setting)
    tau, _ = choose_tau(start, budget, setting)
    mixed = Mixture(mixture.heads, refit_router(start, budget, setting, tau), no_context=budget.mean_weights())
    return _prediction(MixtureModel(mixed), experiment.scored(needs, routed), experiment.validation(needs, routed))


def _reading_contexts(method: str, name: str, title: str, supervision: str) -> Entry:
    """Return the row of a method that is fitted, too, on contexts in front of the prompts."""
    return Entry(
        name,
        title,
        supervision,
        lambda experiment: _of_models(experiment, method, methods()[method].needs, _contexts(experiment)),
        reads_contexts=True,
    )


def _contexts_read(experiment: Experiment) -> RouterInput:
    """Return how contexts are read: in the paper's form for its tables."""
    return "context+prompt" if experiment.options.paper else experiment.context_input


def _contexts(experiment: Experiment) -> RouterInput:
    """Return what methods that read contexts are given. Raises BadInput where scored pairs have none."""
    if not experiment.has_contexts:
        raise BadInput(
            f"data set {experiment.target.name!r}, split {experiment.options.split!r}: no pair has a context to route "
            "by; embed with `contexts`"
        )
    return _contexts_read(experiment)


def _ceiling(experiment: Experiment) -> list[Prediction]:
    source = experiment.training(frozenset(), "prompt").source
    delta = experiment.scored(frozenset(), "prompt").delta
    attribute = experiment.table["attribute"][experiment.rows.numpy()]
    return [ceiling(source.fitting, source.validation, delta, attribute)] * len(experiment.seeds)
