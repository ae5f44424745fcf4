"""The model: reward heads and the weights that mix them, as plain tensors.

Letters: N pairs, D embedding width, K heads, h hidden units of the router.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F  # noqa: N812 - the field's name for it

ROUTER_PREFIX = "router."


@dataclass(frozen=True, slots=True)
class Router:
    """From an embedding to K logits: V2 relu(V1 e + b1) + b2, or V2 e + b2 when linear."""

    v1: torch.Tensor | None
    """[h, D], None in a linear router."""
    b1: torch.Tensor | None
    """[h], None in a linear router."""
    v2: torch.Tensor
    """[K, h], or [K, D] in a linear router."""
    b2: torch.Tensor
    """[K]"""

    def __post_init__(self) -> None:
        if (self.v1 is None) != (self.b1 is None):
            raise ValueError("a router has both v1 and b1, or neither")
        units = self.v2.shape[1] if self.v1 is None or self.b1 is None else self.v1.shape[0]
        if self.v2.shape != (len(self.b2), units) or (self.b1 is not None and self.b1.shape != (units,)):
            raise ValueError(f"router shapes do not fit: v2 {list(self.v2.shape)}, b2 {list(self.b2.shape)}, h {units}")

    def parts(self) -> dict[str, torch.Tensor]:
        """Return the tensors there are, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(Router)}
        return {name: part for name, part in named.items() if part is not None}

    def to(self, dtype: torch.dtype) -> Router:
        """Return the same router in another dtype."""
        return Router.of({name: part.to(dtype) for name, part in self.parts().items()})

    @classmethod
    def of(cls, parts: Mapping[str, torch.Tensor]) -> Router:
        """Build a router from what `parts` returned."""
        return cls(parts.get("v1"), parts.get("b1"), parts["v2"], parts["b2"])

    def logits(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, K] of the embeddings [N, D]."""
        hidden = embedding.to(self.v2.dtype)
        if self.v1 is not None and self.b1 is not None:
            hidden = torch.addmm(self.b1, hidden, self.v1.T).relu_()
        return torch.addmm(self.b2, hidden, self.v2.T)


@dataclass(frozen=True, slots=True)
class Mixture:
    """K Bradley-Terry reward heads with mixture weights: routed, static, or uniform when neither is given."""

    heads: torch.Tensor
    """[K, D] reward r_k(x, a) = w_k · e(x, a), without bias."""
    router: Router | None = None
    """Weights from the embedding of prompt or context."""
    static: torch.Tensor | None = None
    """[K] log-weights shared by all pairs."""
    no_context: torch.Tensor | None = None
    """[K] log-weights of pairs without the context that the router reads; None where no weights were learned."""

    def __post_init__(self) -> None:
        if self.heads.ndim != 2:
            raise ValueError(f"heads have shape {list(self.heads.shape)}, expected [K, D]")
        if self.router is not None and self.static is not None:
            raise ValueError("a mixture has a router or static weights, not both")
        if self.router is not None and len(self.router.b2) != self.k:
            raise ValueError(f"the router weighs {len(self.router.b2)} heads, there are {self.k}")
        for name in ("static", "no_context"):
            weights = getattr(self, name)
            if weights is not None and weights.shape != (self.k,):
                raise ValueError(f"{name} weights have shape {list(weights.shape)}, expected [{self.k}]")

    @property
    def k(self) -> int:
        """Number of reward heads K."""
        return len(self.heads)

    def margins(self, delta: torch.Tensor) -> torch.Tensor:
        """Return each head's margin [N, K], w_k · Δ_i, of the embedding differences [N, D]."""
        return delta.to(self.heads.dtype) @ self.heads.T

    def log_weights(
        self, router_input: torch.Tensor | None, n: int, router_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the log mixture weights [n, K]; only a router looks at its input.

        That has a row for each pair [n, D], or those that pairs share, and `router_rows` [n] the one each reads. A row
        of NaN stands for pairs without a context.
        """
        if self.router is not None:
            if router_input is None or len(router_input if router_rows is None else router_rows) != n:
                raise ValueError(f"this mixture has a router: give its input for each of the {n} pairs")
            weights = torch.log_softmax(self.router.logits(router_input), 1)
            if (missing := missing_rows(router_input)).any():
                if self.no_context is None:
                    raise ValueError("some pairs have no context, and this mixture has no weights for these")
                weights[missing] = self.no_context.to(weights.dtype)
            return weights if router_rows is None else weights[router_rows]
        logits = self.heads.new_zeros(self.k) if self.static is None else self.static
        return torch.log_softmax(logits, 0).expand(n, self.k)

    def log_probability(
        self, delta: torch.Tensor, router_input: torch.Tensor | None, router_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return log P(chosen ≻ rejected) [N], in nats, of what `margins` and `log_weights` read."""
        return pair_log_probability(self.margins(delta), self.log_weights(router_input, len(delta), router_rows))

    def to(self, device: torch.device | str) -> Mixture:
        """Return the same mixture on another device."""
        return Mixture.from_state({name: tensor.to(device) for name, tensor in self.state().items()})

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name, as they are saved."""
        state = {"heads": self.heads}
        if self.static is not None:
            state["static"] = self.static
        if self.no_context is not None:
            state["no_context"] = self.no_context
        if self.router is not None:
            state |= {ROUTER_PREFIX + name: tensor for name, tensor in self.router.parts().items()}
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> Mixture:
        """Build a mixture from what `state` returned. Raises ValueError when names or shapes do not fit."""
        names = {"heads", "static", "no_context", *(ROUTER_PREFIX + field.name for field in fields(Router))}
        if "heads" not in state or not names.issuperset(state):
            raise ValueError(f"found tensors {sorted(state)}, expected heads and any of {sorted(names - {'heads'})}")
        router = None
        if any(name.startswith(ROUTER_PREFIX) for name in state):
            if not {"router.v2", "router.b2"}.issubset(state):
                raise ValueError(f"found tensors {sorted(state)}, a router needs router.v2 and router.b2")
            router = Router(state.get("router.v1"), state.get("router.b1"), state["router.v2"], state["router.b2"])
        return cls(state["heads"], router, state.get("static"), state.get("no_context"))


def missing_rows(inputs: torch.Tensor) -> torch.Tensor:
    """Return which rows [N] of a router's input [N, D] are NaN throughout: those of pairs without a context."""
    missing = inputs[:, 0].isnan()
    if missing.any():
        missing[missing.clone()] = inputs[missing].isnan().all(1)
    return missing


def pair_log_probability(margins: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Return log Σ_k π_k σ(m_k) [N] of margins and log-weights [N, K], in nats."""
    return torch.logsumexp(log_weights + F.logsigmoid(margins), 1)


def pair_log_odds(margins: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Return the logit of Σ_k π_k σ(m_k) [N] of margins and log-weights [N, K]; neither tail rounds to 0."""
    return pair_log_probability(margins, log_weights) - pair_log_probability(-margins, log_weights)


def linear_margin(margins: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    """Return the margin [N] of the linear reward Σ_k π_k r_k, from margins and log-weights [N, K].

    Unlike the pair probability it ranks any number of responses to a prompt consistently.
    """
    return (log_weights.exp() * margins).sum(1)
