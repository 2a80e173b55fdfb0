"""Engines that copy the weights for every user, where hooks cannot do without.

In chunks of users: `Vectorized` runs a chunk through `torch.func.vmap`, `OneByOne`
loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from recbole_rawp.core.ball import Ball, Weights, group_norms, normalize
from recbole_rawp.core.gradients import gradients
from recbole_rawp.core.overlay import exact, overlay
from recbole_rawp.threats.adversarial.per_user.engine import (
    Steepest,
    UserBatch,
    rms,
    users_ball,
)

CHUNK = 2**22  # weights copied at once, over users; a few such tensors live. Larger ones leave a CPU's cache
KEPT = 2**26  # gradients at w kept for all radii of a batch: 256 MB in float32


def pick(batch: Any, rows: Tensor) -> Any:
    """Return the rows of a batch that is one tensor."""
    return batch[rows]


def itself(rows: Any) -> Any:
    """Return a batch that is one tensor."""
    return rows


class _Copies:
    """What both engines share: deltas shaped [U, *weight.shape], taken chunk by chunk.

    At most `CHUNK` weights are copied at once (at least one user's). The gradient at w is kept for all radii if all
    users' entries number at most `KEPT`; else each `logits` of a `Steepest` computes it again. A written-out delta, as
    for several steps, always takes U times the weights.
    """

    def __init__(self, batch: UserBatch) -> None:
        self.batch = batch
        self.base = {name: weight.detach() for name, weight in batch.weights.items()}
        self.size = sum(weight.numel() for weight in self.base.values())

    @property
    def weights(self) -> Weights:
        """Zeros [U, *weight.shape], in views that take no memory."""
        return {name: w.new_zeros(()).expand(self.batch.users, *w.shape) for name, w in self.base.items()}

    def ball(self, radius: float, *, granularity: str = "row", relative: bool = True) -> Ball:
        """Return the ball around w, the same for every user: radius [rows, 1, ...] (`row`) or a number (`sign`)."""
        sizes = group_norms(self.base, "row") if granularity == "row" else {n: rms(w) for n, w in self.base.items()}
        return users_ball(sizes, radius, granularity, relative)

    def steepest(self, ball: Ball) -> Steepest:
        """Return the one-step attack."""
        return Steepest(ball)

    def gradient(self, delta: Weights | None) -> Weights:
        """Return [U, *weight.shape] for each weight."""
        if delta is None:
            return self._at_w if self._kept else self._gradients(None)
        return self._gradients(delta)

    def logits(self, delta: Weights | Steepest | None) -> Tensor:
        """Return [U, n]."""
        if delta is None:
            return self._clean
        return torch.cat([self._scores(users, self._slice(delta, users)) for users in self._chunks()])

    def loss(self, logits: Tensor) -> Tensor:
        """Return [U]."""
        return self.batch.loss.value(logits, self.labels, self.batch.mask)

    @cached_property
    def labels(self) -> Tensor:
        """The labels [U, n]."""
        given = self.batch.labels
        return self.batch.loss.pseudo_labels(self._clean, self.batch.mask) if given is None else given

    @cached_property
    def _clean(self) -> Tensor:
        with torch.no_grad():
            return self.batch.logits()

    @property
    def _kept(self) -> bool:
        return self.size * self.batch.users <= KEPT

    @cached_property
    def _at_w(self) -> Weights:
        return self._gradients(None)

    def _gradients(self, delta: Weights | None) -> Weights:
        parts = [self._slopes(users, self._slice(delta, users)) for users in self._chunks()]
        return {name: torch.cat([part[name] for part in parts]) for name in self.base}

    def _chunks(self) -> Iterator[Tensor]:
        """Yield the users' numbers, as many at a time as `CHUNK` allows."""
        everyone = torch.arange(self.batch.users, device=self.batch.mask.device)
        return iter(everyone.split(max(1, CHUNK // self.size)))

    def _slice(self, delta: Weights | Steepest | None, users: Tensor) -> Weights | None:
        """Return the delta of some users, written out."""
        if isinstance(delta, Steepest):
            uphill = self._slice(self._at_w, users) if self._kept else self._slopes(users, None)
            assert uphill is not None
            return normalize(uphill, delta.ball)
        return None if delta is None else {name: d[users[0] : users[-1] + 1] for name, d in delta.items()}

    def _slopes(self, users: Tensor, delta: Weights | None) -> Weights:
        """Return the gradients of these users at w + delta."""
        raise NotImplementedError

    def _scores(self, users: Tensor, delta: Weights | None) -> Tensor:
        """Return the logits of these users at w + delta."""
        raise NotImplementedError


class OneByOne(_Copies):
    """One user after the other. It always works: the reference for the other engines, and the slowest."""

    def _slopes(self, users: Tensor, delta: Weights | None) -> Weights:
        found = [
            self._slope(user, {} if delta is None else {n: d[i] for n, d in delta.items()})
            for i, user in enumerate(users)
        ]
        return {name: torch.stack([g[name] for g in found]) for name in self.base}

    def _slope(self, user: Tensor, delta: Weights) -> Weights:
        one = self.batch.subset(user.view(1))
        moved = {name: (w + delta[name] if delta else w.clone()).requires_grad_() for name, w in self.base.items()}
        with torch.enable_grad(), exact(self.batch.model), overlay(self.batch.model, moved):
            return gradients(one.loss.value(one.logits(), self.labels[user].unsqueeze(0), one.mask).sum(), moved)

    @torch.no_grad()
    def _scores(self, users: Tensor, delta: Weights | None) -> Tensor:
        found = []
        for i, user in enumerate(users):
            moved = {} if delta is None else {name: self.base[name] + d[i] for name, d in delta.items()}
            with overlay(self.batch.model, moved):
                found.append(self.batch.subset(user.view(1)).logits())
        return torch.cat(found)


class Vectorized(_Copies):
    """A chunk of users at once, through `torch.func.vmap`, for models made of operations that have a rule for it.

    Args:
        batch: the attack.
        rows: batch, row numbers [C, n] -> pytree of tensors with leading dimensions C, n.
        rebuild: the pytree of one user (leading dimension n) -> batch that `score` takes.
    """

    def __init__(
        self, batch: UserBatch, *, rows: Callable[[Any, Tensor], Any] = pick, rebuild: Callable[[Any], Any] = itself
    ) -> None:
        super().__init__(batch)
        self.rows, self.rebuild = rows, rebuild

    @torch.no_grad()
    def _slopes(self, users: Tensor, delta: Weights | None) -> Weights:
        def loss(own: Weights, rows: Any, labels: Tensor, mask: Tensor) -> Tensor:
            """Return one user's loss."""
            return self.batch.loss.value(self._score_one(own, rows), labels, mask)

        more = self.labels[users], self.batch.mask[users]
        return vmap(grad(loss), randomness="error")(*self._inputs(users, delta), *more)

    @torch.no_grad()
    def _scores(self, users: Tensor, delta: Weights | None) -> Tensor:
        return vmap(self._score_one, randomness="error")(*self._inputs(users, delta))

    def _inputs(self, users: Tensor, delta: Weights | None) -> tuple[Weights, Any]:
        """Return the users' own weights and rows."""
        zeros = {name: zero[users] for name, zero in self.weights.items()} if delta is None else delta
        own = {name: self.base[name] + zeros[name] for name in self.base}
        return own, self.rows(self.batch.inputs, self.batch.rows(users))

    def _score_one(self, own: Weights, rows: Any) -> Tensor:
        """Return the logits [n] of one user."""
        with overlay(self.batch.model, own):
            return self.batch.score(self.rebuild(rows)).reshape(-1)
