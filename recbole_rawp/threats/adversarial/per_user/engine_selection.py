"""Selects the fastest engine that gives each user the slow way's attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recbole_rawp.threats.adversarial.per_user.copies import OneByOne, Vectorized, itself, pick
from recbole_rawp.threats.adversarial.per_user.engine import PerUser, UserBatch
from recbole_rawp.threats.adversarial.per_user.hooked import Hooked

RADIUS = 0.01  # of the one-step attack by which the engines are compared
TOLERANCE = 1e-3  # of the gradient norms and of the logits' shift at that radius, relative to their largest

CACHE = 2**23  # numbers that the attacked layers read and give in a pass: a CPU slows down where they leave its cache


@dataclass(frozen=True)
class SelectedEngine:
    """An engine, and how it is used.

    Attributes:
        name: `hooked`, `vmap` or `loop`.
        make: batch -> engine, for this and later batches of the same model and weights.
        reason: why not a faster one; empty if it is the fastest.
        rows: how many candidates go through a pass together; None: all of a batch.
    """

    name: str
    make: Callable[[UserBatch], PerUser]
    reason: str = ""
    rows: int | None = None


def select_engine(
    batch: UserBatch, *, rows: Callable[[Any, Tensor], Any] = pick, rebuild: Callable[[Any], Any] = itself
) -> SelectedEngine:
    """Return the fastest engine that agrees with `OneByOne` on the first two users.

    Args:
        batch: the attack; at least one user.
        rows, rebuild: how `Vectorized` takes the batch apart.
    """
    # A single user counts twice: with one, no order of rows would be wrong.
    few = batch.subset(torch.arange(2, device=batch.mask.device) % batch.users)
    # Labels 0, 1, 0, .. of its own: where the model is sure, others might leave no gradient to compare.
    few = replace(few, labels=torch.arange(few.mask.shape[1], device=few.mask.device).expand_as(few.mask) % 2)
    slow = OneByOne(few)
    engines: dict[str, Callable[[UserBatch], PerUser]] = {
        "hooked": Hooked,
        "vmap": partial(Vectorized, rows=rows, rebuild=rebuild),
    }
    reasons: list[str] = []
    for name, make in engines.items():
        try:
            engine = make(few)
            flaw = disagreement(engine, slow)
        except Exception as error:  # whatever a model makes of replaced forwards or of vmap
            flaw = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if not flaw:
            return SelectedEngine(name, make, "; ".join(reasons), in_cache(engine))
        reasons.append(f"{name}: {flaw}")
    return SelectedEngine("loop", OneByOne, "; ".join(reasons))


def in_cache(engine: PerUser) -> int | None:
    """Return with how many candidates a pass stays below `CACHE`; None off the CPU, and where users go in chunks."""
    if not isinstance(engine, Hooked) or not engine.batch.mask.is_cpu:
        return None
    return max(1, CACHE // engine.traffic)


def disagreement(engine: PerUser, slow: PerUser) -> str:
    """Return in what `engine` differs from `slow`: a gradient's norm or the logits' shift; empty if it agrees."""
    fast_gradient, slow_gradient = engine.gradient(None), slow.gradient(None)
    for name, expected in slow_gradient.items():
        want, got = expected.flatten(1).norm(dim=1), fast_gradient[name].flatten(1).norm(dim=1)
        if not apart(got, want):
            continue
        return f"the gradient of {name} has norms {got.tolist()}, one by one {want.tolist()}"
    moved = [e.logits(e.steepest(e.ball(RADIUS))) for e in (engine, slow)]
    clean = slow.logits(None)
    rounding = 100 * torch.finfo(clean.dtype).eps * float(clean.abs().max())
    if apart(moved[0] - clean, moved[1] - clean, rounding):
        return f"the logits at radius {RADIUS} differ by up to {float((moved[0] - moved[1]).abs().max()):.3g}"
    return ""


def apart(got: Tensor, want: Tensor, rounding: float = 0.0) -> bool:
    """Tell whether two tensors differ by more than TOLERANCE * max |want| + rounding anywhere, or are not finite."""
    return not bool(((got - want).abs() <= TOLERANCE * want.abs().max() + rounding).all())
