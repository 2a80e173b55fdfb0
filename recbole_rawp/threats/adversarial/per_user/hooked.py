"""Runs every user of a batch with weights of their own, without copies.

The loss of user u reads the rows of user u alone, so one forward and one backward pass of the sum of all losses give
every user's gradient (Goodfellow, 2015, "Efficient Per-Example Gradient Computations"). No gradient by a weight is
ever taken, only by the layers' outputs, see `linear`, `table` and `sparse_layers`.

The forward of the attacked layers is replaced while a pass runs, so a model must use its weights through them, and keep
the rows of a user together; what it does otherwise is not seen here. `select_engine` compares with the slow way on two
users, which catches it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Union, cast

import torch
from torch import Tensor, nn

from recbole_rawp.core.ball import Ball, Weights, group_norms, normalize
from recbole_rawp.model.sparse_linear import SparseLinear
from recbole_rawp.threats.adversarial.per_user.engine import Calls, NotSupported, Steepest, UserBatch, rms, users_ball
from recbole_rawp.threats.adversarial.per_user.linear import Convolution, Linear, convolves
from recbole_rawp.threats.adversarial.per_user.pair_layer import pair_layers
from recbole_rawp.threats.adversarial.per_user.replaced_forwards import Forward, ReplacedForwards
from recbole_rawp.threats.adversarial.per_user.sparse_layers import Sparse
from recbole_rawp.threats.adversarial.per_user.table import Table

Layer = Union[Linear, Table, Sparse]


class Hooked(ReplacedForwards):
    """The per-user attack on weights of linear layers, embeddings and convolutions; see `PerUser`.

    A delta of a linear weight is [U, out, in], of a convolution's [U, out, in * kernel], of a `Table` [U, R, k].
    Memory: the written-out gradients of one batch, and once more for the attack in progress; choose U by that.

    Args:
        batch: the attack.
        ghost: whether linear layers keep their gradients as D^T A (True), written out (False), or as costs less.
        fused: whether the steepest step takes a `Pair` as one, see `pair_layer`; what else is asked for goes layer by
            layer.

    Raises:
        NotSupported: here or at the first pass, see `layer_of` and `replaced_forwards.call`.
    """

    def __init__(self, batch: UserBatch, *, ghost: bool | None = None, fused: bool = True) -> None:
        self.ghost = ghost
        modules = {
            name: [m for m in batch.model.modules() if any(p is weight for p in m._parameters.values())]
            for name, weight in batch.weights.items()
        }
        self.layers = {
            name: layer_of(name, modules[name], weight, batch.users, ghost) for name, weight in batch.weights.items()
        }
        self.pairs = pair_layers(batch.model, batch.weights, batch.users) if fused else {}
        modules.update((name, []) for pair in self.pairs.values() for name in pair.names)
        super().__init__(batch, modules | {key: [pair.module] for key, pair in self.pairs.items()})

    @property
    def weights(self) -> Weights:
        """Zeros in the shapes of a delta, in views that take no memory."""
        self._at_w  # noqa: B018  (tables learn their shapes there)
        return {name: layer.base.new_zeros(()).expand(layer.shape) for name, layer in self.layers.items()}

    def gradient(self, delta: Weights | None) -> Weights:
        """Return d loss_u / d w at w + delta_u."""
        if self.pairs:
            return self._plain.gradient(delta)
        if delta is None:
            return {name: found.gradient for name, found in self._at_w[1].items()}
        found = self._reduce(*self._run(self._written(delta), gradient=True))
        return {name: summary.gradient for name, summary in found.items()}

    def logits(self, delta: Weights | Steepest | None) -> Tensor:
        """Return [U, n]."""
        if delta is None:
            return self._at_w[0]
        own = self._along(delta.ball) if isinstance(delta, Steepest) else None
        if own is None and self.pairs:
            return self._plain.logits(delta)
        if own is None:
            own = self._written(normalize(self.gradient(None), delta.ball) if isinstance(delta, Steepest) else delta)
        return self._run(own, gradient=False)[0]

    def ball(self, radius: float, *, granularity: str = "row", relative: bool = True) -> Ball:
        """Return the users' balls: radius [1 or U, r, 1] (`row`) or a number (`sign`)."""
        self._at_w  # noqa: B018  (tables learn their rows there)
        if granularity == "row":
            sizes = group_norms({name: layer.base for name, layer in self.layers.items()}, "row", users=True)
        else:
            sizes = {name: rms(weight.detach()) for name, weight in self.batch.weights.items()}
        return users_ball(sizes, radius, granularity, relative)

    @property
    def traffic(self) -> int:
        """How many numbers the attacked layers read and give for each candidate in a pass."""
        self._at_w  # noqa: B018
        return max(1, self._passed // self.batch.mask.numel())

    @cached_property
    def _plain(self) -> Hooked:
        """The same attack, layer by layer."""
        return Hooked(replace(self.batch, labels=self.labels), ghost=self.ghost, fused=False)

    @cached_property
    def _at_w(self) -> tuple[Tensor, dict[str, Any]]:
        """The logits and gradients at w."""
        logits, calls = self._clean
        passed = [tensor for made in calls.values() for tensor in (*made.inputs, *made.outputs)]
        self._passed = sum(tensor.numel() for tensor in passed)
        for name, layer in self.layers.items():
            layer.start(calls[name])
        found = self._reduce(logits, calls)
        self.labels  # noqa: B018  (the pass is not kept)
        del self._clean
        return logits.detach(), found

    def _reduce(self, logits: Tensor, calls: dict[str, Calls]) -> dict[str, Any]:
        slopes = self._backward(logits, calls)
        found: dict[str, Any] = {n: layer.reduce(calls[n], slopes[n]) for n, layer in self.layers.items()}
        for key, pair in self.pairs.items():
            found.update(pair.reduce(calls[key], slopes[key]))
        return found

    def _written(self, delta: Weights) -> dict[str, Any]:
        """Return w + delta."""
        self._at_w  # noqa: B018
        return {name: self.layers[name].base + d for name, d in delta.items()}

    def _along(self, ball: Ball) -> dict[str, Any] | None:
        """Return w + normalize(gradient at w, ball) as w + (radius / ||G_r||) * G_r in one step; None if it is not."""
        found = self._at_w[1]
        norms = {name: summary.norms for name, summary in found.items()}
        if ball.granularity != "row" or not all(norm.isfinite().all() for norm in norms.values()):
            return None
        ratio = {name: ball.radius[name] / norm for name, norm in norms.items()}
        factor = {name: torch.where(r.isfinite(), r, 0.0) for name, r in ratio.items()}
        own = {name: found[name].moved(layer.base, factor[name]) for name, layer in self.layers.items()}
        return own | {key: [own[name] for name in pair.names] for key, pair in self.pairs.items()}

    def _forward(self, name: str, own: Any) -> Forward:
        return partial((self.layers | self.pairs)[name].forward, own=own)


def layer_of(name: str, owners: list[nn.Module], weight: Tensor, users: int, ghost: bool | None) -> Layer:
    """Return how to attack `weight`.

    Raises:
        NotSupported: if not all its modules are plain nn.Linear, or plain nn.Embedding or ungrouped convolutions of one
            kind, with this weight, nor its only one a SparseLinear.
    """
    plain = all(getattr(owner, "weight", None) is weight and "forward" not in owner.__dict__ for owner in owners)
    if plain and all(type(owner).forward is nn.Linear.forward for owner in owners):
        return Linear(weight, users, ghost)
    if plain and all(type(owner).forward is nn.Embedding.forward for owner in owners):
        kinds = {(owner.padding_idx, owner.max_norm, owner.scale_grad_by_freq) for owner in owners}
        padding, max_norm, by_frequency = next(iter(kinds))
        if len(kinds) == 1 and max_norm is None and not by_frequency:
            return Table(weight, users, padding)
    if plain and convolves(owners):
        return Convolution(weight, users, ghost, owners[0])
    if plain and len(owners) == 1 and type(owners[0]).forward is SparseLinear.forward:
        return Sparse(weight, users, cast(SparseLinear, owners[0]))
    kinds_of_owner = ", ".join(sorted({type(owner).__name__ for owner in owners})) or "no module"
    raise NotSupported(f"{name}: belongs to {kinds_of_owner}, of a kind that hooks do not know")
