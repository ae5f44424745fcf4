"""How good a prediction is, and how sure one can be of it.

Letters: N pairs, C columns (heads, methods), U clusters (prompts or users), K heads.
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment

TIE = 1e-6
"""Nats from log ½ within which a probability is ½: what float32 leaves of two equal rewards."""


def correct(log_probability: torch.Tensor) -> torch.Tensor:
    """Return 1 where P(chosen ≻ rejected) > ½, ½ where it is exactly ½, else 0; any shape.

    A single head's answer is that of the logsigmoid of its margin.
    """
    distance = log_probability + math.log(2)
    return torch.where(distance.abs() <= TIE, 0.5, (distance > 0).double())


def accuracy(log_probability: torch.Tensor) -> float:
    """Return the share of pairs [N] whose chosen response is the more probable one; ties count one half."""
    return correct(log_probability).mean().item()


def nll(log_probability: torch.Tensor) -> float:
    """Return the mean negative log-likelihood of the choices [N], in nats."""
    return -log_probability.double().mean().item()


def effective_heads(log_weights: torch.Tensor) -> float:
    """Return exp of the entropy of the mean weights, from log-weights [N, K]: 1 to K heads in use."""
    mean = log_weights.double().exp().mean(0)
    return float(torch.special.entr(mean).sum().exp())


def permutation_agreement(first: torch.Tensor, second: torch.Tensor, k: int) -> float:
    """Return the share of pairs on which two assignments [N] to k heads agree, heads renamed at their best."""
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(f"assignments have shapes {list(first.shape)} and {list(second.shape)}, expected one [N]")
    confusion = torch.bincount(first * k + second, minlength=k * k).view(k, k).numpy()
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    return float(confusion[rows, columns].sum()) / len(first)
