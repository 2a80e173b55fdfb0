"""Merges several runs into one: their records, checks, users and settings, told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from recbole_rawp.config.recbole_options import MEASURED
from recbole_rawp.config.schema import OF_A_DEFENSE
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import users as per_user
from recbole_rawp.evaluation.records import COLUMNS, FAILED, Check
from recbole_rawp.evaluation.users import Users
from recbole_rawp.report.formats import MODEL
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.scores import bare, complete, renamed
from recbole_rawp.threats.setting import SETTING

CURVE = [*MODEL, "stage", "seed", *SETTING, "threat", "loss", "steps", "level", "metric"]  # one value each


def merge(runs: Sequence[Run]) -> Run:
    """Return several runs as one.

    Models that two of them measured or hardened differently are told apart by their folders.

    Raises:
        InputError: if the headline metrics differ, or are unknown.
    """
    facts = common_facts(runs)
    clashes = clashing(runs) | hardened_otherwise(runs)
    runs = [tagged(run, clashes) for run in runs]
    frame = pd.concat([run.frame.assign(folder=i) for i, run in enumerate(runs)], ignore_index=True)
    settings = frame.groupby(list(SETTING))["folder"].transform("nunique")  # what most of them have comes first
    frame = frame.loc[settings.sort_values(ascending=False, kind="stable").index, COLUMNS].drop_duplicates()
    names = {name: frame[name].nunique() > 1 for name in MODEL[:2]}
    checks = [replace(c, defense=placed(c.defense, run.frame, names)) for run in runs for c in run.checks]
    checks = list(dict.fromkeys([*checks, *unlike(runs), *ranking_others(runs)]))
    return Run("", frame, checks, merged_users(runs), facts)


def common_facts(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the report says of all: one metric; settings, notes and environments with the runs that have them.

    Raises:
        InputError: as `merge`.
    """
    known = [run for run in runs if "metric" in run.facts]
    if not known:
        raise InputError("report: none of the folders holds report.json, with the metric. Repeat one of the runs.")
    metric, bigger = known[0].facts["metric"], known[0].facts["bigger"]
    for run in runs:
        theirs = run.facts.get("metric", metric)
        if theirs != metric:
            raise InputError(
                f"report: '{run.name}' reports {theirs}, '{known[0].name}' {metric}. Name runs of one metric."
            )
        if metric not in set(run.frame["metric"]):
            raise InputError(f"report: '{run.name}' has no {metric} in records.csv. Leave it out.")
    keys = dict.fromkeys(key for run in known for key in run.facts["settings"])
    return {
        "metric": metric,
        "bigger": bigger,
        "settings": {key: shared({run.name: run.facts["settings"].get(key) for run in known}) for key in keys},
        "notes": [f"{run.name}: {note}" for run in known for note in run.facts["notes"]],
        "environment": shared({run.name: run.facts["environment"] for run in known}, between="\n\n"),
    }


def unlike(runs: Sequence[Run]) -> list[Check]:
    """Return a failed check for each setting of data or ranking in which runs on one data set differ."""
    found = []
    known = [run for run in runs if "eval_args" in run.facts.get("settings", {})]  # older folders do not tell
    for dataset in dict.fromkeys(name for run in known for name in run.frame["dataset"]):
        mine = {run.name: run.facts["settings"] for run in known if dataset in set(run.frame["dataset"])}
        for key in (*MEASURED, "attack_negatives", "attack_users", "attack_batches"):
            values = {name: settings.get(key) for name, settings in mine.items()}
            if len(set(map(str, values.values()))) > 1:
                detail = f"{key}: {shared(values)}"
                found.append(Check(f"runs on {dataset}", "they are measured alike", FAILED, detail))
    return found


