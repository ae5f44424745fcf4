"""The weights of many settings in stacked tensors, with forward and backward passes shared by all.

Letters: G settings, R of them with a router, K heads and h hidden units (padded to the largest), D embedding
width, B pairs. Activations are [G, K, B] and [R, h, B]: one product reads a minibatch for all settings, and
sums over pairs run along contiguous memory. Padding is zero, has zero gradients, and so stays zero.

A linear router is h = K units that are not rectified, with V2 frozen at the identity. The inputs are never
divided by their rms: the products multiply by its inverse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from heads.feed import Batch, Scales
from heads.mixture import Mixture, Router
from heads.objective import ABSENT_LOGIT, Losses, Penalty, losses, ridge
from heads.settings import FitSetting

ROUTER_PARTS = ("v1", "b1", "v2")
DECAYED = ("heads", "v1", "v2")
UNDECAYED = ("b1", "b2")

Parts = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Activations:
    """One forward pass."""

    margins: torch.Tensor
    """[G, K, B]"""
    logits: torch.Tensor
    """[G, K, B]"""
    hidden: torch.Tensor | None
    """[R, h, B] after rectification, in the compute dtype; None when no setting has a router."""


class Stack:
    """Master weights, gradients and copies in the compute dtype of G settings.

    `slices[g]` are setting g's parts as views, with their gradients as `.grad`: what an optimizer takes.
    """

    def __init__(
        self, settings: Sequence[FitSetting], weights: Sequence[Parts], scales: Scales, pairs: int, dtype: torch.dtype
    ) -> None:
        """Stack the settings' unpadded weights, those without a router first; `pairs` is the N of the l2 term."""
        self.settings = tuple(settings)
        self.scales = scales
        self.pairs = pairs
        self.dtype = dtype
        self.device = weights[0]["heads"].device
        self.first = sum(not setting.routed for setting in settings)
        assert all(setting.routed for setting in settings[self.first :])
        self.params: Parts = {name: _padded([w[name] for w in weights]) for name in ("heads", "b2")}
        for name in ROUTER_PARTS if self.routed else ():
            self.params[name] = _padded([w[name] for w in weights[self.first :]])
        self.grads = {name: torch.zeros_like(part) for name, part in self.params.items()}
        self._low = {name: part.to(dtype) for name, part in self.params.items()}
        self.slices = [self._slice(g) for g in range(len(settings))]
        self._constants()

    @property
    def routed(self) -> bool:
        """Whether any setting has a router."""
        return self.first < len(self.settings)

    def _slice(self, g: int) -> Parts:
        rows = {"heads": g, "b2": g}
        if self.settings[g].routed:
            learned = ROUTER_PARTS if self.settings[g].hidden else ("v1",)
            rows |= dict.fromkeys(learned, g - self.first)
        views = {name: self.params[name][row].detach() for name, row in rows.items()}
        for name, view in views.items():
            view.grad = self.grads[name][rows[name]]
        return views

    def _constants(self) -> None:
        def column(values: Sequence[float | bool], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device).view(-1, 1, 1)

        master = self.params["heads"].dtype
        strengths = [s.l2 / (self.pairs * self.scales.delta**2) for s in self.settings]
        self._ridge = column(strengths, master) if any(strengths) else None
        counts = column([s.k for s in self.settings], torch.int64)
        present = torch.arange(int(counts.max()), device=self.device)[:, None] < counts
        self._absent = torch.zeros(present.shape, dtype=master, device=self.device).masked_fill(~present, ABSENT_LOGIT)
        self._penalty = Penalty(
            lam=column([s.lam for s in self.settings], master),
            of_batch=column([s.prior == "batch" for s in self.settings], torch.bool),
            log_k=counts.flatten().to(master).log(),
        )
        linear = [setting.hidden == 0 for setting in self.settings[self.first :]]
        self._floor = column([-math.inf if flag else 0.0 for flag in linear], self.dtype)
        self._linear = column(linear, self.dtype)

    def refresh(self) -> None:
        """Copy the master weights into the compute dtype, after every change of them."""
        for name, part in self.params.items():
            self._low[name].copy_(part)

    def forward(self, batch: Batch) -> Activations:
        """Return margins and router logits of a minibatch."""
        heads, count = self._low["heads"], len(batch.delta)
        settings, k, width = heads.shape
        product = torch.mm(heads.view(settings * k, width), batch.delta.T)
        master = self.params["heads"].dtype
        margins = product.view(settings, k, count).to(master).mul_(1 / self.scales.delta)
        logits = (self.params["b2"][:, :, None] + self._absent).repeat(1, 1, count)
        if not self.routed:
            return Activations(margins, logits, None)
        assert batch.router is not None
        v1, b1 = self._low["v1"], self._low["b1"]
        hidden = torch.addmm(
            b1.view(-1, 1), v1.view(-1, v1.shape[2]), batch.router.T, alpha=1 / self.scales.router
        ).view(*b1.shape, count)
        hidden.clamp_(min=self._floor)
        v2 = self._low["v2"]
        logits[self.first :, : v2.shape[1]] += torch.bmm(v2, hidden).to(master)
        return Activations(margins, logits, hidden)

    def gradients(self, batch: Batch) -> Losses:
        """Return the losses of a minibatch and leave the derivatives of NLL + λ KL + l2 term in `grads`."""
        act = self.forward(batch)
        result = losses(act.margins, act.logits, self._penalty)
        heads = self.grads["heads"]
        d_margins = (result.d_margins / self.scales.delta).to(self.dtype).view(-1, len(batch.delta))
        heads.copy_(torch.mm(d_margins, batch.delta).view_as(heads))
        if self._ridge is not None:
            heads += ridge(self.params["heads"], self._ridge)[1]
        self.grads["b2"].copy_(result.d_logits.sum(2))
        if act.hidden is not None:
            assert batch.router is not None
            d_logits = result.d_logits[self.first :, : self.params["v2"].shape[1]].to(self.dtype)
            self._router_gradients(batch.router, act.hidden, d_logits)
        return result

    def curvature(self, batch: Batch) -> torch.Tensor:
        """Return the second derivatives [D, D] of one head's whole loss on all pairs of a fit."""
        assert self.params["heads"].shape[:2] == (1, 1)
        margins = self.forward(batch).margins.flatten()
        weights = torch.sigmoid(margins) * torch.sigmoid(-margins) / (len(margins) * self.scales.delta**2)
        matrix = batch.delta.T @ (batch.delta * weights.to(self.dtype)[:, None])
        if self._ridge is not None:
            matrix.diagonal().add_(self._ridge.flatten().to(self.dtype))
        return matrix

    def _router_gradients(self, router: torch.Tensor, hidden: torch.Tensor, d_logits: torch.Tensor) -> None:
        v1 = self.grads["v1"]
        self.grads["v2"].copy_(torch.bmm(d_logits, hidden.transpose(1, 2)))
        passed = hidden.sign_().clamp_(min=self._linear)
        d_hidden = torch.bmm(self._low["v2"].transpose(1, 2), d_logits).mul_(passed)
        self.grads["b1"].copy_(d_hidden.sum(2))
        none, rows = d_hidden.new_zeros(1), d_hidden.view(-1, d_hidden.shape[2])
        v1.copy_(torch.addmm(none, rows, router, beta=0, alpha=1 / self.scales.router).view_as(v1))

    def objective(self, result: Losses) -> torch.Tensor:
        """Return the whole loss [G], the l2 term included."""
        total = result.nll + self._penalty.lam.flatten() * result.kl
        return total if self._ridge is None else total + ridge(self.params["heads"], self._ridge)[0]

    def weights(self, g: int) -> Parts:
        """Return a copy of setting g's weights without padding."""
        setting = self.settings[g]
        parts = {"heads": self.params["heads"][g, : setting.k], "b2": self.params["b2"][g, : setting.k]}
        if setting.routed:
            row, units = g - self.first, setting.hidden or setting.k
            parts["v1"] = self.params["v1"][row, :units]
            parts["b1"] = self.params["b1"][row, :units]
            parts["v2"] = self.params["v2"][row, : setting.k, :units]
        return {name: part.clone() for name, part in parts.items()}


