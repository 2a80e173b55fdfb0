"""Reads our options from any RecBole Config into frozen settings: once per config, which a job passes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from recbole_rawp.config.checks import check_names, check_values
from recbole_rawp.config.command_line import ALIASES
from recbole_rawp.config.properties import defaults, name_of
from recbole_rawp.config.schema import AUTO, OPTIONS, PREFIXES, START
from recbole_rawp.config.suites import check_listed, threats
from recbole_rawp.core.objective import Change, Recipe
from recbole_rawp.core.selection import among_weights
from recbole_rawp.errors import InputError
from recbole_rawp.threats.replacement import trainable
from recbole_rawp.threats.threat import Threat

if TYPE_CHECKING:
    from recbole.config import Config

# What a suite takes from the options whatever it is: not how it attacks.
OF_THE_DATA = ("attack_batches", "attack_users", "attack_negatives", "attack_candidates", "attack_checkpoint")


@dataclass(frozen=True)
class Criticality:
    """How a module's criticality is measured: the ball of its worst change, steps of ascent, training batches."""

    radius: float
    granularity: str
    steps: int
    batches: int


@dataclass(frozen=True)
class Training:
    """Stage 1 as set: which weights, in which epochs, the recipe of the loss, and where omega comes from.

    Attributes:
        clean_budget: where the radius is to be found, the share of the clean score it may cost; else None.
        keep_plain: whether the plain model is the result where no radius kept that budget.
        largest_radius: that may be found: a change as large as the weights, where it is a share of their norm.
    """

    defense: str
    target: str | Sequence[str]
    layer_weights: str | Mapping[str, float]
    warmup_epochs: int
    pretraining: bool
    recipe: Recipe
    criticality: Criticality
    criticality_every: int
    clean_budget: float | None
    keep_plain: bool
    largest_radius: float


@dataclass(frozen=True)
class FineTuning:
    """Stage 2 as set: what is repaired how often, with which loss and optimizer, and how the result is chosen.

    Attributes:
        recipe: of the loss in stage 2; its radius also bounds the attack of the robust valid metric.
        target: the weights among which modules are ranked.
        attack_users, attack_negatives: of the ranking loss that it chooses by, as `Attack` has them.
    """

    rounds: int
    modules: int
    epochs: int
    learner: str
    learning_rate: float
    momentum: float
    weight_decay: float
    clean_tolerance: float
    attack_steps: int
    target: str | Sequence[str]
    recipe: Recipe
    criticality: Criticality
    patience: int | None = None
    alphas: int = 10
    attack_users: int = 512
    attack_negatives: int = 99


@dataclass(frozen=True)
class Attack:
    """The evaluation under attack as set.

    Attributes:
        threats: what is tried.
        batches: training batches whose loss a universal attack follows.
        users: of the valid data, whose ranking a universal attack on the ranking loss looks at.
        negatives: candidates drawn where neither attacks per user nor the ranking loss have sampled ones to rank.
        candidates: a file of candidates to use; None draws them.
    """

    threats: tuple[Threat, ...]
    batches: int = 10
    users: int = 512
    negatives: int = 99
    candidates: str | None = None


@dataclass(frozen=True)
class Settings:
    """All of ours that a job or a trainer goes by, read once.

    Attributes:
        values: every option of ours, by name.
        training: of stage 1.
        fine_tuning: of stage 2.
    """

    values: Mapping[str, Any]
    training: Training
    fine_tuning: FineTuning

    @cached_property
    def attack(self) -> Attack:
        """Those of the evaluation under attack; the suite, which may be a file, is read when they are first asked for.

        Raises:
            InputError: if it cannot be read.
        """
        return attack_of(self.values)

    @property
    def attack_on_modules(self) -> Attack | None:
        """What each module is tried with by itself; None if with nothing.

        Raises:
            InputError: if the suite cannot be read.
        """
        suite = self.values["criticality_threats"]
        if not suite:
            return None
        own = {key: None for key in self.values if key.startswith("attack_") and key not in OF_THE_DATA}
        try:
            return attack_of({**self.values, **own, "attack": suite})
        except InputError as error:
            raise InputError(f"criticality_threats: {str(error).removeprefix('attack: ')}") from error

    @property
    def repairs_at(self) -> str:
        """The radius of a stage 2 that no search comes before, in words, where none is set; else empty."""
        if self.values["rawp_radius"] != AUTO or self.values["ft_radius"]:
            return ""
        return f"ft_radius: {self.fine_tuning.recipe.radius:g}, for rawp_radius=auto is found in stage 1 only."