def ranking_others(runs: Sequence[Run]) -> list[Check]:
    """Return a failed check for each model, data set and seed of which runs ranked other candidates."""
    names: dict[tuple[Any, ...], dict[str, list[str]]] = {}
    for run in filter(lambda run: run.candidates, runs):
        for place in run.frame[["model", "dataset", "seed"]].drop_duplicates().itertuples(index=False, name=None):
            names.setdefault(place, {}).setdefault(run.candidates, []).append(run.name)
    return [
        Check(
            f"runs on {dataset}",
            "they are measured alike",
            FAILED,
            f"candidates of {model}, seed {seed}: others in {' than in '.join(map(', '.join, lists.values()))}",
        )
        for (model, dataset, seed), lists in names.items()
        if len(lists) > 1
    ]


def shared(values: Mapping[str, Any], *, between: str = "; ") -> str:
    """Return the value that all have, or each value with the names of those that have it."""
    owners: dict[str, list[str]] = {}
    for name, value in values.items():
        owners.setdefault(str(value), []).append(name)
    if len(owners) == 1:
        return next(iter(owners))
    return between.join(f"{value} ({', '.join(names)})" for value, names in owners.items())


def clashing(runs: Sequence[Run]) -> set[tuple[str, ...]]:
    """Return (model, dataset, defense) for which two runs have different values at one place."""
    frames = [complete(run.frame).assign(threat=run.frame["threat"]) for run in runs]  # names as all runs have them
    frame = pd.concat(frames, ignore_index=True)
    different = frame.groupby(CURVE, dropna=False)["value"].transform(lambda values: values.nunique(dropna=False)) > 1
    return set(frame.loc[different, MODEL].itertuples(index=False, name=None))


def hardened_otherwise(runs: Sequence[Run]) -> set[tuple[str, ...]]:
    """Return (model, dataset, defense) that two runs hardened by other options: their seeds are of no one model."""
    found: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        settings = run.facts.get("settings", {})
        own = {key: settings[key] for key in OF_A_DEFENSE if key in settings}
        for place in run.frame[MODEL].drop_duplicates().itertuples(index=False, name=None):
            if place[-1] != "none" and own:
                found.setdefault(place, set()).add(str(own))
    return {place for place, ways in found.items() if len(ways) > 1}


def tagged(run: Run, clashes: set[tuple[str, ...]]) -> Run:
    """Return the run with its folder's name behind those models' defense."""

    def tag(row: Mapping[Any, Any]) -> str:
        """Return the defense, tagged where it clashes."""
        clash = tuple(row[name] for name in MODEL) in clashes
        return row["defense"] + f" [{run.name}]" * clash

    tags = {row["defense"]: tag(row) for row in run.frame[MODEL].drop_duplicates().to_dict("records")}
    names = [(check, bare(check.defense)) for check in run.checks]
    checks = [replace(check, defense=renamed(check.defense, tags.get(name, name))) for check, name in names]
    users = {
        scope: replace(part, conditions=[replace(c, defense=tag(vars(c))) for c in part.conditions])
        for scope, part in run.users.items()
    }
    frame = run.frame.assign(defense=[tag(row) for row in run.frame[MODEL].to_dict("records")])
    return replace(run, frame=frame, checks=checks, users=users)


def placed(name: str, frame: pd.DataFrame, several: Mapping[str, bool]) -> str:
    """Return a model's name with what tells it apart: its own network and data set, where there are several."""
    where = " on ".join(str(frame[key].iloc[0]) for key, needed in several.items() if needed)
    return f"{where}: {name}" if where and ": " not in name else name


def merged_users(runs: Sequence[Run]) -> dict[str, Users]:
    """Return the per-user results, joined where the users are the same; conditions that two runs share count once."""
    groups: list[tuple[str, list[Users]]] = []
    for scope, part in ((scope.partition("-")[0], part) for run in runs for scope, part in run.users.items()):
        fitting = (group for name, group in groups if name == scope and not per_user.different(group[0], part))
        group = next(fitting, None)
        if group is None:
            groups.append((scope, [part]))
        else:
            group.append(part)
    found: dict[str, Users] = {}
    for scope, parts in groups:
        number = sum(name.partition("-")[0] == scope for name in found) + 1
        found[scope if number == 1 else f"{scope}-{number}"] = per_user.once(per_user.join(parts))
    return found
