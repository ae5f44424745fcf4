"""The weights of many settings in stacked tensors, with forward and backward passes shared by all.

Letters: G settings, R of them with a router, K heads and h hidden units (padded to the largest), D embedding
width, B pairs. Activations are [G, K, B] and [R, h, B]: one product reads a minibatch for all settings, and
sums over pairs run along contiguous memory. Padding is zero, has zero gradients, and so stays zero.

A linear router is h = K units that are not rectified, with V2 frozen at the identity. The inputs are never
divided by their rms: products are, or V1's copy (side by side). An ensemble's heads predict with a frozen prior added.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from micropref.heads.fitting.group_losses import Visits, unit_losses
from micropref.heads.fitting.initial_weights import Parts, padded
from micropref.heads.fitting.losses import ABSENT_LOGIT, OBJECTIVES, Losses, Objective, Penalty, ridge
from micropref.heads.fitting.minibatches import Batch
from micropref.heads.fitting.scales import Scales
from micropref.heads.fitting.settings import FitSetting

ROUTER_PARTS = ("v1", "b1", "v2")


@dataclass(frozen=True, slots=True)
class Activations:
    """One forward pass."""

    margins: torch.Tensor
    """[G, K, B]"""
    logits: torch.Tensor
    """[G, K, B]; [G, K, 1] when no setting has a router."""
    hidden: torch.Tensor | None
    """[R, h, U] after rectification, in the compute dtype, for the rows U of the router's input; None when no setting
    has a router."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring settings that learn the same parts alike: what an optimizer takes in one call."""

    setting: FitSetting
    """The first of them."""
    parts: Parts
    """Views of the learned parts, with their gradients as `.grad`."""
    rows: dict[str, slice]
    """Where the views lie in the stacked parts."""


@dataclass(frozen=True, slots=True)
class _Lowered:
    """Neighbouring settings that lower the same objective."""

    rows: slice
    objective: Objective
    penalty: Penalty


