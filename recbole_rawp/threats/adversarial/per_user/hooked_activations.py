"""Attacks each user's forward pass between two layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_rawp.core.ball import Ball, Weights, group_norms, normalize
from recbole_rawp.threats.adversarial.per_user.engine import Calls, NotSupported, Steepest, UserBatch, users_ball
from recbole_rawp.threats.adversarial.per_user.replaced_forwards import Forward, ReplacedForwards


class HookedActivations(ReplacedForwards):
    """The per-user attack on the outputs of nn.Linear modules, before the activation function; see `PerUser`.

    A delta is [U, m, out] for each module, m = n times any further dimensions, of all calls one after the other. Its
    rows are output vectors, so the balls are around these: `row` bounds each vector in L2, `sign` each entry.

    Args:
        batch: the attack; its `weights` are not used.
        modules: names of nn.Linear modules of the model.

    Raises:
        NotSupported: if a module is not a plain nn.Linear, here, or is not called row by row, at the first pass.
    """

    def __init__(self, batch: UserBatch, modules: Sequence[str]) -> None:
        found = {name: batch.model.get_submodule(name) for name in modules}
        for name, module in found.items():
            if type(module).forward is not nn.Linear.forward or "forward" in module.__dict__:
                raise NotSupported(f"{name}: is a {type(module).__name__}, not a plain nn.Linear")
        super().__init__(batch, {name: [module] for name, module in found.items()})

    @property
    def weights(self) -> Weights:
        """Zeros in the shapes of a delta, in views that take no memory."""
        return {name: slopes.new_zeros(()).expand(slopes.shape) for name, slopes in self._at_w[1].items()}

    def gradient(self, delta: Weights | None) -> Weights:
        """Return d loss_u / d output at output + delta_u."""
        if delta is None:
            return self._at_w[1]
        return self._join(self._backward(*self._run(self._pieces(delta), gradient=True)))

    def logits(self, delta: Weights | Steepest | None) -> Tensor:
        """Return [U, n]."""
        if delta is None:
            return self._at_w[0]
        written = normalize(self._at_w[1], delta.ball) if isinstance(delta, Steepest) else delta
        return self._run(self._pieces(written), gradient=False)[0]

    def ball(self, radius: float, *, granularity: str = "row", relative: bool = True) -> Ball:
        """Return the users' balls, radius [U, m, 1]; `relative` to the clean vector's norm (`sign`: to its rms)."""
        norms, gradients = self._at_w[2], self._at_w[1]
        width = {name: 1 if granularity == "row" else gradients[name].shape[2] for name in norms}
        return users_ball({n: norm / width[n] ** 0.5 for n, norm in norms.items()}, radius, granularity, relative)

    @cached_property
    def _at_w(self) -> tuple[Tensor, Weights, Weights]:
        """The logits, gradients and norms of the outputs at w."""
        logits, calls = self._clean
        for name, made in calls.items():
            self._check(name, made)
        slopes = self._backward(logits, calls)
        self.pieces = {name: [d.shape[1] for d in parts] for name, parts in slopes.items()}
        users = self.batch.users
        outputs = {n: [y.detach().reshape(users, -1, y.shape[-1]) for y in c.outputs] for n, c in calls.items()}
        self.labels  # noqa: B018  (the pass is not kept)
        del self._clean
        return logits.detach(), self._join(slopes), group_norms(self._join(outputs), "row", users=True)

    def _check(self, name: str, made: Calls) -> None:
        """Raise NotSupported unless the module is called, row by row."""
        rows = self.batch.mask.numel()
        if not made.number:
            raise NotSupported(f"{name}: is never called")
        for read in made.inputs:
            if len(read) != rows:
                raise NotSupported(f"{name}: got {tuple(read.shape)} where the batch has {rows} rows")

    def _join(self, parts: dict[str, list[Tensor]]) -> Weights:
        return {name: torch.cat(tensors, 1) for name, tensors in parts.items()}

    def _pieces(self, delta: Weights) -> dict[str, Any]:
        """Return the delta of each call."""
        self._at_w  # noqa: B018
        return {name: d.split(self.pieces[name], 1) for name, d in delta.items()}

    def _forward(self, name: str, own: Any) -> Forward:
        def forward(module: Any, x: Tensor, number: int) -> Tensor:
            """Return x W^T + b + delta."""
            clean = functional.linear(x, module.weight, module.bias)
            return clean if own is None else clean + own[number].reshape(clean.shape)

        return forward
