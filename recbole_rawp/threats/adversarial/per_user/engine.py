"""Defines an attack on each user of a batch, however it is computed.

`PerUser` is the interface of every engine: `Hooked` and `HookedActivations` take no copies of the weights, `Vectorized`
and `OneByOne` one per user. `select_engine` says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recbole_rawp.core.ball import Ball, Weights
from recbole_rawp.threats.adversarial.user_losses import CROSS_ENTROPY, UserLoss


class NotSupported(Exception):
    """This engine cannot attack this model; the message says why. Another engine may."""


@dataclass
class Calls:
    """What the calls of one weight's modules read and gave, in order; kept only while gradients are recorded."""

    number: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)

    def add(self, read: Tensor, gave: Tensor) -> None:
        """Keep one call, and let its output have a gradient even if nothing before it is attacked."""
        if not gave.requires_grad:
            gave.requires_grad_()
        self.inputs.append(read.detach())
        self.outputs.append(gave)
        self.versions.append((read._version, gave._version))

    def changed(self) -> bool:
        """Tell whether the model overwrote one of them later: its gradient would be another tensor's."""
        pairs = zip(self.inputs, self.outputs)
        return any((x._version, y._version) != then for (x, y), then in zip(pairs, self.versions))


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
class UserBatch:
    """What a per-user attack is about: U users with up to n candidate items each.

    Attributes:
        model: in evaluation mode.
        score: inputs of P' rows -> logits [P'], run through `model`.
        weights: name -> parameter of `model` to attack.
        inputs: U * n rows, user-major: row u * n + j is candidate j of user u. `inputs[LongTensor]` gives a sub-batch.
        mask: [U, n], False where a row only fills up a user with fewer candidates.
        labels: [U, n] in {0, 1}; None: those that the loss takes of the clean logits.
        loss: what is raised.
    """

    model: nn.Module
    score: Callable[[Any], Tensor]
    weights: Weights
    inputs: Any
    mask: Tensor
    labels: Tensor | None = None
    loss: UserLoss = CROSS_ENTROPY

    @property
    def users(self) -> int:
        """Return U."""
        return self.mask.shape[0]

    def rows(self, users: Tensor) -> Tensor:
        """Return the row numbers [C, n] of the users [C]."""
        n = self.mask.shape[1]
        return users.unsqueeze(1) * n + torch.arange(n, device=users.device)

    def subset(self, users: Tensor) -> UserBatch:
        """Return the same attack on some users, given by their numbers."""
        labels = None if self.labels is None else self.labels[users]
        return replace(self, inputs=self.inputs[self.rows(users).flatten()], mask=self.mask[users], labels=labels)

    def logits(self) -> Tensor:
        """Return [U, n], by one call of `score` with the weights that the model has now.

        Raises:
            NotSupported: if `score` does not return one number per row.
        """
        scores = self.score(self.inputs)
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
        """Return d loss_u / d w at w + delta_u for each user u; None: at w, kept where it is not too large."""

    def logits(self, delta: Weights | Steepest | None) -> Tensor:
        """Return the candidates' logits [U, n] at w + delta, without gradient."""

    def loss(self, logits: Tensor) -> Tensor:
        """Return [U]: each user's loss over the candidates that are not padding."""

    def ball(self, radius: float, *, granularity: str = "row", relative: bool = True) -> Ball:
        """Return the users' balls; `relative` to the norm of each weight row (`sign`: to the tensor's rms)."""

    def steepest(self, ball: Ball) -> Steepest:
        """Return the one-step attack, in the form whose `logits` are cheapest."""


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


def scaled(slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return D / scale and scale [U, 1, 1] for D [U, m, out]: 1, or each user's largest |d| where squares underflow."""
    largest = torch.linalg.vector_norm(slopes, torch.inf, dim=(1, 2), keepdim=True)
    ones = torch.ones_like(largest)
    if bool((largest > torch.finfo(slopes.dtype).tiny ** 0.125).all()):
        return slopes, ones
    scale = torch.where(largest > 0, largest, ones)
    return slopes / scale, scale
