"""How is one batch of users attacked?  Each method at each radius, within bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recbole_rawp.core.ball import around
from recbole_rawp.core.overlay import overlay
from recbole_rawp.threats.adversarial import ATTACKS, Attack, run
from recbole_rawp.threats.adversarial.per_user.engine import PerUser, UserBatch
from recbole_rawp.threats.adversarial.perturbation import Threat

Key = tuple[str, float]  # method, radius
Engines = Callable[[UserBatch], PerUser]
CLEAN: Key = ("", 0.0)
WRITTEN = 2**28  # bytes of one written-out delta; an attack holds a handful of that size at once


def attacks_of(threat: Threat) -> list[Key]:
    """Return the methods and radii that a threat tries."""
    return [(method, radius) for method in threat.methods for radius in threat.radii[1:]]


def attacked(
    users: UserBatch, engine_of: Engines, threat: Threat, seed: int, rows: int | None = None
) -> Iterator[tuple[Key, Tensor, Tensor]]:
    """Yield the candidates' logits [U, n] and the users' losses [U], without attack, then for each method and radius.

    An attack of one step along the gradient is never written out. Noise on weights is drawn once for all the users: for
    each of them it is distributed as their own would be. Any other attack needs a delta for each user, see `written`.

    Args:
        users: the attack.
        engine_of: some of its users -> engine.
        threat: methods, radii and balls.
        seed: of noise and random starts.
        rows: how many candidates go through one pass of the former two, if a user has fewer; None: all.
    """
    keys = attacks_of(threat)
    one_step = [key for key in keys if ATTACKS[key[0]].linear]
    noise = [key for key in keys if ATTACKS[key[0]].blind and users.weights]
    drawn = {key: drawn_once(users, *key, threat, seed, rows) for key in noise}
    found: dict[Key, list[tuple[Tensor, Tensor]]] = {}
    for number, group in enumerate(grouped(users, rows)):
        engine = engine_of(group)
        answers = {CLEAN: engine.logits(None)} | {key: along(engine, key[1], threat) for key in one_step}
        for key, logits in (answers | {key: drawn[key][number] for key in noise}).items():
            found.setdefault(key, []).append((logits, engine.loss(logits)))
    others = [key for key in keys if key not in found]
    if others:
        whole = engine if group is users else engine_of(users)
        found |= written(users, whole, engine_of, others, threat, seed)
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
    users: UserBatch, whole: PerUser, engine_of: Engines, keys: list[Key], threat: Threat, seed: int
) -> dict[Key, list[tuple[Tensor, Tensor]]]:
    """Return method and radius -> logits and losses of parts of the users, by attacks with a delta for each user.

    They go by as many users at a time as `WRITTEN` allows; each part draws from `seed`, whatever was tried before it.
    """
    found: dict[Key, list[tuple[Tensor, Tensor]]] = {key: [] for key in keys}
    for number, part in enumerate(parts(users, whole)):
        engine = whole if part is users else engine_of(part)
        for method, radius in keys:
            generator = torch.Generator().manual_seed(seed + number)
            logits = strongest(ATTACKS[method], engine, radius, threat, generator)
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


def along(engine: PerUser, radius: float, threat: Threat) -> Tensor:
    """Return the logits [U, n] after one step along the gradient."""
    return engine.logits(
        engine.steepest(engine.ball(radius, granularity=threat.granularity, relative=threat.unit == "relative"))
    )


def drawn_once(
    users: UserBatch, method: str, radius: float, threat: Threat, seed: int, rows: int | None
) -> list[Tensor]:
    """Return the groups' logits where one delta, which looks at no gradient, moves the weights for all users."""
    ball = around(users.weights, radius, granularity=threat.granularity, relative=threat.unit == "relative")
    shapes = {name: weight.detach() for name, weight in users.weights.items()}
    delta = ATTACKS[method].start(shapes, ball, torch.Generator().manual_seed(seed))
    assert delta is not None
    with torch.no_grad(), overlay(users.model, {name: shapes[name] + delta[name] for name in shapes}):
        return [group.logits() for group in grouped(users, rows)]


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
