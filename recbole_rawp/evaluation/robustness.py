"""Measures a model under threats: model x threat x variant x level -> records; level 0 is the clean model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_rawp.config.settings import Attack
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.restoring import SEED
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.draws import drawn
from recbole_rawp.evaluation.each_user import EachUser
from recbole_rawp.evaluation.records import LOSS, Condition, Record, Subject
from recbole_rawp.evaluation.universal import Universal
from recbole_rawp.evaluation.users import Users
from recbole_rawp.host.preparation import Data
from recbole_rawp.host.ranking import candidates as ranking
from recbole_rawp.host.ranking.habits import habits, ranked_users
from recbole_rawp.host.ranking.measurement import Measured, Measurement, measuring
from recbole_rawp.threats.setting import PER_USER, RANKING, TRAINING, UNIVERSAL
from recbole_rawp.threats.threat import Threat


@dataclass
class UsersSoFar:
    """What happened to each user in one scope, condition by condition; the first one is clean.

    Attributes:
        clean: the items recommended to each user without attack, [U, k].
    """

    clean: np.ndarray
    conditions: list[Condition] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    overlap: list[np.ndarray] = field(default_factory=list)

    def add(self, condition: Condition, measured: Measured) -> None:
        """Add what was measured under one condition."""
        self.conditions.append(condition)
        self.metrics = list(measured.users)
        self.values.append(np.stack(list(measured.users.values())).astype(np.float32))
        self.overlap.append(overlap(self.clean, measured.top).astype(np.float32))

    def users(self, train_data: Any, eval_data: Any) -> Users:
        """Return all of it, user by user."""
        activity, popularity = habits(train_data, eval_data)
        return Users(
            user=ranked_users(eval_data).astype(np.int64),
            activity=activity,
            popularity=popularity,
            metrics=self.metrics,
            conditions=self.conditions,
            values=np.stack(self.values),
            overlap=np.stack(self.overlap),
            k=self.clean.shape[1],
        )


@dataclass
class Outcome:
    """What the threats did to one model.

    Attributes:
        subject: what was measured.
        records: for every threat, variant, level and metric.
        users: scope -> the same user by user; nothing for metrics that are no mean over users.
        notes: what was passed over, and which way attacks per user went.
        still: threats that nothing moves, for the loss has no gradient.
        unsettled: (threat, loss, variant, level) of searches that ended far below their best.
        unmoved: weights whose change does not reach the scores (`Universal.unmoved`); None if nothing was ranked.
        popularity: what popularity alone scores, metric by metric; empty if nothing was ranked.
        ties: share of clean scores that tie with one to be found; None if no ranking was attacked.
        splits: name of a loss -> the split that a universal attack climbs it on.
    """

    subject: Subject
    records: list[Record] = field(default_factory=list)
    users: dict[str, Users] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    unsettled: set[tuple[str, str, str, float]] = field(default_factory=set)
    unmoved: list[str] | None = None
    popularity: dict[str, float] = field(default_factory=dict)
    ties: float | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {TRAINING: "train", RANKING: "valid"})
    _users: dict[str, UsersSoFar] = field(default_factory=dict)

    def add(self, threat: Threat, found: Measurement) -> None:
        """Add what was measured of one variant at one level."""
        own = asdict(self.subject) | vars(threat.setting)
        own |= {"threat": found.variant, "loss": found.climbs, "steps": threat.steps(found.variant)}
        condition, measured = Condition(**own, level=found.level), found.measured
        whole = vars(condition)
        self.records += [Record(**whole, metric=name, value=value) for name, value in measured.metrics.items()]
        for name, value in found.losses.items():
            of = {"loss": name, "split": self.splits[name] if threat.scope == UNIVERSAL else condition.split}
            self.records.append(Record(**whole | of, metric=LOSS, value=value))
        if not found.settled:
            self.unsettled.add((threat.name, found.climbs, found.variant, found.level))
        if measured.users and measured.top is not None:
            self._users.setdefault(threat.scope, UsersSoFar(measured.top)).add(condition, measured)

    def gather(self, train_data: Any, sides: Mapping[str, Universal | EachUser]) -> None:
        """Put what was measured in each scope together, user by user."""
        for scope, found in self._users.items():
            self.users[scope] = found.users(train_data, sides[scope].eval_data)
        self._users.clear()


def overlap(clean: np.ndarray, attacked: Any) -> np.ndarray:
    """Return the share of each user's clean list that is still in the attacked one, [U], for lists [U, k]."""
    return (attacked[:, :, None] == clean[:, None, :]).any(axis=1).mean(axis=1)