class Stack:
    """Master weights, gradients and copies in the compute dtype of G settings."""

    def __init__(
        self, settings: Sequence[FitSetting], weights: Sequence[Parts], scales: Scales, pairs: int, dtype: torch.dtype
    ) -> None:
        """Stack the settings' unpadded weights, in the order of `stacking_order`; `pairs` is the N of the l2 term."""
        self.settings = tuple(settings)
        self.scales = scales
        self.pairs = pairs
        self.dtype = dtype
        self.device = weights[0]["heads"].device
        self.first = sum(not setting.routed for setting in settings)
        assert list(settings) == sorted(settings, key=stacking_order)
        self.params: Parts = {name: padded([w[name] for w in weights]) for name in ("heads", "b2")}
        for name in ROUTER_PARTS if self.routed else ():
            self.params[name] = padded([w[name] for w in weights[self.first :]])
        self._prior = None
        if any("prior" in w for w in weights):
            self._prior = padded([w.get("prior", torch.zeros_like(w["heads"])) for w in weights])
        self.grads = {name: torch.zeros_like(part) for name, part in self.params.items()}
        differ = self._prior is not None or scales.sizes is not None  # then some are more than the master in `dtype`
        self._low = {name: part.to(dtype, copy=differ) for name, part in self.params.items()}
        self.blocks = [self._block(list(group)) for _, group in itertools.groupby(range(len(settings)), self._alike)]
        self._buffers: Parts = {}
        self._sizes = None if scales.sizes is None else scales.sizes.to(self.device, self.params["heads"].dtype)
        self._constants()
        self.refresh()

    @property
    def routed(self) -> bool:
        """Whether any setting has a router."""
        return self.first < len(self.settings)

    @property
    def width(self) -> int:
        """Return D."""
        return self.params["heads"].shape[2]

    def _alike(self, g: int) -> tuple[object, ...]:
        setting = self.settings[g]
        return setting.lr, setting.weight_decay, setting.method, setting.routed, setting.hidden == 0

    def _block(self, members: Sequence[int]) -> Block:
        setting, rows = self.settings[members[0]], slice(members[0], members[-1] + 1)
        own = {"heads": rows} if setting.method == "ensemble" else {"heads": rows, "b2": rows}
        if setting.routed:
            learned = ROUTER_PARTS if setting.hidden else ("v1",)
            own |= dict.fromkeys(learned, slice(rows.start - self.first, rows.stop - self.first))
        views = {name: self.params[name][place].detach() for name, place in own.items()}
        for name, view in views.items():
            view.grad = self.grads[name][own[name]]
        return Block(setting, views, own)

    def _constants(self) -> None:
        """Lay out what the settings ask for as tensors that broadcast over their rows of the stack.

        `_absent` [G, K, 1] is added to logits and switches padded heads off; `_lam` and `_ridge` [G, 1, 1] are λ and
        the strength of l2; `_linear` counts the linear routers, which come first; `_lowered` has one entry for each
        run of neighbours with the same objective, which share a call.

        Example: K = 1 and K = 2 are padded to two heads; the second of the first setting gets weight 0.
            >>> weights = [{"heads": torch.ones(k, 4), "b2": torch.zeros(k)} for k in (1, 2)]
            >>> settings = [FitSetting("static", k) for k in (1, 2)]
            >>> stack = Stack(settings, weights, Scales(1.0, 1.0), pairs=10, dtype=torch.float32)
            >>> stack._absent.flatten(1).tolist(), [lowered.rows for lowered in stack._lowered]
            ([[0.0, -1000000000.0], [0.0, 0.0]], [slice(0, 2, None)])

        """

        def column(values: Sequence[float | bool], dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device).view(-1, 1, 1)

        master = self.params["heads"].dtype
        strengths = [s.l2 / (self.pairs * self.scales.delta**2) for s in self.settings]
        self._ridge = column(strengths, master) if any(strengths) else None
        counts = column([s.k for s in self.settings], torch.int64)
        present = torch.arange(int(counts.max()), device=self.device)[:, None] < counts
        self._absent = torch.zeros(present.shape, dtype=master, device=self.device).masked_fill(~present, ABSENT_LOGIT)
        self._lam = column([s.lam for s in self.settings], master)
        of_batch = [s.prior == "batch" for s in self.settings]
        log_k = counts.flatten().to(master).log()
        self._linear = sum(setting.hidden == 0 for setting in self.settings[self.first :])
        self._lowered = []
        objectives = [OBJECTIVES[setting.method] for setting in self.settings]
        for objective, group in itertools.groupby(range(len(objectives)), objectives.__getitem__):
            members = list(group)
            rows = slice(members[0], members[-1] + 1)
            prior = column(of_batch[rows], torch.bool) if any(of_batch[rows]) else None
            self._lowered.append(_Lowered(rows, objective, Penalty(self._lam[rows], prior, log_k[rows])))

    def refresh(self) -> None:
        """Copy the master weights into the compute dtype, after every change of them."""
        for name, part in self.params.items():
            self._low[name].copy_(part if name != "v1" or self._sizes is None else part / self._sizes)
        if self._prior is not None:
            self._low["heads"].copy_(self.params["heads"] + self._prior)

    def margins(self, batch: Batch) -> torch.Tensor:
        """Return the margins [G, K, B] of a minibatch."""
        heads = self._low["heads"]
        product = torch.mm(heads.view(-1, heads.shape[2]), batch.delta.T).view(*heads.shape[:2], -1)
        return product.to(self.params["heads"].dtype) / self.scales.delta

    def forward(self, batch: Batch) -> Activations:
        """Return margins and router logits of a minibatch; the next call overwrites the hidden units."""
        margins, count = self.margins(batch), len(batch.delta)
        logits = self.params["b2"][:, :, None] + self._absent
        if not self.routed:
            return Activations(margins, logits, None)
        logits = logits.repeat(1, 1, count)
        assert batch.router is not None
        v1, b1, v2 = (self._low[name] for name in ROUTER_PARTS)
        hidden = self._buffer("hidden", *b1.shape, len(batch.router))
        _scaled_product(v1, batch.router.T, 1 / self.scales.router, hidden, b1.view(-1, 1))
        hidden[self._linear :].relu_()
        read = torch.bmm(v2, hidden)
        logits[self.first :, : v2.shape[1]] += read if batch.readers is None else batch.readers.spread(read)
        return Activations(margins, logits, hidden)

    def gradients(self, batch: Batch, exponent: float = 1.0) -> Losses:
        """Return the losses of a minibatch and leave the derivatives of the whole objective in `grads`.

        `exponent` is that of the evidence of units, where the minibatch has any.
        """
        act = self.forward(batch)
        result = self._losses(act, batch.visits, exponent)
        self._weight_gradient("heads", result.d_margins.to(self.dtype), batch.delta, 1 / self.scales.delta)
        if self._ridge is not None:
            self.grads["heads"] += ridge(self.params["heads"], self._ridge)[1]
        self.grads["b2"].copy_(result.d_logits.sum(2))
        if act.hidden is not None:
            assert batch.router is not None
            d_logits = result.d_logits[self.first :, : self.params["v2"].shape[1]]
            if batch.readers is not None:
                d_logits = batch.readers.sums(d_logits)
            self._router_gradients(batch.router, act.hidden, d_logits.to(self.dtype))
        return result

    def _router_gradients(self, router: torch.Tensor, hidden: torch.Tensor, d_logits: torch.Tensor) -> None:
        self.grads["v2"].copy_(torch.bmm(d_logits, hidden.transpose(1, 2)))
        d_hidden = self._buffer("d_hidden", *hidden.shape)
        torch.bmm(self._low["v2"].transpose(1, 2), d_logits, out=d_hidden)
        rectified = d_hidden[self._linear :]
        torch.ops.aten.threshold_backward(rectified, hidden[self._linear :], 0, grad_input=rectified)
        self.grads["b1"].copy_(d_hidden.sum(2))
        self._weight_gradient("v1", d_hidden, router, 1 / self.scales.router)

    def _weight_gradient(self, name: str, slopes: torch.Tensor, inputs: torch.Tensor, scale: float) -> None:
        """Leave slopes [G, K, B] times inputs [B, D] in the gradient of the weights that read these inputs."""
        gradient = self.grads[name]
        product = self._buffer(f"d_{name}", *gradient.shape)
        _scaled_product(slopes, inputs, scale, product)
        sizes = self._sizes if name == "v1" else None
        gradient.copy_(product if sizes is None else product / sizes)

    def _buffer(self, name: str, *shape: int) -> torch.Tensor:
        """Return memory in the compute dtype that every step uses again: fresh memory costs a fault for each page."""
        size = math.prod(shape)
        if name not in self._buffers or len(self._buffers[name]) < size:
            self._buffers[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return self._buffers[name][:size].view(shape)

    def _losses(self, act: Activations, visits: Visits | None, exponent: float) -> Losses:
        parts = [
            one.objective(act.margins[one.rows], act.logits[one.rows], one.penalty)
            if visits is None
            else unit_losses(act.margins[one.rows], act.logits[one.rows], one.penalty, visits, exponent)
            for one in self._lowered
        ]
        if len(parts) == 1:
            return parts[0]
        d_logits = [part.d_logits if self.routed else part.d_logits.sum(2, keepdim=True) for part in parts]
        return Losses(
            nll=torch.cat([part.nll for part in parts]),
            kl=torch.cat([part.kl for part in parts]),
            d_margins=torch.cat([part.d_margins for part in parts]),
            d_logits=torch.cat(d_logits),
        )

    def curvature(self, batch: Batch) -> torch.Tensor:
        """Return the second derivatives [D, D] of one head's whole loss on all pairs of a fit."""
        assert self.params["heads"].shape[:2] == (1, 1)
        margins = self.forward(batch).margins.flatten()
        weights = torch.sigmoid(margins) * torch.sigmoid(-margins) / (len(margins) * self.scales.delta**2)
        matrix = batch.delta.T @ (batch.delta * weights.to(self.dtype)[:, None])
        if self._ridge is not None:
            matrix.diagonal().add_(self._ridge.flatten().to(self.dtype))
        return matrix

    def objective(self, result: Losses) -> torch.Tensor:
        """Return the whole loss [G], the l2 term included."""
        total = result.nll + self._lam.flatten() * result.kl
        return total if self._ridge is None else total + ridge(self.params["heads"], self._ridge)[0]

    def weights(self, g: int) -> Parts:
        """Return a copy of setting g's weights without padding, an ensemble's prior among them."""
        setting = self.settings[g]
        parts = {"heads": self.params["heads"][g, : setting.k], "b2": self.params["b2"][g, : setting.k]}
        if setting.method == "ensemble":
            assert self._prior is not None
            parts["prior"] = self._prior[g, : setting.k]
        if setting.routed:
            row, units = g - self.first, setting.hidden or setting.k
            parts["v1"] = self.params["v1"][row, :units]
            parts["b1"] = self.params["b1"][row, :units]
            parts["v2"] = self.params["v2"][row, : setting.k, :units]
        return {name: part.clone() for name, part in parts.items()}

    def narrowed(self, positions: Sequence[int]) -> Stack:
        """Return a stack of some settings, ascending, padded no more than they need."""
        settings = [self.settings[g] for g in positions]
        return Stack(settings, [self.weights(g) for g in positions], self.scales, self.pairs, self.dtype)

    def rows_like(self, narrow: Stack, parts: Parts, positions: Sequence[int]) -> Parts:
        """Return what the stacked `parts` (moments, say) hold for the settings of `narrow`, in its shapes."""
        routed = [g - self.first for g in positions if g >= self.first]
        found = {}
        for name, part in narrow.params.items():
            rows = parts[name][routed if name in ROUTER_PARTS else list(positions)]
            found[name] = rows[tuple(slice(size) for size in part.shape)].contiguous()
        return found


def stacking_order(setting: FitSetting) -> tuple[bool, str, int, int]:
    """Return what settings of a stack are sorted by: neighbours share calls, and those without a router come first."""
    return setting.routed, setting.method, setting.hidden, setting.k


def _scaled_product(
    rows: torch.Tensor, inputs: torch.Tensor, scale: float, out: torch.Tensor, bias: torch.Tensor | None = None
) -> None:
    """Write scale · rows inputs + bias to out, for rows and out of which the last dimension is a product's."""
    flat, result = rows.view(-1, rows.shape[-1]), out.view(-1, out.shape[-1])
    added = result.new_zeros(1) if bias is None else bias
    torch.addmm(added, flat, inputs, beta=0 if bias is None else 1, alpha=scale, out=result)
