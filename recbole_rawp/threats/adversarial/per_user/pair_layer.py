"""Takes the steepest step of each user through all three weights of a `Pair` at once.

Its layers, user's row a -> e = W_a a, items' rows A -> E = A W_A^T, both -> Y = e W_e^T + E W_E^T, have no activation
between them (biases left out here). With the slopes D of Y, s = sum_j d_j, K = A A^T and M = E E^T, the gradients are

    by W_a: (s W_e)^T a^T      by W_A: (D W_E)^T A      by (W_e, W_E): (s^T e^T, D^T E)

so nothing [.., in] is written out, E is made once for each item of the batch, and with the step's factors f for each
row of the weights

    e' = e + f_a |a|^2 s W_e      E' = E + V,  V = f_A K D W_E
    Y' = Y + (e' - e) W_e^T + (e' . e) s f + V W_E^T + (M D + V E^T D) f

where V is proportional to the radius: for further radii its products are only scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_rawp.core.ball import Weights
from recbole_rawp.model.sparse_linear import Pair, shared_ones
from recbole_rawp.threats.adversarial.per_user.engine import Calls, NotSupported, scaled


@dataclass(frozen=True)
class Factor:
    """The norms of a gradient's rows, [U, r, 1], up to a factor of each user; a step is then the rows' factors."""

    norms: Tensor

    def moved(self, base: Tensor, factor: Tensor) -> Tensor:
        """Return the factors, [U, 1, r]."""
        return factor.transpose(1, 2)


class PairLayer:
    """The steepest step on a `Pair`, called once, with one user for all candidates of a user.

    Args:
        names: of its three weights: user, item, merge.
        module: the pair.
        users: U.
    """

    def __init__(self, names: list[str], module: Pair, users: int) -> None:
        self.names, self.module, self.users = names, module, users
        self.left, self.right = module.merge.weight.detach().split(module.user.out_features, 1)  # W_e, W_E
        self.direction: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, module: Any, pairs: Tensor, number: int, *, own: list[Tensor] | None) -> Tensor:
        """Return Y [P, out] at w, or after the step with the factors `own` of user, item and merge."""
        if number:
            raise NotSupported("a Pair is called more than once")
        if own is None:
            return self._clean(pairs)
        if not torch.equal(pairs, self.pairs):
            raise NotSupported("a Pair is asked for other pairs under attack than before")
        return self._moved(*own).flatten(0, 1)

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> dict[str, Factor]:
        """Return the norms of the gradients, name by name."""
        if not slopes:
            raise NotSupported("a Pair is never called")
        self.slopes = scaled(slopes[0])[0]  # a step is the same for any multiple of D
        self.total = self.slopes.sum(1, keepdim=True)
        kernel = shared_ones(self.module.item, self.items, self.slopes.dtype)
        item = self.slopes @ self.right
        self.spread, self.user = kernel @ item, self.total @ self.left
        self.gram = self.item_vectors @ self.item_vectors.transpose(1, 2) @ self.slopes
        squares = (
            self.ones * self.user.square(),
            column_products(item, self.spread),
            (self.total * self.user_vectors.norm(dim=2, keepdim=True)).square()
            + column_products(self.slopes, self.gram),
        )
        return {name: Factor(square.clamp_min(0).sqrt().transpose(1, 2)) for name, square in zip(self.names, squares)}

    def _clean(self, pairs: Tensor) -> Tensor:
        """Return Y [P, out] at w, each user's and item's part made once; keep e, E and Y."""
        user, self.items = pairs.view(self.users, -1, 2).unbind(2)
        if not torch.equal(user, user[:, :1].expand_as(user)):
            raise NotSupported("candidates of one user are paired with several users")
        self.pairs, module = pairs, self.module
        counts = module.user.rows.indptr.diff()[user[:, :1]]
        distinct, place = self.items.unique(return_inverse=True)
        vectors = module.item(distinct)
        self.user_vectors, self.item_vectors = module.user(user[:, :1]), functional.embedding(place, vectors)
        self.ones = counts.unsqueeze(2).to(vectors.dtype)  # |a|^2
        self.clean = functional.embedding(place, functional.linear(vectors, self.right, module.merge.bias))
        self.clean += self.user_vectors @ self.left.t()
        return self.clean.flatten(0, 1)

    def _moved(self, user: Tensor, item: Tensor, merge: Tensor) -> Tensor:
        """Return Y' [U, n, out] for the factors [U, 1, ..] of user, item and merge."""
        scale, through, twice = self._along(item)
        result = torch.add(self.gram, twice, alpha=scale).mul_(merge).add_(through, alpha=scale).add_(self.clean)
        move = user * self.ones * self.user
        inner = ((self.user_vectors + move) * self.user_vectors).sum(2, keepdim=True)
        return result.add_(move @ self.left.t() + inner * self.total * merge)

    def _along(self, item: Tensor) -> tuple[float, Tensor, Tensor]:
        """Return c, V W_E^T and V E^T D, for V of factors item / c; they are kept, c is 1 for the first ones."""
        if self.direction is not None:
            first = self.direction[0]
            scale = float(item.norm() / first.norm())
            if torch.allclose(item, scale * first, rtol=8 * torch.finfo(item.dtype).eps, atol=0.0):
                return scale, *self.direction[1:]
        vectors = self.spread * item
        twice = vectors @ self.item_vectors.transpose(1, 2) @ self.slopes
        self.direction = item, vectors @ self.right.t(), twice
        return 1.0, *self.direction[1:]


def column_products(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of the columns, [U, 1, k] for [U, m, k]."""
    return (a * b).sum(1, keepdim=True)


def pair_layers(model: nn.Module, weights: Weights, users: int) -> dict[str, PairLayer]:
    """Return, for each `Pair` of `model` all of whose weights are attacked, its name -> its layer."""
    found = {}
    for path, module in model.named_modules():
        if not isinstance(module, Pair) or type(module).forward is not Pair.forward or "forward" in module.__dict__:
            continue
        own = [layer.weight for layer in (module.user, module.item, module.merge)]
        names = [next((name for name, weight in weights.items() if weight is mine), "") for mine in own]
        held = [p for m in model.modules() for p in m._parameters.values() if any(p is mine for mine in own)]
        if all(names) and len(held) == 3:
            found[path or "the model"] = PairLayer(names, module, users)
    return found
