"""Layers with weights of each user's own, and their gradients.

linear layer      inputs A_u [m, in], gradients by the outputs D_u [m, out]:    G_u = D_u^T A_u
embedding table   looked-up rows r_ui, gradients by them D_ui:                  G_u[r] = sum of D_ui over r_ui = r
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recbole_rawp.threats.adversarial.per_user.engine import NotSupported
from recbole_rawp.threats.adversarial.per_user.replaced_forwards import Calls, scaled


@dataclass(frozen=True)
class Written:
    """Gradients [U, r, k], written out."""

    gradient: Tensor

    @cached_property
    def norms(self) -> Tensor:
        """Of each row, [U, r, 1]."""
        return torch.linalg.vector_norm(self.gradient, dim=2, keepdim=True)

    def moved(self, base: Tensor, factor: Tensor) -> Tensor:
        """Return w + factor * G."""
        return torch.addcmul(base, self.gradient, factor)


@dataclass(frozen=True)
class Ghost:
    """Gradients of a linear layer as D^T A, not written out: A [U, m, in], D [U, m, out]."""

    inputs: Tensor
    slopes: Tensor

    @property
    def gradient(self) -> Tensor:
        """G_u = D_u^T A_u, [U, out, in]."""
        return self.slopes.transpose(1, 2) @ self.inputs

    @cached_property
    def norms(self) -> Tensor:
        """||G_r||^2 = d_r^T (A A^T) d_r, [U, out, 1]; D is scaled first, since its square might underflow."""
        slopes, scale = scaled(self.slopes)
        squares = (slopes * (self.inputs @ self.inputs.transpose(1, 2) @ slopes)).sum(1)
        return squares.clamp_min(0).sqrt().unsqueeze(2) * scale

    def moved(self, base: Tensor, factor: Tensor) -> Ghost:
        """Return factor * G, for the layer adds it to what it gives."""
        return Ghost(self.inputs, self.slopes * factor.transpose(1, 2))

    def added(self, x: Tensor) -> Tensor:
        """Return x G^T = (x A^T) D for x [U, m', in]."""
        return x @ self.inputs.transpose(1, 2) @ self.slopes


class Linear:
    """Weight [out, in] of nn.Linear modules; a delta is [U, out, in]."""

    def __init__(self, weight: Tensor, users: int, ghost: bool | None) -> None:
        self.base, self.users, self.ghost = weight.detach().unsqueeze(0), users, ghost
        self.shape = (users, *weight.shape)

    def start(self, calls: Calls) -> None:
        """Learn nothing from the first pass."""

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> Written | Ghost:
        """Return the gradients."""
        return self.gradients([self._split(x) for x in calls.inputs], slopes)

    def gradients(self, inputs: list[Tensor], slopes: list[Tensor]) -> Written | Ghost:
        """Return the sum over calls of D^T A, for A [U, m, in] and D [U, m, out].

        Not written out where m < in * out / (in + out), which costs less.
        """
        if not inputs:
            return Written(self.base.new_zeros(()).expand(self.shape))
        _, out, width = self.base.shape
        rows = sum(x.shape[1] for x in inputs)
        if rows * (width + out) < width * out if self.ghost is None else self.ghost:
            return Ghost(joined(inputs), joined(slopes))
        parts = [d.transpose(1, 2) @ x for x, d in zip(inputs, slopes)]
        return Written(sum(parts[1:], parts[0]))

    def forward(self, module: Any, x: Tensor, number: int, *, own: Tensor | Ghost | None) -> Tensor:
        """Return x W_u^T + b, where W_u is `own`, w + `own` (Ghost) or w (None)."""
        if own is None:
            return functional.linear(x, self.base[0], module.bias)
        rows, bias = self._split(x), module.bias
        if isinstance(own, Ghost):
            return functional.linear(x, self.base[0], bias) + own.added(rows).view(*x.shape[:-1], -1)
        turned = own.transpose(1, 2)
        result = rows @ turned if bias is None else torch.baddbmm(bias, rows, turned)
        return result.view(*x.shape[:-1], -1)

    def _split(self, x: Tensor) -> Tensor:
        """Return [U, m, in]."""
        return x.reshape(self.users, -1, x.shape[-1])


class Table:
    """Weight [V, k] of nn.Embedding modules; a delta is [U, R, k]: the rows that a user's candidates look up.

    R is the most distinct rows of one user; those with fewer have slots that nothing reads: their gradient is 0.
    R is 0 for a table that is never called.
    """

    def __init__(self, weight: Tensor, users: int, padding: int | None) -> None:
        self.weight, self.users, self.padding = weight.detach(), users, padding

    def start(self, calls: Calls) -> None:
        """Give each row that a user looks up a slot: index [U, R] -> row, and slots, look-up -> u * R + slot."""
        self.lookups = calls.inputs
        user = torch.arange(self.users, device=self.weight.device).unsqueeze(1)
        index = torch.cat([user[:, :0], *(x.reshape(self.users, -1) for x in self.lookups)], 1)
        pairs, which = (user * len(self.weight) + index).unique(return_inverse=True)
        owner = pairs // len(self.weight)
        count = owner.bincount(minlength=self.users)
        most = int(count.max())
        slot = owner * most + torch.arange(len(pairs), device=index.device) - (count.cumsum(0) - count)[owner]
        self.index = pairs.new_zeros(self.users * most).index_copy(0, slot, pairs % len(self.weight))
        parts = slot[which].split([x.numel() // self.users for x in self.lookups], 1)
        self.slots = [part.reshape(x.shape) for part, x in zip(parts, self.lookups)]
        self.shape = (self.users, most, self.weight.shape[1])
        self.base = self.weight[self.index].view(self.shape)

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> Written:
        """Return the gradients, 0 for the padding row."""
        total = self.weight.new_zeros(len(self.index), self.shape[2])
        if self.shape[1] == 1:  # every look-up of a user reads the same row
            total = sum((d.sum(1) for d in slopes), total)
        for slots, d in zip(self.slots, slopes if self.shape[1] > 1 else []):
            total.index_add_(0, slots.flatten(), d.reshape(-1, self.shape[2]))
        if self.padding is not None:
            total[self.index == self.padding] = 0.0
        return Written(total.view(self.shape))

    def forward(self, module: Any, x: Tensor, number: int, *, own: Tensor | None) -> Tensor:
        """Look up in the user's own rows, or in the table (None)."""
        if own is None:
            return functional.embedding(x, self.weight)
        if number >= len(self.lookups) or not torch.equal(x, self.lookups[number]):
            raise NotSupported("an embedding is asked for other rows under attack than before")
        return functional.embedding(self.slots[number], own.reshape(-1, self.shape[2]))


def joined(parts: list[Tensor]) -> Tensor:
    """Return [U, sum of m, k] from [U, m, k], the only part itself."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
