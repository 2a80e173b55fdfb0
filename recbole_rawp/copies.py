"""How, where hooks cannot, does every user of a batch run with weights of their own?

Here with a copy of the weights per user, in chunks: `Vectorized` runs a chunk through `torch.func.vmap`, `OneByOne`
loops. Both follow `PerUser`, the interface of every per-user attack, which `hooked.py` follows without copies.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional

from recbole_rawp.ball import Ball, group_norms, normalize
from recbole_rawp.overlay import overlay
from recbole_rawp.selection import Weights

ENTRIES = (
    2**26
)  # of all users' copies of the weights that exist at once (256 MB in float32; about four such tensors live)


class NotSupported(Exception):
    """This engine cannot attack this model; the message says why. Another engine may."""


@dataclass(frozen=True)
class Candidates:
    """What a per-user attack is about: U users with up to n candidate items each.

    Attributes:
        model: in evaluation mode.
        score: sub-batch of P' rows -> logits [P'], run through `model`.
        weights: name -> parameter of `model` to attack.
        batch: U * n rows, user-major: row u * n + j is candidate j of user u. `batch[LongTensor]` gives a sub-batch.
        mask: [U, n], False where a row only fills up a user with fewer candidates.
        labels: [U, n] in {0, 1}; None: pseudo-labels 1[clean logit > 0].
    """

    model: nn.Module
    score: Callable[[Any], Tensor]
    weights: Weights
    batch: Any
    mask: Tensor
    labels: Tensor | None = None

    @property
    def users(self) -> int:
        """Return U."""
        return self.mask.shape[0]

    def rows(self, users: Tensor) -> Tensor:
        """Return the row numbers [C, n] of the users [C]."""
        n = self.mask.shape[1]
        return users.unsqueeze(1) * n + torch.arange(n, device=users.device)

    def subset(self, users: Tensor) -> "Candidates":
        """Return the same attack on some users, given by their numbers."""
        labels = None if self.labels is None else self.labels[users]
        return replace(self, batch=self.batch[self.rows(users).flatten()], mask=self.mask[users], labels=labels)

    def logits(self) -> Tensor:
        """Return [U, n], by one call of `score` with the weights that the model has now.

        Raises:
            NotSupported: if `score` does not return one number per row.
        """
        scores = self.score(self.batch)
        if scores.numel() != self.mask.numel():
            raise NotSupported(f"score returned {tuple(scores.shape)} for {self.mask.numel()} rows")
        return scores.reshape(self.mask.shape)


@dataclass(frozen=True)
class Steepest:
    """The one-step attack normalize(gradient(None), ball), not yet written out."""

    ball: Ball


class PerUser(Protocol):
    """One delta per user. A delta is name -> tensor with a leading dimension U, else in the engine's own shapes."""

    @property
    def weights(self) -> Weights:
        """Zeros in the shapes of a delta (for random starts and noise)."""

    def gradient(self, delta: Weights | None) -> Weights:
        """Return d loss_u / d w at w + delta_u for each user u; None: at w, computed once and kept."""

    def logits(self, delta: "Weights | Steepest | None") -> Tensor:
        """Return the candidates' logits [U, n] at w + delta, without gradient."""

    def loss(self, logits: Tensor) -> Tensor:
        """Return [U]: each user's sum of the binary cross-entropy over the candidates that are not padding."""

    def ball(self, radius: float, *, granularity: str = "row", relative: bool = True) -> Ball:
        """Return the users' balls; `relative` to the norm of each weight row (`sign`: to the tensor's rms)."""

    def steepest(self, ball: Ball) -> Steepest:
        """Return the one-step attack, in the form whose `logits` are cheapest."""


def cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Return sum_j mask_uj * BCEWithLogits(logit_uj, y_uj) for each user, [..., n] -> [...]."""
    each = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return torch.where(mask, each, 0.0).sum(-1)


def pseudo_labels(logits: Tensor) -> Tensor:
    """Return 1[sigmoid(logit) > .5]: what the clean model believes."""
    return (logits.detach() > 0).to(logits.dtype)


def users_ball(sizes: Weights, radius: float, granularity: str, relative: bool) -> Ball:
    """Return balls of radius * size (`relative`), or of the radius itself in the same shapes.

    Raises:
        ValueError: for a granularity that users' balls do not have.
    """
    if granularity not in ("row", "sign"):
        raise ValueError(f"a ball per user is by 'row' or by 'sign', not by {granularity!r}")
    radii = {name: radius * (size if relative else torch.ones_like(size)) for name, size in sizes.items()}
    return Ball(granularity, radii, users=True)


def rms(weight: Tensor) -> Tensor:
    """Return the root mean square of the entries."""
    return weight.norm() / math.sqrt(weight.numel())


def pick(batch: Any, rows: Tensor) -> Any:
    """Return the rows of a batch that is one tensor."""
    return batch[rows]


def itself(rows: Any) -> Any:
    """Return a batch that is one tensor."""
    return rows


class _Copies:
    """What both engines share: deltas shaped [U, *weight.shape], taken chunk by chunk.

    At most `ENTRIES` weights are copied at once. The gradient at w is kept for all radii if all users' gradients
    fit into that bound; else each `logits` of a `Steepest` computes it again.
    """

    def __init__(self, candidates: Candidates) -> None:
        self.candidates = candidates
        self.base = {name: weight.detach() for name, weight in candidates.weights.items()}
        self.size = sum(weight.numel() for weight in self.base.values())

    @property
    def weights(self) -> Weights:
        """Zeros [U, *weight.shape], in views that take no memory."""
        return {name: w.new_zeros(()).expand(self.candidates.users, *w.shape) for name, w in self.base.items()}

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
        return cross_entropy(logits, self.labels, self.candidates.mask)

    @cached_property
    def labels(self) -> Tensor:
        """The labels [U, n]."""
        given = self.candidates.labels
        return pseudo_labels(self._clean) if given is None else given

    @cached_property
    def _clean(self) -> Tensor:
        with torch.no_grad():
            return self.candidates.logits()

    @property
    def _kept(self) -> bool:
        return self.size * self.candidates.users <= ENTRIES

    @cached_property
    def _at_w(self) -> Weights:
        return self._gradients(None)

    def _gradients(self, delta: Weights | None) -> Weights:
        parts = [self._slopes(users, self._slice(delta, users)) for users in self._chunks()]
        return {name: torch.cat([part[name] for part in parts]) for name in self.base}

    def _chunks(self) -> Iterator[Tensor]:
        """Yield the users' numbers, as many at a time as `ENTRIES` allows."""
        everyone = torch.arange(self.candidates.users, device=self.candidates.mask.device)
        return iter(everyone.split(max(1, ENTRIES // self.size)))

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
        one = self.candidates.subset(user.view(1))
        moved = {name: (w + delta[name] if delta else w.clone()).requires_grad_() for name, w in self.base.items()}
        # cuDNN's recurrent layers have no backward pass in evaluation mode.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False), overlay(self.candidates.model, moved):
            loss = cross_entropy(one.logits(), self.labels[user].unsqueeze(0), one.mask).sum()
            found = torch.autograd.grad(loss, list(moved.values()), allow_unused=True)
        dense = (g.to_dense() if g is not None and g.is_sparse else g for g in found)
        return {name: torch.zeros_like(w) if g is None else g for (name, w), g in zip(self.base.items(), dense)}

    @torch.no_grad()
    def _scores(self, users: Tensor, delta: Weights | None) -> Tensor:
        found = []
        for i, user in enumerate(users):
            moved = {} if delta is None else {name: self.base[name] + d[i] for name, d in delta.items()}
            with overlay(self.candidates.model, moved):
                found.append(self.candidates.subset(user.view(1)).logits())
        return torch.cat(found)


class Vectorized(_Copies):
    """A chunk of users at once, through `torch.func.vmap`, for models made of operations that have a rule for it.

    Args:
        candidates: the attack.
        rows: batch, row numbers [C, n] -> pytree of tensors with leading dimensions C, n.
        rebuild: the pytree of one user (leading dimension n) -> batch that `score` takes.
    """

    def __init__(
        self,
        candidates: Candidates,
        *,
        rows: Callable[[Any, Tensor], Any] = pick,
        rebuild: Callable[[Any], Any] = itself,
    ) -> None:
        super().__init__(candidates)
        self.rows, self.rebuild = rows, rebuild

    @torch.no_grad()
    def _slopes(self, users: Tensor, delta: Weights | None) -> Weights:
        def loss(own: Weights, rows: Any, labels: Tensor, mask: Tensor) -> Tensor:
            return cross_entropy(self._score_one(own, rows), labels, mask)

        more = self.labels[users], self.candidates.mask[users]
        return vmap(grad(loss), randomness="error")(*self._inputs(users, delta), *more)

    @torch.no_grad()
    def _scores(self, users: Tensor, delta: Weights | None) -> Tensor:
        return vmap(self._score_one, randomness="error")(*self._inputs(users, delta))

    def _inputs(self, users: Tensor, delta: Weights | None) -> tuple[Weights, Any]:
        """Return the users' own weights and rows."""
        zeros = {name: zero[users] for name, zero in self.weights.items()} if delta is None else delta
        own = {name: self.base[name] + zeros[name] for name in self.base}
        return own, self.rows(self.candidates.batch, self.candidates.rows(users))

    def _score_one(self, own: Weights, rows: Any) -> Tensor:
        """Return the logits [n] of one user."""
        with overlay(self.candidates.model, own):
            return self.candidates.score(self.rebuild(rows)).reshape(-1)
