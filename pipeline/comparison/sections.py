"""RewardBench's sections where the compared attributes are its subsets: the metric of the paper's table 9.

Letters: n scored pairs, A groups (attributes).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from micropref.heads.evaluation.rewardbench import is_rewardbench, section_scores, subset_accuracy
from micropref.pipeline.comparison.prediction import Prediction


def sections_of(predicted: Sequence[Prediction], group: torch.Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Return sections and their `average` [where all are there], mean over seeds; nothing for other data.

    `group` [n] is each scored pair's place in `groups` [A].
    """
    if not is_rewardbench(groups):
        return {}
    found = []
    for one in predicted:
        accuracies = {name: subset_accuracy(one.scored[group == place]) for place, name in enumerate(groups)}
        score = section_scores(accuracies)
        found.append(score.sections | ({} if score.average is None else {"average": score.average}))
    return {section: statistics.fmean(one[section] for one in found) for section in found[0]}
