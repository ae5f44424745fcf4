"""The variance of a mean whose pairs come in clusters, and how well it is known: CR2 with Satterthwaite's freedom.

N pairs, C columns, G clusters, A groups whose means are averaged (1 for a plain mean), S kinds of clusters: those with
as many pairs of each group have the same variances, which are computed once for all of them.

The estimate is θ = (1/A) Σ_a mean of group a, so a pair of group a weighs ω_a = N/(A n_a) and moves θ by ω_a e_i/N,
e_i being its distance to the group's mean. With s_g the sum of ω e in cluster g the plain estimate of N² Var θ is
Σ_g s_g². It is too small: means are fitted to the same pairs, which matters where clusters are few or unequal.

Under a working model in which pairs of a cluster have variance 1 and correlation ρ, sums of clusters would have
variance c_g if means were known, and have cov_gg as they are fitted, both in closed form. So
    V = Σ_g s_g² c_g/cov_gg
is right in the mean under the model: Bell and McCaffrey's CR2, which for a plain mean and ρ = 0 divides s_g² by
1 − n_g/N. V then behaves like χ² with 2 (E V)²/Var V degrees of freedom (Satterthwaite), G − 1 where clusters are
equal. ρ is estimated from the pairs, column by column; a wrong one costs little, since V stays the sum of squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Residuals:
    """What is left of columns once the means of the groups are taken off."""

    weighed: torch.Tensor
    """ω e [N, C]: what each pair adds to N times the estimate's error."""
    group: torch.Tensor
    """[N] group of each pair, 0 to A − 1."""
    sizes: torch.Tensor
    """[A] pairs of each group, float64."""

    @property
    def weights(self) -> torch.Tensor:
        """Return ω [A]."""
        return self.sizes.sum() / (len(self.sizes) * self.sizes)


@dataclass(frozen=True, slots=True)
class ClusterVariance:
    """N² times the variance of each column's mean [C], if pairs are independent unless they share a cluster."""

    variance: torch.Tensor
    freedom: torch.Tensor
    """Degrees of freedom of the estimate."""


def cluster_variance(residuals: Residuals, cluster: torch.Tensor) -> ClusterVariance:
    """Return the variance over G ≥ 2 clusters, [N] numbers from 0 to G − 1."""
    model = _WorkingModel.of(residuals, cluster)
    sums = torch.zeros(len(model.kind), residuals.weighed.shape[1], dtype=torch.float64)
    sums.index_add_(0, cluster, residuals.weighed)
    squares = torch.zeros(len(model.many), sums.shape[1], dtype=torch.float64)
    squares.index_add_(0, model.kind, sums.square_())
    variances, freedoms = [], []
    for own, rho in zip(squares.T, model.correlation(squares, residuals).tolist(), strict=True):
        known, fitted = model.variances(rho)
        scale = known / fitted
        variances.append(own @ scale)
        freedoms.append((model.many @ known).square() / model.spread(rho, scale, known, fitted))
    return ClusterVariance(torch.stack(variances), torch.stack(freedoms))


@dataclass(frozen=True, slots=True)
class _WorkingModel:
    """Variances of clusters' sums for pairs of variance 1 and correlation ρ; each is (1 − ρ) first + ρ second."""

    kind: torch.Tensor
    """[G] kind of each cluster."""
    many: torch.Tensor
    """[S] clusters of each kind, float64."""
    counts: torch.Tensor
    """[S, A] pairs of a cluster in each group."""
    leverage: torch.Tensor
    """[S, A] ω n_ga/n_a: how a group's mean enters the cluster's sum."""
    known: tuple[torch.Tensor, torch.Tensor]
    """[S] variance of a cluster's sum around known means."""
    shared: tuple[torch.Tensor, torch.Tensor]
    """[S, A] covariance of a cluster's weighed sum with its own sum in each group."""
    total: tuple[torch.Tensor, torch.Tensor]
    """[A, A] covariance of the groups' sums."""

    @classmethod
    def of(cls, residuals: Residuals, cluster: torch.Tensor) -> _WorkingModel:
        """Return the model of clusters [N], from what each has of every group."""
        groups, weights = len(residuals.sizes), residuals.weights
        number = int(cluster.max()) + 1
        cells = torch.bincount(cluster * groups + residuals.group, minlength=number * groups).view(number, groups)
        if groups == 1:
            of_size = torch.bincount(cells[:, 0])
            kind = ((of_size > 0).cumsum(0) - 1)[cells[:, 0]]
            many, counts = of_size[of_size > 0].double(), of_size.nonzero().double()
        else:  # of several groups hardly two clusters have as many pairs of each
            kind, many, counts = torch.arange(number), torch.ones(number, dtype=torch.float64), cells.double()
        weighed = counts @ weights
        return cls(
            kind,
            many,
            counts,
            counts * (weights / residuals.sizes),
            (counts @ weights.square(), weighed.square()),
            (counts * weights, counts * weighed[:, None]),
            (torch.diag(residuals.sizes), counts.T @ (many[:, None] * counts)),
        )

    def variances(self, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the variances [S] of clusters' sums around known means, c, and around fitted ones, cov."""
        known, shared, total = (_mixed(rho, *both) for both in (self.known, self.shared, self.total))
        fitted = known - 2 * (shared * self.leverage).sum(1) + ((self.leverage @ total) * self.leverage).sum(1)
        # A cluster that has its groups to itself has a sum of 0 around their means: nothing to scale.
        return known, torch.where(fitted > 1e-9 * known, fitted, torch.inf)

    def spread(self, rho: float, scale: torch.Tensor, known: torch.Tensor, fitted: torch.Tensor) -> torch.Tensor:
        """Return half the variance of V, Σ_gh scale_g scale_h cov_gh², for normal sums.

        cov = diag(c) + f with f = −Y B' − B Y' + B M B' of rank 2A, so no matrix of G × G is needed.
        """
        shared, total = _mixed(rho, *self.shared), _mixed(rho, *self.total)
        factor = torch.cat([shared, self.leverage], 1)
        groups = len(total)
        middle = torch.zeros(2 * groups, 2 * groups, dtype=torch.float64)
        middle[:groups, groups:] = middle[groups:, :groups] = -torch.eye(groups, dtype=torch.float64)
        middle[groups:, groups:] = total
        product = middle @ (factor.T @ ((self.many * scale)[:, None] * factor))
        own = torch.where(fitted.isinf(), 0.0, fitted) - known
        diagonal = known.square() * (scale > 0) - (scale * own).square()
        return (product * product.T).sum() + self.many @ diagonal

    def correlation(self, squares: torch.Tensor, residuals: Residuals) -> torch.Tensor:
        """Return ρ [C] that makes Σ_g s_g² as large as expected next to Σ_i (ω e)², within [0, 1]."""
        weights, sizes = residuals.weights, residuals.sizes
        mates = self.many @ self.counts.square()
        ends = [self.many @ torch.where(fitted.isinf(), 0.0, fitted) for _, fitted in map(self.variances, (0.0, 1.0))]
        alone = weights.square() @ (sizes - 1), weights.square() @ (sizes - mates / sizes)
        ratio = squares.sum(0) / residuals.weighed.square().sum(0).clamp_min(1e-300)
        above, slope = ratio * alone[0] - ends[0], (ends[1] - ends[0]) - ratio * (alone[1] - alone[0])
        return torch.where(slope > 1e-9 * len(residuals.group), above / slope, 0.0).nan_to_num(0.0).clamp(0.0, 1.0)


def _mixed(rho: float, independent: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
    return (1 - rho) * independent + rho * alike
