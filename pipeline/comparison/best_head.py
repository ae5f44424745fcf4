"""What the head predicts that does best on each attribute.

Letters: n scored pairs, V validation pairs, A groups (attributes), K heads.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from micropref.heads.evaluation.metrics import correct
from micropref.heads.methods.base import Model
from micropref.heads.methods.registry import methods
from micropref.pipeline.comparison.experiment import Experiment
from micropref.pipeline.comparison.prediction import Prediction

FOLDS = 5
"""Of validation prompts, where the scale is chosen for heads that validation pairs chose."""


def of_best_head(experiment: Experiment, method: str, model: Model, *, oracle: bool) -> Prediction:
    """Return what a model's best heads predict, chosen on validation pairs, or as an oracle on the scored ones."""
    needs = methods()[method].needs
    scored = model.scores(experiment.scored(needs, "prompt")).margins
    validation = model.scores(experiment.validation(needs, "prompt")).margins
    groups = experiment.scored_group, experiment.validation_group
    chosen_on, group = (scored, groups[0]) if oracle else (validation, groups[1])
    kinds = len(experiment.groups)
    best = _best_of_groups(chosen_on, group, kinds)
    of_scored = _of_group(scored, best, groups[0])
    prompts, own = experiment.validation(needs, "prompt").clusters, groups[1]
    if oracle:
        return Prediction(of_scored, _of_group(validation, best, own), prompts[own >= 0])
    # The pairs that chose a head flatter it: each validation pair is predicted by the head that the other folds choose.
    held_out = validation.new_empty(len(validation))
    for number in range(FOLDS):
        rows = prompts % FOLDS == number
        best = _best_of_groups(validation[~rows], own[~rows], kinds)
        held_out[rows & (own >= 0)] = _of_group(validation[rows], best, own[rows])
    return Prediction(of_scored, held_out[own >= 0], prompts[own >= 0])


def _best_of_groups(margins: torch.Tensor, group: torch.Tensor, kinds: int) -> torch.Tensor:
    """Return the head of the highest accuracy on each group's pairs; a group without pairs takes that of all."""
    right = correct(F.logsigmoid(margins))
    accuracies = [(right[group == number] if (group == number).any() else right).mean(0) for number in range(kinds)]
    return torch.stack(accuracies).argmax(1)


def _of_group(margins: torch.Tensor, head: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Return the margins of the head of each pair's group, of pairs that have a group."""
    rows = torch.nonzero(group >= 0)[:, 0]
    return margins[rows, head[group[rows]]]