def under_attack(
    trainer: Any,
    data: Data,
    attack: Attack,
    *,
    defense: str,
    candidates: ranking.Candidates | None = None,
    twins: Mapping[str, Weights] | None = None,
    split: str = "test",
    stage: int = 1,
) -> Outcome:
    """Measure RecBole's metrics while the model is under threats, and the losses that attacks raise.

    A universal attack moves the weights (or activations) once, along the gradient of a loss in evaluation mode: the
    model's own on training batches, or the smooth metric on valid data. An attack per user moves them for each user,
    along a loss of the user's candidates. Nothing is left behind: weights are bit-equal, caches clear and generators
    where they were.

    Args:
        trainer: any RecBole Trainer holding the model to be measured.
        data: RecBole's loaders. `test` is ranked, None measures losses alone; without `valid` the ranking loss takes
            the training positives.
        attack: the threats, how many batches and users their losses look at, and how many candidates per positive
            attacks per user draw where `test` ranks all items.
        defense: for the records.
        candidates: of `test` if it samples, and of attacks per user; None draws them, the same on every call.
        twins: name -> every weight of a model of the same shapes, from which attacks are carried over.
        split, stage: for the records.

    Raises:
        InputError: if the model has nothing that a threat could move, unless the threat is optional.
    """
    own = {key: trainer.config[key] for key in ("model", "dataset", "seed")}
    outcome = Outcome(Subject(**own, defense=defense, stage=stage, split=split))
    outcome.splits = {TRAINING: "train", RANKING: "valid" if data.valid else "train"}
    if candidates is None and ranking.samples(data.test):
        candidates = ranking.draw(data.test, SEED)
    shown = bool(trainer.config["show_progress"])
    with measuring(trainer, *data), progress(attack.threats, shown) as bar:
        everyone = Universal(trainer, data, attack, candidates, twins)
        each = EachUser(trainer, data.test, attack.negatives, candidates)
        for threat in attack.threats:
            bar.set_description(f"Attack {threat.scope}")
            measure(threat, everyone if threat.scope == UNIVERSAL else each, outcome, bar)
        outcome.still = everyone.context.still
        if data.test:
            outcome.unmoved, outcome.popularity = everyone.unmoved(), everyone.by_popularity()
            outcome.ties = everyone.ties()
            outcome.gather(data.train, {UNIVERSAL: everyone, PER_USER: each})
        outcome.notes += everyone.context.notes + each.notes
    return outcome


def measure(threat: Threat, side: Universal | EachUser, outcome: Outcome, bar: tqdm) -> None:
    """Add what is measured under a threat; note it where an optional one finds nothing to move."""
    try:
        found = side.measurements(threat, bar.update)
        for one in drawn(found, threat, side.trainer, outcome.notes) if threat.draws > 1 else found:
            outcome.add(threat, one)
    except InputError as error:
        if not threat.optional:
            raise
        outcome.notes.append(f"Passed over: {error}")
        bar.total -= points(threat)


def progress(threats: tuple[Threat, ...], shown: bool) -> tqdm:
    """Return the bar over variants and levels, with the time that is left."""
    form = "{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
    return tqdm(total=sum(map(points, threats)), bar_format=form, ncols=100, disable=not shown)


def points(threat: Threat) -> int:
    """Return how many attacked points a threat has."""
    return sum(len(threat.climbed(variant)) for variant in threat.variants) * (len(threat.levels) - 1) * threat.draws
