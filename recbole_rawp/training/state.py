"""Holds what a training knows beyond RecBole's Trainer: one dataclass, captured and resumed as a whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from recbole_rawp.core.ascent import AdamMoments, Memory
from recbole_rawp.core.ball import Weights
from recbole_rawp.training.plain_values import moved, plain
from recbole_rawp.training.radius.rule import RadiusSearch, Validation
from recbole_rawp.training.stage2.criticality import ModuleCriticality
from recbole_rawp.training.stage2.interpolation import Mixture
from recbole_rawp.training.stage2.progress import Progress
from recbole_rawp.training.stage2.tuning import TunedEpoch

RECORDS: dict[str, Any] = {  # field -> what it holds, or a list of
    "memory": Memory,
    "adam": AdamMoments,
    "search": RadiusSearch,
    "path": Validation,
    "progress": Progress,
    "ranking": ModuleCriticality,
    "epochs": TunedEpoch,
    "sweep": Mixture,
}
ON_DEVICE = ("memory", "progress")  # the others hold what generators and `load_state_dict` take from the CPU
UNSAVED = ("since",)


@dataclass
class TrainingState:
    """What one training knows: tensors, numbers and strings, so that a killed run goes on from it.

    Attributes:
        masks: draws masks and radii of stage 1.
        plain_until: the first epoch whose model is hardened: after the warm-up, a plain checkpoint that was resumed,
            and empty masks at the start.
        stage: 1 trains, 2 repairs, 3 is done.
        epoch_begun: the last epoch that began.
        hardened: whether some batch that the model learned from had a perturbation.
        perturbed: batches of the last pass that had a perturbation; None if it was to be plain.
        omega: layer weights as measured by criticality.
        memory: of the ascent; None before the first hardened epoch.
        valid_result: RecBole's, of the last validation.
        best_weights: those of the best model, where no file holds them and something needs them.
        search: for the radius, where `rawp_radius` is auto.
        progress: of stage 2.
        seconds: spent on stage 1, over all of its runs.
        since: when the clock was started, or `seconds` counted last.
    """

    masks: torch.Generator
    plain_until: int
    stage: int = 1
    epoch_begun: int | None = None
    hardened: bool = False
    perturbed: int | None = None
    omega: dict[str, float] | None = None
    memory: Memory | None = None
    valid_result: dict[str, float] = field(default_factory=dict)
    best_weights: Weights | None = None
    search: RadiusSearch | None = None
    progress: Progress | None = None
    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def begin_again(self) -> None:
        """Let a training that is done be followed by another one, of the same model."""
        self.stage, self.search, self.progress, self.epoch_begun = 1, None, None, None

    def start_clock(self) -> None:
        """Let the time from now on count."""
        self.since = time.perf_counter()

    def count_seconds(self) -> None:
        """Add the time since the clock was started, or this was called last."""
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def captured(self) -> dict[str, Any]:
        """Return what `restore` takes; its tensors are not copied."""
        return {name: value for name, value in plain(self).items() if name not in UNSAVED}

    def restore(self, captured: Mapping[str, Any], device: torch.device) -> None:
        """Become the state that was captured."""
        for name, value in captured.items():
            if name == "masks":
                self.masks.set_state(value)
            else:
                setattr(self, name, revived(name, moved(value, device) if name in ON_DEVICE else value))


def revived(name: str, value: Any) -> Any:
    """Return the value of a field as it was before `plain` made dictionaries of dataclasses.

    Raises:
        TypeError: if a record has other fields: it was written by another version.
    """
    kind = RECORDS.get(name)
    if kind is None or not value:
        return value
    if isinstance(value, list):
        return [revived(name, entry) for entry in value]
    return kind(**{field: revived(field, entry) for field, entry in value.items()})
