"""How well does it hold?  model x threat x method x radius -> records; radius 0 is the clean model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_rawp.core.restoring import SEED
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.each_user import EachUser
from recbole_rawp.evaluation.universal import Global
from recbole_rawp.evaluation.users import Users
from recbole_rawp.host.ranking import candidates as ranking
from recbole_rawp.host.ranking.measurement import Measured, habits, measuring, ranked_users
from recbole_rawp.threats.adversarial import ATTACKS
from recbole_rawp.threats.adversarial.perturbation import Threat

Record = dict[str, Any]
SCHEMA = (
    *("model", "dataset", "defense", "stage", "seed", "split", "attack", "target", "granularity", "unit", "scope"),
    *("labels", "steps", "radius", "metric", "value"),
)
LOSS = "loss"  # the metric name of what the attack raises: on training batches, or on the users' candidates


@dataclass
class Cells:
    """What happened to each user in one scope, cell by cell; the first one is clean.

    Attributes:
        clean: the items recommended to each user without attack, [U, k].
    """

    clean: np.ndarray
    cells: list[Record] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    overlap: list[np.ndarray] = field(default_factory=list)

    def add(self, cell: Record, measured: Measured) -> None:
        """Add what was measured in one cell."""
        self.cells.append(cell)
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
            cells=self.cells,
            values=np.stack(self.values),
            overlap=np.stack(self.overlap),
            k=self.clean.shape[1],
        )


@dataclass
class Outcome:
    """What the attacks found.

    Attributes:
        model: the fields of `SCHEMA` that say what was attacked.
        records: with the fields `SCHEMA`, unrounded, for every threat, method, radius and metric.
        users: scope -> the same user by user; nothing for metrics that are no mean over users.
        notes: what was passed over, and which way attacks per user went.
        still: threats that nothing moves, for the loss has no gradient.
        unmoved: weights whose change does not reach the scores (`Global.unmoved`); None if nothing was ranked.
    """

    model: Record
    records: list[Record] = field(default_factory=list)
    users: dict[str, Users] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    unmoved: list[str] | None = None
    _cells: dict[str, Cells] = field(default_factory=dict)

    def add(self, threat: Threat, method: str, radius: float, measured: Measured, loss: float) -> None:
        """Add what was measured at one radius."""
        target = threat.target if isinstance(threat.target, str) else ",".join(threat.target)
        cell = self.model | {
            "attack": method,
            "target": target,
            "granularity": threat.granularity,
            "unit": threat.unit,
            "scope": threat.scope,
            "labels": threat.labels,
            "steps": max(1, ATTACKS[method].steps(threat.steps)),
            "radius": radius,
        }
        split = "train" if threat.scope == "global" else cell["split"]
        rows = [{"metric": m, "value": v} for m, v in measured.metrics.items()]
        rows.append({"metric": LOSS, "value": loss, "split": split})
        self.records += [{name: (cell | row)[name] for name in SCHEMA} for row in rows]
        if measured.users and measured.top is not None:
            self._cells.setdefault(threat.scope, Cells(measured.top)).add(cell, measured)

    def gather(self, train_data: Any, sides: Mapping[str, Global | EachUser]) -> None:
        """Put what was measured in each scope together, user by user."""
        for scope, cells in self._cells.items():
            self.users[scope] = cells.users(train_data, sides[scope].eval_data)
        self._cells.clear()


def overlap(clean: np.ndarray, attacked: Any) -> np.ndarray:
    """Return the share of each user's clean list that is still in the attacked one, [U], for lists [U, k]."""
    return (attacked[:, :, None] == clean[:, None, :]).any(axis=1).mean(axis=1)


def under_attack(
    trainer: Any,
    train_data: Any,
    eval_data: Any,
    *,
    threats: tuple[Threat, ...],
    batches: int,
    defense: str,
    negatives: int = 99,
    candidates: ranking.Candidates | None = None,
    split: str = "test",
    stage: int = 1,
    show_progress: bool = False,
) -> Outcome:
    """Measure RecBole's metrics while the model is attacked, and the loss that the attack raises.

    A global attack moves the weights (or activations) once, along the gradient of the model's own training loss, summed
    over fixed training batches in evaluation mode. An attack per user moves them for each user, along the cross entropy
    on the user's candidates (`per_user`). Nothing is left behind: weights are bit-equal, caches clear and generators
    where they were.

    Args:
        trainer: any RecBole Trainer holding the model to be measured.
        train_data: the loader whose loss is attacked.
        eval_data: the loader that is ranked; None measures the loss alone.
        threats: what is tried, see `suites.Threat`.
        batches: how many training batches a global attack uses.
        defense: for the records.
        negatives: candidates per positive that attacks per user draw where `eval_data` ranks all items.
        candidates: of `eval_data` if it samples, and of attacks per user; None draws them, the same on every call.
        split, stage: for the records.
        show_progress: whether to show a bar over attacks and radii.

    Raises:
        InputError: if the model has nothing that a threat could move, unless the threat is optional.
    """
    own = {key: trainer.config[key] for key in ("model", "dataset", "seed")}
    outcome = Outcome({**own, "defense": defense, "stage": stage, "split": split})
    if candidates is None and ranking.samples(eval_data):
        candidates = ranking.draw(eval_data, SEED)
    with measuring(trainer, train_data, eval_data), progress(threats, show_progress) as bar:
        everyone = Global(trainer, train_data, eval_data, batches, candidates)
        each = EachUser(trainer, eval_data, negatives, candidates)
        for threat in threats:
            bar.set_description(f"Attack {threat.scope}")
            try:
                side = everyone if threat.scope == "global" else each
                for cell in side.curves(threat, bar.update):
                    outcome.add(threat, *cell)
            except InputError as error:
                if not threat.optional:
                    raise
                outcome.notes.append(f"Passed over: {error}")
                bar.total -= cells(threat)
        outcome.still = everyone.still
        if eval_data:
            outcome.unmoved = everyone.unmoved()
            outcome.gather(train_data, {"global": everyone, "per_user": each})
        outcome.notes += everyone.notes + each.notes
    return outcome


def progress(threats: tuple[Threat, ...], shown: bool) -> tqdm:
    """Return the bar over methods and radii, with the time that is left."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
    return tqdm(total=sum(map(cells, threats)), bar_format=form, ncols=100, disable=not shown)


def cells(threat: Threat) -> int:
    """Return how many attacked points a threat has."""
    return len(threat.methods) * (len(threat.radii) - 1)
