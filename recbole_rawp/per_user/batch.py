"""How is one batch of users attacked?  Each method at each radius, within bounded memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recbole_rawp.attacks import ATTACKS, Attack, run
from recbole_rawp.ball import around
from recbole_rawp.overlay import overlay
from recbole_rawp.per_user.engine import PerUser, UserBatch
from recbole_rawp.suites import Threat

Key = tuple[str, float]  # method, radius
Engines = Callable[[UserBatch], PerUser]
CLEAN: Key = ("", 0.0)
WRITTEN = 2**28  # bytes of one written-out delta; an attack holds a handful of that size at once


def attacks_of(threat: Threat) -> list[Key]:
    """Return the methods and radii that a threat tries."""
    return [(method, radius) for method in threat.methods for radius in threat.radii[1:]]


def attacked(
    users: UserBatch, engine_of: Engines, threat: Threat, seed: int, at_once: int | None = None
) -> Iterator[tuple[Key, Tensor, Tensor]]:
    """Yield the candidates' logits [U, n] and the users' losses [U], without attack, then for each method and radius.

    An attack of one step along the gradient is never written out. Noise on weights is drawn once for all the users: for
    each of them it is distributed as their own would be. Any other attack needs a delta for each user, and goes by as
    many users at a time as `WRITTEN` allows. Each draws from `seed`, whatever was tried before it.

    Args:
        users: the attack.
        engine_of: some of its users -> engine.
        threat: methods, radii and balls.
        seed: of noise and random starts.
        at_once: how many users go through a pass together; None: all.
    """
    keys, draws = attacks_of(threat), itertools.count(seed)
    groups = list(grouped(users, at_once))
    noise = {key: drawn_once(users, groups, *key, threat, seed) for key in keys if blind(key) and users.weights}
    found: dict[Key, list[tuple[Tensor, Tensor]]] = {}
    for number, group in enumerate(groups):
        engine = engine_of(group)
        logits = {CLEAN: engine.logits(None)}
        logits |= {key: along(engine, key[1], threat) for key in keys if ATTACKS[key[0]].linear}
        logits |= {key: drawn[number] for key, drawn in noise.items()}
        logits |= written(group, engine, engine_of, [key for key in keys if key not in logits], threat, draws)
        for key, each in logits.items():
            found.setdefault(key, []).append((each, engine.loss(each)))
    for key, pairs in found.items():
        yield key, torch.cat([each for each, _ in pairs]), torch.cat([losses for _, losses in pairs])


def blind(key: Key) -> bool:
    """Tell whether a method looks at no gradient."""
    return ATTACKS[key[0]].blind


def grouped(users: UserBatch, at_once: int | None) -> Iterator[UserBatch]:
    """Yield the users, so many at a time; themselves if all may go."""
    if at_once is None or at_once >= users.users:
        yield users
        return
    for numbers in torch.arange(users.users, device=users.mask.device).split(at_once):
        yield users.subset(numbers)


def written(
    users: UserBatch, whole: PerUser, engine_of: Engines, keys: list[Key], threat: Threat, draws: Iterator[int]
) -> dict[Key, Tensor]:
    """Return method and radius -> logits [U, n], by attacks with a delta for each user."""
    found: dict[Key, list[Tensor]] = {key: [] for key in keys}
    for part in grouped(users, affordable(whole)) if keys else ():
        engine, seed = whole if part is users else engine_of(part), next(draws)
        for method, radius in keys:
            generator = torch.Generator().manual_seed(seed)
            found[(method, radius)].append(strongest(ATTACKS[method], engine, radius, threat, generator))
    return {key: torch.cat(pieces) for key, pieces in found.items()}


def affordable(engine: PerUser) -> int:
    """Return of how many users, at least one, a written-out delta stays below `WRITTEN`."""
    each = sum(math.prod(zeros.shape[1:]) * zeros.element_size() for zeros in engine.weights.values())
    return max(1, WRITTEN // max(1, each))


def along(engine: PerUser, radius: float, threat: Threat) -> Tensor:
    """Return the logits [U, n] after one step along the gradient."""
    return engine.logits(
        engine.steepest(engine.ball(radius, granularity=threat.granularity, relative=threat.unit == "relative"))
    )


def drawn_once(
    users: UserBatch, groups: list[UserBatch], method: str, radius: float, threat: Threat, seed: int
) -> list[Tensor]:
    """Return the logits of each group where one delta, which looks at no gradient, moves the weights for all users."""
    ball = around(users.weights, radius, granularity=threat.granularity, relative=threat.unit == "relative")
    shapes = {name: weight.detach() for name, weight in users.weights.items()}
    delta = ATTACKS[method].start(shapes, ball, torch.Generator().manual_seed(seed))
    assert delta is not None
    with torch.no_grad(), overlay(users.model, {name: shapes[name] + delta[name] for name in shapes}):
        return [group.logits() for group in groups]


def strongest(attack: Attack, engine: PerUser, radius: float, threat: Threat, generator: torch.Generator) -> Tensor:
    """Return the logits [U, n] under attack; of several random starts each user's with the highest loss."""
    ball = engine.ball(radius, granularity=threat.granularity, relative=threat.unit == "relative")
    best: Tensor | None = None
    for _ in range(threat.restarts if attack.restarts else 1):
        delta = run(attack, engine.gradient, engine.weights, ball, steps=threat.steps, generator=generator)
        logits = engine.logits(delta)
        if best is None:
            best = logits
        else:
            best = torch.where((engine.loss(logits) > engine.loss(best)).unsqueeze(1), logits, best)
    assert best is not None
    return best
