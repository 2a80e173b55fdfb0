"""Sparse input rows through a layer with weights of each user's own.

A `SparseLinear` reads rows A_u [m, in] of 0 and 1 that no attack moves. So the steepest step, w + factor * D^T A, needs
nothing but their inner products K = A A^T [m, m]: how many ones two rows share.

    ||G_r||^2 = d_r^T K d_r                outputs of the step = clean outputs + K (D * factor)

The rows that a user's candidates share, as the user's own, are one row with the sum of the slopes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recbole_rawp.model.sparse_linear import SparseLinear, shared_ones
from recbole_rawp.threats.adversarial.per_user.engine import Calls, NotSupported, scaled


@dataclass(frozen=True)
class SharedOnes:
    """Gradients D^T A, not written out: K [U, m, m], D [U, m, out]; `rows` returns A [U, m, in]."""

    kernel: Tensor
    slopes: Tensor
    rows: Callable[[], Tensor]

    @property
    def gradient(self) -> Tensor:
        """G_u = D_u^T A_u, [U, out, in]."""
        return self.slopes.transpose(1, 2) @ self.rows()

    @cached_property
    def norms(self) -> Tensor:
        """Of each row of G_u, [U, out, 1]; D is scaled first, since its square might underflow."""
        slopes, scale = scaled(self.slopes)
        squares = (slopes * (self.kernel @ slopes)).sum(1)
        return squares.clamp_min(0).sqrt().unsqueeze(2) * scale

    def moved(self, base: Tensor, factor: Tensor) -> Step:
        """Return factor * G, for the layer adds it to what it gives."""
        return Step(self.kernel @ self.slopes, factor.transpose(1, 2))


@dataclass(frozen=True)
class Step:
    """What factor * G adds to the outputs: K D [U, m, out] times factor [U, 1, out]."""

    spread: Tensor
    factor: Tensor


class Sparse:
    """Weight [out, in] of one SparseLinear; a delta is [U, out, in].

    The one-step attack never writes that out. Several steps and noise do, as for nn.Linear: U * out * in numbers, and
    as many again for the attack in progress.
    """

    def __init__(self, weight: Tensor, users: int, module: SparseLinear) -> None:
        self.base, self.users, self.module = weight.detach().unsqueeze(0), users, module
        self.shape = (users, *weight.shape)

    def start(self, calls: Calls) -> None:
        """Keep what is asked for and the answers at w, which no attack on other layers changes."""
        self.asked = calls.inputs
        self.clean = [output.detach() for output in calls.outputs]
        user = torch.arange(self.users, device=self.base.device).unsqueeze(1)
        index = torch.cat([user[:, :0], *(x.reshape(self.users, -1) for x in self.asked)], 1)
        self.single = index.shape[1] > 0 and bool((index == index[:, :1]).all())
        self.index = index[:, :1] if self.single else index
        self.kernel = shared_ones(self.module, self.index, self.base.dtype)

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> SharedOnes:
        """Return the gradients, as K and D."""
        if self.single:
            total = sum((d.sum(1, keepdim=True) for d in slopes[1:]), slopes[0].sum(1, keepdim=True))
        else:
            total = torch.cat([self.base.new_zeros(self.users, 0, self.shape[1]), *slopes], 1)
        return SharedOnes(self.kernel, total, self._rows)

    def forward(self, module: Any, x: Tensor, number: int, *, own: Tensor | Step | None) -> Tensor:
        """Return the rows times W_u^T + b, where W_u is `own`, w + `own` (Step) or w (None)."""
        if own is None:
            return SparseLinear.forward(module, x)
        if number >= len(self.asked) or not torch.equal(x, self.asked[number]):
            raise NotSupported("a sparse layer is asked for other rows under attack than before")
        clean = self.clean[number]
        if isinstance(own, Step):
            more = self._part(own.spread, number)
            return torch.addcmul(clean.view(self.users, -1, self.shape[1]), more, own.factor).view(clean.shape)
        rows = self._part(self._rows(), number)
        result = rows @ own.transpose(1, 2) if module.bias is None else torch.baddbmm(module.bias, rows, own.mT)
        return result.expand(-1, clean[..., 0].numel() // self.users, -1).reshape(clean.shape)

    def _part(self, tensor: Tensor, number: int) -> Tensor:
        """Return of [U, m, ..] what belongs to a call: everything if all calls read the same row."""
        if self.single:
            return tensor
        return tensor.split([x.numel() // self.users for x in self.asked], 1)[number]

    def _rows(self) -> Tensor:
        """Return A, [U, m, in]."""
        return self.module.rows.take(self.index.flatten()).dense(self.base.dtype).view(*self.index.shape, -1)
