"""Recipes of `make bench-wordings`: what a router reads, and what is made of the fitted restarts.

N pairs, C contexts, P prompts, U rows of the router's input, D embedding width, K heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.merging import MERGED, merge_restarts
from micropref.heads.fitting.settings import FitPlan, FitSetting, Fitted, PairTensors
from micropref.heads.mixture import Mixture, pair_log_probability
from tests.benchmarks.wordings_draws import Draw, Pairs
from tests.benchmarks.wordings_refit import refit_on_wordings
from tests.benchmarks.wordings_vectors import GROUPS, Vectors


@dataclass(frozen=True)
class Input:
    """What the router reads of a draw's pairs."""

    rows: torch.Tensor
    """[U, D]"""
    fit: torch.Tensor
    """[N] row of each fit pair."""
    validation: torch.Tensor
    test: torch.Tensor

    def centred(self) -> Input:
        """Return it less the mean over fit pairs."""
        return replace(self, rows=self.rows - self.rows[self.fit].mean(0))

    def dropped(self, share: float, seed: int) -> Input:
        """Return it with one more row, zero, that a share of the fit pairs read instead of their own."""
        away = torch.rand(len(self.fit), generator=torch.Generator().manual_seed(seed)) < share
        rows = torch.cat([self.rows, self.rows.new_zeros(1, self.rows.shape[1])])
        return replace(self, rows=rows, fit=torch.where(away, len(self.rows), self.fit))


def read_input(name: str, draw: Draw, vectors: Vectors) -> Input:
    """Return a form of the context alone, or joint, difference (joint − prompt), both ([e(c), e(x)]) or prompt."""
    parts = (draw.fit, draw.validation, draw.test)
    if name == "prompt":
        return Input(vectors.prompts, *(part.prompt for part in parts))
    columns = [torch.cat([getattr(part, what) for part in parts]) for what in ("context", "other", "prompt")]
    share = torch.cat([part.share for part in parts])
    code = torch.stack([*columns, (share * 2**24).long()])
    if name in vectors.forms:
        code[2] = 0
    (context, other, prompt, _), place = torch.unique(code, dim=1, return_inverse=True)
    weight = share.new_zeros(len(context)).scatter(0, place, share)[:, None]
    alone = vectors.forms.get(name, vectors.forms["alone"])
    rows = torch.lerp(alone[context], alone[other], weight)
    if name == "both":
        split = len(draw.fit.context)
        rows = torch.cat([_unit(rows, place[:split]), _unit(vectors.prompts, draw.fit.prompt)[prompt]], 1)
    elif name in ("joint", "difference"):
        assert vectors.joint is not None, "no joint vectors were read"
        rows = torch.lerp(vectors.joint[context, prompt], vectors.joint[other, prompt], weight)
        if name == "difference":
            rows = rows - vectors.prompts[prompt]
    return Input(rows, *torch.split(place, [len(part.context) for part in parts]))


def _unit(rows: torch.Tensor, fit: torch.Tensor) -> torch.Tensor:
    """Return rows of mean 0 and rms 1 over those that fit pairs read."""
    centred = rows - rows[fit].mean(0)
    return centred / centred[fit].square().mean().sqrt()


@dataclass(frozen=True)
class Prediction:
    """What a recipe says of a draw's test pairs."""

    log_p: torch.Tensor
    """[N] log-probability of the choices."""
    validation: torch.Tensor
    """[N'] of the validation pairs."""
    without: torch.Tensor
    """[N] of the test pairs when the weights are the mean over fit pairs."""


def fitted(draw: Draw, vectors: Vectors, read: Input, settings: Sequence[FitSetting], plan: FitPlan) -> list[Fitted]:
    """Fit every setting on a draw."""
    parts = ((draw.fit, read.fit), (draw.validation, read.validation))
    train, validation = (part_tensors(pairs, vectors, read, rows) for pairs, rows in parts)
    return fit(train, validation, settings, plan)


def part_tensors(pairs: Pairs, vectors: Vectors, read: Input, rows: torch.Tensor) -> PairTensors:
    """Return pairs as a fit takes them; `rows` are those of the router's input that they read."""
    return PairTensors(pairs.delta(vectors), read.rows, pairs.context, rows)


