"""Looks, before the first run of a comparison trains, whether each can work and whether they compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole.utils.argument_list import dataset_arguments
from torch import nn

from recbole_rawp.config import suites
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.core.selection import among_weights
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data, prepare
from recbole_rawp.host.ranking import candidates as ranking
from recbole_rawp.host.ranking.candidate_files import IDENTITY, write_candidates
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.jobs.comparison.grid import Cell, Grid
from recbole_rawp.jobs.measuring import check_attack
from recbole_rawp.jobs.trainers import check_weights

SAME = (  # what all runs of a model on a data set share: data, ranking, attack
    *("valid_metric", "valid_metric_bigger", "metrics", "topk", "eval_args", "repeatable"),
    *("data_path", *dataset_arguments),
    *(key for key in OPTIONS if key.startswith("attack")),
)
Configs = dict[Cell, RAWPConfig]


@dataclass
class Plan:
    """What will be run.

    Attributes:
        configs: the settings of each run.
        impossible: why a run cannot work, such as for want of hidden weights.
        candidates: by data set, what all its runs rank, and RecBole's dataset; nothing where all items are ranked.
        notes: what the reader must know.
    """

    configs: Configs = field(default_factory=dict)
    impossible: dict[Cell, str] = field(default_factory=dict)
    candidates: dict[str, tuple[ranking.Candidates, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def save_candidates(self, folder: Path) -> None:
        """Write the candidates of each data set into `folder`, unless they lie there."""
        for dataset, (found, of) in self.candidates.items():
            if not candidate_file(folder, dataset).exists():
                write_candidates(candidate_file(folder, dataset), found, of)


def candidate_file(folder: Path, dataset: str) -> Path:
    """Return the file of candidates that all runs of a data set rank; `folder` is the comparison's."""
    return folder / f"candidates-{dataset}.npz"


def make(grid: Grid) -> Plan:
    """Return the plan of a comparison; nothing is written.

    Raises:
        InputError: for settings that cannot work or do not compare, or if no run could work.
    """
    cells = grid.cells()
    asked = {cell: grid.settings(cell, {}) for cell in cells}  # names and values first: they cost no time
    for group in dict.fromkeys(cell.group for cell in cells):
        comparable({cell: config for cell, config in asked.items() if cell.group == group})
    plan = Plan()
    for group in dict.fromkeys(cell.group for cell in cells):
        look(plan, grid, {cell: config for cell, config in asked.items() if cell.group == group})
    if len(plan.impossible) == len(cells):
        raise InputError(next(iter(plan.impossible.values())))
    return plan


def look(plan: Plan, grid: Grid, asked: Configs) -> None:
    """Add the runs of a model on a data set to the plan."""
    first = next(iter(asked))
    data, network = prepare(asked[first])
    extra: dict[str, Any] = {}
    if target := common_target(asked, network):
        extra["attack_target"] = target
        plan.notes.append(
            f"{' on '.join(first.group)}: all defenses are attacked on the same weights, attack_target={target}."
        )
    configs = {cell: grid.settings(cell, extra) for cell in asked} if extra else asked
    reasons: dict[str, str] = {}
    for cell, config in configs.items():
        if cell.defense not in reasons:
            reasons[cell.defense] = hindrance(config, network, data)
        if reasons[cell.defense]:
            plan.impossible[cell] = reasons[cell.defense]
    possible = {cell: config for cell, config in configs.items() if cell not in plan.impossible}
    if possible and share_candidates(plan, possible, data, network):
        extra["attack_candidates"] = str(candidate_file(Path(".."), first.dataset))  # from each run's folder
        configs = {cell: grid.settings(cell, extra) for cell in asked}
    plan.configs |= configs


def hindrance(config: RAWPConfig, network: nn.Module, data: Data) -> str:
    """Return why this defense, or its attack, finds nothing to move in the model; nothing if it does.

    Raises:
        InputError: for a suite that begins with a threat without an adversary, for the strongest attack ranks defenses.
    """
    first = config.settings.attack.threats[0]
    if not first.setting.words.adversary:
        raise InputError(
            f"attack: a comparison ranks defenses by the strongest attack of its suite's first entry, and "
            f"{first.variants[0]} is none. Put an attack first, or use `recbole-rawp attack` on each model."
        )
    try:
        check_weights(config.settings, network)
        check_attack(config, network, data)
    except InputError as error:
        return str(error)
    return ""


def comparable(configs: Configs) -> None:
    """Raise InputError if two runs of a model on a data set are not measured alike."""
    first, *others = configs
    for cell in others:
        for key in SAME:
            one, other = configs[first][key], configs[cell][key]
            if one != other:
                raise InputError(
                    f"{key}: {other!r} in {cell.name}, but {one!r} in {first.name}. Runs that are compared are "
                    f"measured alike: set {key} for all of {cell.model} on {cell.dataset}."
                )


def common_target(configs: Configs, network: nn.Module) -> str | None:
    """Return what to attack where the suite leaves it to each defense and these differ, or name what is not there.

    Hidden weights; embeddings for a model without any. None: what the suite says stands.

    Raises:
        InputError: if the suite leaves it open for some threats alone.
    """
    config = next(iter(configs.values()))
    left_open = [suites.completed(entry)["target"] is None for entry in suites.read(config["attack"])]
    if config["attack_target"] is not None or not any(left_open):
        return None
    targets = [among_weights(each["rawp_target"]) for each in configs.values()]
    if all(target == targets[0] for target in targets) and has(network, targets[0]):
        return None
    if not all(left_open):
        raise InputError(
            f"attack: '{config['attack']}' leaves the target of some threats to rawp_target, which differs between "
            "defenses. Name the target of every threat in the suite, or set attack_target for all."
        )
    return "hidden" if has(network, "hidden") else "embeddings"


def has(network: nn.Module, target: Any) -> bool:
    """Tell whether the model has such weights."""
    try:
        return bool(perturbed_weights(network, target))
    except InputError:
        return False


def share_candidates(plan: Plan, configs: Configs, data: Data, network: nn.Module) -> bool:
    """Tell whether these runs can all rank the candidates of their data set, which the first of its runs brings."""
    cell, config = next(iter(configs.items()))
    drawn = None if config["attack_candidates"] else check_attack(config, network, data)
    if drawn is None:
        return False
    shared, dataset = plan.candidates.setdefault(cell.dataset, (drawn, data.test._dataset))
    if all(fits(shared, dataset, each, config) for each in (data, *other_seeds(configs))):
        return True
    plan.notes.append(
        f"{' on '.join(cell.group)}: its runs rank other users or more items than the first runs of {cell.dataset}, so "
        "each draws candidates of its own."
    )
    return False


def other_seeds(configs: Configs) -> Iterator[Data]:
    """Yield the data of each seed but the first, which may be split otherwise."""
    first = next(iter(configs))
    seen = {first.seed}
    for cell, config in configs.items():
        if cell.seed not in seen:
            seen.add(cell.seed)
            yield prepare(config)[0]


def fits(shared: ranking.Candidates, dataset: Any, data: Data, config: RAWPConfig) -> bool:
    """Tell whether candidates of another run's dataset serve these data."""
    if any(getattr(dataset, name) != getattr(data.test._dataset, name) for name in IDENTITY):
        return False
    try:
        ranking.check(shared, ranking.sampled_loader(config, data.test, config.settings.attack.negatives))
    except InputError:
        return False
    return True