def initial_weights(setting: FitSetting, width: int, router_width: int, dtype: torch.dtype) -> Parts:
    """Return a setting's first weights: uniform within ±1/√inputs by its own seed, biases zero."""
    generator = torch.Generator().manual_seed(setting.seed)

    def uniform(outputs: int, inputs: int) -> torch.Tensor:
        return (torch.rand(outputs, inputs, generator=generator) * 2 - 1).to(dtype) / math.sqrt(inputs)

    k, units = setting.k, setting.hidden or setting.k
    parts = {"heads": uniform(k, width), "b2": torch.zeros(k, dtype=dtype)}
    if setting.routed:
        parts["v1"] = uniform(units, router_width)
        parts["b1"] = torch.zeros(units, dtype=dtype)
        parts["v2"] = uniform(k, units) if setting.hidden else torch.eye(k, dtype=dtype)
    return parts


def as_mixture(setting: FitSetting, weights: Parts, scales: Scales) -> Mixture:
    """Return the weights as a float32 mixture on the CPU, the scales of the inputs folded in."""
    parts = {name: part.cpu() for name, part in weights.items()}
    heads = (parts["heads"] / scales.delta).float()
    if setting.routed:
        v1, b2 = (parts["v1"] / scales.router).float(), parts["b2"].float()
        if setting.hidden == 0:
            return Mixture(heads, Router(None, None, v1, b2))
        return Mixture(heads, Router(v1, parts["b1"].float(), parts["v2"].float(), b2))
    if setting.method == "static":
        return Mixture(heads, static=torch.log_softmax(parts["b2"], 0).float())
    return Mixture(heads)


def _padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors of one rank, each padded with zeros behind to the largest of every dimension."""
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    stacked = parts[0].new_zeros(len(parts), *shape)
    for target, part in zip(stacked, parts, strict=True):
        target[tuple(slice(size) for size in part.shape)] = part
    return stacked