def predict(mixture: Mixture, draw: Draw, vectors: Vectors, read: Input) -> Prediction:
    """Return what a mixture says of a draw."""
    said = mixture.log_weights(read.rows, len(read.rows))
    mean = (said.exp()[read.fit].mean(0)).log()
    margins = mixture.margins(draw.test.delta(vectors))
    return Prediction(
        pair_log_probability(margins, said[read.test]),
        pair_log_probability(mixture.margins(draw.validation.delta(vectors)), said[read.validation]),
        pair_log_probability(margins, mean.expand(len(margins), -1)),
    )


def averaged(predictions: Sequence[Prediction]) -> Prediction:
    """Return the mean probability of several."""
    parts = [[getattr(one, name) for one in predictions] for name in ("log_p", "validation", "without")]
    return Prediction(*(torch.logsumexp(torch.stack(part), 0) - math.log(len(predictions)) for part in parts))


def refitted(mixture: Mixture, draw: Draw, vectors: Vectors, read: Input) -> Mixture:
    """Return a mixture's heads with a router refitted on wordings held out in turns."""
    distinct, place = torch.unique(read.fit, return_inverse=True)
    found = refit_on_wordings(mixture, draw.fit.delta(vectors), read.rows[distinct], place)
    return Mixture(mixture.heads, found.router)


def recipes(models: Sequence[Fitted], draw: Draw, vectors: Vectors, read: Input, refit: bool) -> dict[str, Prediction]:
    """Return what is made of a setting's restarts: the best, the best few averaged or merged, each with new routers."""
    ranked = sorted(models, key=lambda one: one.validation_nll)[:MERGED]
    said = [predict(one.mixture, draw, vectors, read) for one in ranked]
    merged, _ = merge_restarts(
        models, part_tensors(draw.validation, vectors, read, read.validation), draw.validation.prompt
    )
    found = {"best": said[0], f"mean of {MERGED}": averaged(said), "merged": predict(merged, draw, vectors, read)}
    if refit:
        again = [predict(refitted(one.mixture, draw, vectors, read), draw, vectors, read) for one in ranked]
        found |= {"best, refit": again[0], f"mean of {MERGED}, refit": averaged(again)}
    return found


def references(draw: Draw, vectors: Vectors) -> dict[str, Prediction]:
    """Return what knows the groups: one model each, told the group of the test pairs or by a classifier of contexts.

    The classifier, a ridge of softmax regression on e(c), has seen the group of
    every training wording: a router that has not can hardly find new wordings better.
    """
    heads = torch.cat([_group_head(draw, vectors, group) for group in range(len(GROUPS))])
    mixture = Mixture(heads)
    margins = mixture.margins(draw.test.delta(vectors))
    known = torch.nn.functional.logsigmoid(margins)
    told = known.gather(1, draw.test.group[:, None])[:, 0]
    read = read_input("alone", draw, vectors).centred()
    of_row = torch.zeros(len(read.rows), dtype=torch.int64).scatter(0, read.fit, draw.fit.group)
    said = _classifier(read.rows, torch.unique(read.fit), of_row)
    even = torch.full((len(GROUPS),), -math.log(len(GROUPS)))
    without = pair_log_probability(margins, even.expand(len(margins), -1))
    empty = torch.zeros(0)
    return {
        "ceiling: told the group": Prediction(told, empty, without),
        "told the training wordings' groups": Prediction(
            pair_log_probability(margins, said[read.test]), empty, without
        ),
    }


def _group_head(draw: Draw, vectors: Vectors, group: int) -> torch.Tensor:
    parts = [part.of(part.group == group) for part in (draw.fit, draw.validation)]
    tensors = [PairTensors(part.delta(vectors), None) for part in parts]
    plan = FitPlan(epochs=40, batch=256)
    return fit(tensors[0], tensors[1], [FitSetting("single", 1)], plan)[0].mixture.heads


def _classifier(rows: torch.Tensor, known: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities [C, groups] of scikit-learn's classifier at C = 10 on rows of mean length 1."""
    from sklearn.linear_model import LogisticRegression

    inputs = (rows / rows[known].norm(dim=1).mean()).double().numpy()
    model = LogisticRegression(C=10.0, max_iter=500).fit(inputs[known], groups[known].numpy())
    return torch.from_numpy(model.predict_log_proba(inputs)).float()
