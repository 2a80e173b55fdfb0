"""Attacks one batch of users by each method at each radius, within bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_rawp.core.ball import Weights, around
from recbole_rawp.core.overlay import overlay
from recbole_rawp.threats.adversarial.method import METHODS, Method, Objective
from recbole_rawp.threats.adversarial.per_user.engine import PerUser, UserBatch

Key = tuple[str, float]  # method, radius
Engines = Callable[[UserBatch], PerUser]
CLEAN: Key = ("", 0.0)
WRITTEN = 2**28  # bytes of one written-out delta; an attack holds a handful of that size at once


@dataclass(frozen=True)
class Attacks:
    """What is tried on each user.

    Attributes:
        keys: method and radius of each attack.
        granularity: of the balls, `row` or `sign`.
        relative: whether radii are shares of each group's norm.
        steps: of methods that iterate.
        restarts: of methods that start at random.
    """

    keys: list[Key]
    granularity: str
    relative: bool
    steps: int
    restarts: int


def attacked(
    users: UserBatch, engine_of: Engines, attacks: Attacks, seed: int, rows: int | None = None
) -> Iterator[tuple[Key, Tensor, Tensor]]:
    """Yield the candidates' logits [U, n] and the users' losses [U], without attack, then for each method and radius.

    An attack of one step along the gradient is never written out. Noise on weights is drawn once for all the users: for
    each of them it is distributed as their own would be. Any other attack needs a delta for each user, see `written`.

    Args:
        users: the attack.
        engine_of: some of its users -> engine.
        attacks: methods, radii and balls.
        seed: of noise and random starts.
        rows: how many candidates go through one pass of the former two, if a user has fewer; None: all.
    """
    keys = attacks.keys
    one_step = [key for key in keys if METHODS[key[0]].linear]
    noise = [key for key in keys if METHODS[key[0]].blind and users.weights]
    drawn = {key: drawn_once(users, *key, attacks, seed, rows) for key in noise}
    found: dict[Key, list[tuple[Tensor, Tensor]]] = {}
    for number, group in enumerate(grouped(users, rows)):
        engine = engine_of(group)
        answers = {CLEAN: engine.logits(None)} | {key: along(engine, key[1], attacks) for key in one_step}
        for key, logits in (answers | {key: drawn[key][number] for key in noise}).items():
            found.setdefault(key, []).append((logits, engine.loss(logits)))
    others = [key for key in keys if key not in found]
    if others:
        whole = engine if group is users else engine_of(users)
        found |= written(users, whole, engine_of, others, attacks, seed)
    for key, pairs in found.items():
        yield key, torch.cat([logits for logits, _ in pairs]), torch.cat([losses for _, losses in pairs])


def grouped(users: UserBatch, rows: int | None) -> Iterator[UserBatch]:
    """Yield the users in equal groups of about so many candidates, at least one user; themselves if all may go."""
    at_once = users.users if rows is None else max(1, rows // users.mask.shape[1])
    if at_once >= users.users:
        yield users
        return
    for numbers in torch.arange(users.users, device=users.mask.device).chunk(math.ceil(users.users / at_once)):
        yield users.subset(numbers)


def written(
    users: UserBatch, whole: PerUser, engine_of: Engines, keys: list[Key], attacks: Attacks, seed: int
) -> dict[Key, list[tuple[Tensor, Tensor]]]:
    """Return method and radius -> logits and losses of parts of the users, by attacks with a delta for each user.

    They go by as many users at a time as `WRITTEN` allows; each part draws from `seed`, whatever was tried before it.
    """
    found: dict[Key, list[tuple[Tensor, Tensor]]] = {key: [] for key in keys}
    for number, part in enumerate(parts(users, whole)):
        engine = whole if part is users else engine_of(part)
        for method, radius in keys:
            generator = torch.Generator().manual_seed(seed + number)
            logits = worst_logits(METHODS[method], engine, radius, attacks, generator)
            found[(method, radius)].append((logits, engine.loss(logits)))
    return found


def parts(users: UserBatch, whole: PerUser) -> Iterator[UserBatch]:
    """Yield the users, as many at a time as keeps a written-out delta below `WRITTEN`; themselves if all may go."""
    each = sum(math.prod(zeros.shape[1:]) * zeros.element_size() for zeros in whole.weights.values())
    count = max(1, WRITTEN // max(1, each))
    if count >= users.users:
        yield users
        return
    for numbers in torch.arange(users.users, device=users.mask.device).split(count):
        yield users.subset(numbers)


def along(engine: PerUser, radius: float, attacks: Attacks) -> Tensor:
    """Return the logits [U, n] after one step along the gradient."""
    return engine.logits(
        engine.steepest(engine.ball(radius, granularity=attacks.granularity, relative=attacks.relative))
    )


def drawn_once(
    users: UserBatch, method: str, radius: float, attacks: Attacks, seed: int, rows: int | None
) -> list[Tensor]:
    """Return the groups' logits where one delta, which looks at no gradient, moves the weights for all users."""
    ball = around(users.weights, radius, granularity=attacks.granularity, relative=attacks.relative)
    shapes = {name: weight.detach() for name, weight in users.weights.items()}
    delta = METHODS[method].start(shapes, ball, torch.Generator().manual_seed(seed))
    assert delta is not None
    with torch.no_grad(), overlay(users.model, {name: shapes[name] + delta[name] for name in shapes}):
        return [group.logits() for group in grouped(users, rows)]


def worst_logits(
    method: Method, engine: PerUser, radius: float, attacks: Attacks, generator: torch.Generator
) -> Tensor:
    """Return the logits [U, n] under attack; of several starts each user's with the highest loss, NaN last."""
    ball = engine.ball(radius, granularity=attacks.granularity, relative=attacks.relative)
    objective = of_users(engine)
    best: Tensor | None = None
    for number in range(attacks.restarts if method.restarts else 1):
        found = method.search(objective, ball, steps=attacks.steps, generator=generator, anew=number > 0)
        logits = engine.logits(found.delta)
        if best is None:
            best = logits
        else:
            new, old = engine.loss(logits), engine.loss(best)
            best = torch.where(((new > old) | (old.isnan() & ~new.isnan())).unsqueeze(1), logits, best)
    assert best is not None
    return best


def of_users(engine: PerUser) -> Objective:
    """Return the users' losses as what a method climbs."""

    def climb(delta: Weights | None) -> tuple[Tensor, Weights]:
        """Return the losses [U] and their gradients."""
        gradient = engine.gradient(delta)
        return engine.loss(engine.logits(delta)), gradient

    return Objective(engine.weights, lambda delta: engine.loss(engine.logits(delta)), climb)