def read(config: Config) -> Settings:
    """Return our settings: those that a RAWPConfig holds; what a plain Config lacks comes from the properties.

    Raises:
        InputError: for a misspelt option or a value out of range.
    """
    held = getattr(config, "settings", None)
    if isinstance(held, Settings):
        return held
    given = {ALIASES.get(key, key): value for key, value in config.final_config_dict.items()}
    check_names((key for key in given if key.startswith(PREFIXES)), config.internal_config_dict.keys() - OPTIONS.keys())
    return complete(given)


def complete(given: Mapping[str, Any]) -> Settings:
    """Return the settings where some options are given, and the rest is at its default.

    Raises:
        InputError: for a value out of range, or a defense that does not exist.
    """
    found = defaults(given.get("defense", OPTIONS["defense"].default), given.keys())
    return made(found | {key: given[key] for key in OPTIONS if key in given})


def made(values: Mapping[str, Any]) -> Settings:
    """Return the settings that all of our options' values say.

    Raises:
        InputError: for a value out of range.
    """
    check_values(values)
    check_listed(values["attack"])
    return Settings(values, _training(values), _fine_tuning(values))


def attack_of(values: Mapping[str, Any]) -> Attack:
    """Return the evaluation under attack that the values say."""
    names = ("batches", "users", "negatives", "candidates")
    return Attack(threats(values), **{name: values[f"attack_{name}"] for name in names})


def _training(v: Mapping[str, Any]) -> Training:
    return Training(
        name_of(v["defense"]),
        v["rawp_target"],
        v["rawp_layer_weights"],
        v["rawp_warmup_epochs"],
        v["rawp_pretraining"],
        _recipe(v),
        _criticality(v),
        v["criticality_every"],
        v["rawp_clean_budget"] if v["rawp_radius"] == AUTO else None,
        v["rawp_keep_plain"],
        1.0 if v["rawp_radius_unit"] == "relative" else math.inf,
    )


def _fine_tuning(v: Mapping[str, Any]) -> FineTuning:
    own = [field.name for field in fields(FineTuning) if f"ft_{field.name}" in v]
    return FineTuning(
        **{name: v[f"ft_{name}"] for name in own},
        target=among_weights(v["rawp_target"]),
        recipe=replace(
            _recipe(v),
            radius=v["ft_radius"] or _radius(v, unknown=OPTIONS["rawp_radius"].default),
            steps=v["ft_steps"] or v["rawp_steps"],
            start="weights",  # free would take none of these steps
            mask_probability=1.0,
            perturbs=True,
            change=None,
        ),
        criticality=_criticality(v),
        attack_users=v["attack_users"],
        attack_negatives=v["attack_negatives"],
    )


def _recipe(v: Mapping[str, Any]) -> Recipe:
    return Recipe(
        radius=_radius(v),
        radius_jitter=v["rawp_radius_jitter"],
        relative=v["rawp_radius_unit"] == "relative",
        granularity=v["rawp_granularity"],
        mask_probability=v["rawp_mask_probability"],
        mask_every=v["rawp_mask_every"],
        direction=v["rawp_direction"],
        steps=v["rawp_steps"],
        start=v["rawp_start"],
        ascent_fraction=v["rawp_ascent_fraction"],
        clean_weight=v["rawp_clean_weight"],
        adversarial_weight=v["rawp_adversarial_weight"],
        perturbs=v["rawp_perturbation"] != "none",
        change=_change(v),
        weight_clip=v["rawp_weight_clip"],
    )


def _change(v: Mapping[str, Any]) -> Change | None:
    """Return what takes the place of weights in training on a threat; None in training on a ball, or on nothing."""
    name, level = v["rawp_perturbation"], v["rawp_perturbation_level"]
    if name not in ("ball", "none"):
        return trainable(name, level)
    if level is not None:
        raise InputError(
            f"rawp_perturbation_level: {level!r}, but rawp_perturbation is {name!r}, which has none. Leave it out."
        )
    return None


def _radius(v: Mapping[str, Any], unknown: float = START) -> float:
    """Return the radius as set, or this one where it is to be found."""
    return unknown if v["rawp_radius"] == AUTO else v["rawp_radius"]


def _criticality(v: Mapping[str, Any]) -> Criticality:
    return Criticality(
        v["criticality_radius"], v["criticality_granularity"], v["criticality_steps"], v["attack_batches"]
    )
