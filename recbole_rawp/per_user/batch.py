"""How is one batch of users attacked?  Each method at each radius, within bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recbole_rawp.attacks import ATTACKS, Attack, run
from recbole_rawp.per_user.engine import PerUser, UserBatch
from recbole_rawp.suites import Threat

Key = tuple[str, float]  # method, radius
Engines = Callable[[UserBatch], PerUser]
CLEAN: Key = ("", 0.0)
WRITTEN = 2**28  # bytes of one written-out delta; an attack holds a handful of that size at once


def attacks_of(threat: Threat) -> list[Key]:
    """Return the methods and radii that a threat tries."""
    return [(method, radius) for method in threat.methods for radius in threat.radii[1:]]


def attacked(users: UserBatch, engine_of: Engines, threat: Threat, seed: int) -> Iterator[tuple[Key, Tensor, Tensor]]:
    """Yield the candidates' logits [U, n] and the users' losses [U], without attack, then for each method and radius.

    An attack of one step along the gradient is never written out. Any other needs a delta for each user, and goes by as
    many users at a time as `WRITTEN` allows. Each draws its noise from `seed`, whatever was tried before it.
    """
    whole = engine_of(users)
    found = {CLEAN: [whole.logits(None)]}
    keys = attacks_of(threat)
    found |= {key: [along(whole, key[1], threat)] for key in keys if ATTACKS[key[0]].linear}
    others = [key for key in keys if key not in found]
    for number, part in enumerate(parts(users, whole) if others else ()):
        engine = whole if part is users else engine_of(part)
        for method, radius in others:
            generator = torch.Generator().manual_seed(seed + number)
            logits = strongest(ATTACKS[method], engine, radius, threat, generator)
            found.setdefault((method, radius), []).append(logits)
    for key, pieces in found.items():
        logits = torch.cat(pieces)
        yield key, logits, whole.loss(logits)


def parts(users: UserBatch, whole: PerUser) -> Iterator[UserBatch]:
    """Yield the users, as many at a time as keeps a written-out delta below `WRITTEN`; themselves if all may go."""
    each = sum(math.prod(zeros.shape[1:]) * zeros.element_size() for zeros in whole.weights.values())
    count = max(1, WRITTEN // max(1, each))
    if count >= users.users:
        yield users
        return
    for numbers in torch.arange(users.users, device=users.mask.device).split(count):
        yield users.subset(numbers)


def along(engine: PerUser, radius: float, threat: Threat) -> Tensor:
    """Return the logits [U, n] after one step along the gradient."""
    return engine.logits(
        engine.steepest(engine.ball(radius, granularity=threat.granularity, relative=threat.unit == "relative"))
    )


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
