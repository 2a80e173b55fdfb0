"""Defines a "small" change of the weights: a ball in groups of entries.

A ball bounds delta in groups: each tensor, each row of a tensor (dim 0, one output neuron), or all tensors
together. With T = 1, except for `element`, where T = |w| + 0.01 (ASAM, Kwon et al., ICML 2021):

    ball       { delta : ||delta / T||_2 <= radius   in each group }
    normalize  delta = radius * T^2 g / ||T g||_2    the point of the ball that a linear loss g likes best

`sign` bounds each entry instead: |delta_i| <= radius, and normalize gives radius * sign(g) (FGSM, Goodfellow et al.,
ICLR 2015).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

Weights = dict[str, Tensor]  # name -> weight, or what moves it

GRANULARITIES = ("tensor", "row", "global", "element", "sign")
ELEMENT_FLOOR = 0.01


@dataclass(frozen=True)
class Ball:
    """Bounds of a perturbation.

    Attributes:
        granularity: `tensor`, `row`, `global` (one norm over all tensors: SAM), `element` (ASAM, global too) or `sign`.
        radius: name -> radius, shaped to broadcast against delta: scalar, or [rows, 1, ...] for `row`.
        scale: name -> T, shaped like the weight; None stands for 1.
        users: whether delta has a leading dimension of users, each with a ball of their own (`row` and `sign` only).
    """

    granularity: str
    radius: Weights
    scale: Weights | None = None
    users: bool = False

    def shrunk(self, factor: float) -> Ball:
        """Return the same ball with every radius multiplied by `factor`."""
        return replace(self, radius={name: r * factor for name, r in self.radius.items()})

    def norms(self, tensors: Weights) -> Weights:
        """Return the norm of each group, shaped to broadcast against its tensor."""
        return group_norms(tensors, self.granularity, users=self.users)


@torch.no_grad()
def around(
    weights: Weights,
    radius: float,
    *,
    granularity: str = "tensor",
    relative: bool = True,
    omega: dict[str, float] | None = None,
) -> Ball:
    """Return the ball of the given radius around `weights`.

    Args:
        weights: name -> weight, any shapes.
        radius: gamma. Relative: a fraction of the group's norm (for `element`, rho = gamma * ||w|| / rms(w), which
            is gamma * sqrt(number of elements); for `sign`, of the tensor's rms). Absolute: the radius itself.
        granularity: one of `GRANULARITIES`.
        relative: whether `radius` is a fraction of the group's norm.
        omega: factor per tensor; only groups within a tensor can have one.
    """
    if granularity in ("global", "element"):
        first = next(iter(weights.values()))
        shared = first.new_tensor(radius, dtype=first.real.dtype)
        if relative and granularity == "global":
            shared = shared * group_norms(weights, "global")[next(iter(weights))]
        elif relative:
            shared = shared * sum(weight.numel() for weight in weights.values()) ** 0.5
        scale = {n: w.abs() + ELEMENT_FLOOR for n, w in weights.items()} if granularity == "element" else None
        return Ball(granularity, dict.fromkeys(weights, shared), scale)
    norms = group_norms(weights, "tensor" if granularity == "sign" else granularity)
    if granularity == "sign":  # relative to the root mean square of the entries
        norms = {name: norm / weights[name].numel() ** 0.5 for name, norm in norms.items()}
    factors = omega or {}
    return Ball(
        granularity,
        {
            n: (norm if relative else torch.ones_like(norm)) * (radius * factors.get(n, 1.0))
            for n, norm in norms.items()
        },
    )


@torch.no_grad()
def normalize(direction: Weights, ball: Ball) -> Weights:
    """Stretch `direction` to the surface of the ball; a group without direction (zero or not finite) stays 0."""
    if ball.granularity == "sign":
        signs = {name: torch.where(d.isfinite(), d.sgn(), torch.zeros_like(d)) for name, d in direction.items()}
        return times(signs, ball.radius)
    scaled = direction if ball.scale is None else times(direction, ball.scale)
    norms = ball.norms(scaled)
    ratio = {name: ball.radius[name] / norm for name, norm in norms.items()}
    usable = {name: ratio[name].isfinite() & norm.isfinite() for name, norm in norms.items()}
    factor = {name: torch.where(usable[name], ratio[name], 0.0) for name in norms}
    delta = times(scaled, factor)
    if ball.scale is not None:
        delta = times(delta, ball.scale)
    return {name: torch.where(usable[name], d, torch.zeros_like(d)) for name, d in delta.items()}


@torch.no_grad()
def project(delta: Weights, ball: Ball) -> Weights:
    """Return the point of the ball on the ray from 0 through `delta` (`sign`: the nearest): `delta` if inside."""
    inner = delta if ball.scale is None else {name: d / ball.scale[name] for name, d in delta.items()}
    norms = ball.norms(inner)
    shrink = {
        name: torch.where(norm > ball.radius[name], ball.radius[name] / norm, 1.0) for name, norm in norms.items()
    }
    return times(delta, shrink)


def random_direction(weights: Weights, generator: torch.Generator) -> Weights:
    """Draw independent Gaussian entries, shaped like `weights`, from a CPU generator (the same on any device)."""
    return {
        name: torch.randn(weight.shape, dtype=weight.dtype, generator=generator).to(weight.device)
        for name, weight in weights.items()
    }


def group_norms(tensors: Weights, granularity: str, *, users: bool = False) -> Weights:
    """Return the L2 norm of each group, shaped to broadcast against its tensor; `users` as for a `Ball`."""
    if granularity == "sign":
        return {name: t.abs() for name, t in tensors.items()}
    if granularity == "row":
        first = 2 if users else 1
        return {
            name: torch.linalg.vector_norm(t, dim=tuple(range(first, t.dim())), keepdim=True)
            for name, t in tensors.items()
        }
    norms = cast(list[Tensor], torch._foreach_norm(list(tensors.values())))
    if granularity == "tensor":
        return dict(zip(tensors, norms))
    return dict.fromkeys(tensors, torch.linalg.vector_norm(torch.stack(norms)))


def times(tensors: Weights, factors: Weights) -> Weights:
    """Multiply name by name."""
    return dict(zip(tensors, torch._foreach_mul(list(tensors.values()), [factors[name] for name in tensors])))
