"""Which attacks does a suite hold?  A suite is a YAML file: a list of threats, each with the methods to try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from recbole_rawp.config.command_line import literal
from recbole_rawp.config.properties import properties
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.core.selection import TARGETS, among_weights
from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.threats.adversarial.perturbation import Threat

WORDS = (*TARGETS, "activations")  # targets that some models lack
FIELDS = {  # what a threat may say, and what it means where it says nothing
    "target": None,
    "granularity": "tensor",
    "unit": "relative",
    "scope": "global",
    "labels": "pseudo",
    "steps": 10,
    "restarts": 1,
    "radii": None,
}


def threats(options: Mapping[str, Any]) -> tuple[Threat, ...]:
    """Return the threats of the suite that `attack` names; options attack_... that are set win over the suite's.

    Raises:
        InputError: for a suite that cannot be read, or a combination that does not exist.
    """
    found: dict[Any, Threat] = {}
    for entry in read(options["attack"]):
        threat = _threat(entry, options)
        same = replace(threat, methods=())  # threats that differ in methods alone are one
        methods = (*found[same].methods, *threat.methods) if same in found else threat.methods
        found[same] = replace(threat, methods=tuple(dict.fromkeys(methods)))
    _check_names(found.values())
    return tuple(found.values())


def _check_names(found: Iterable[Threat]) -> None:
    """Raise InputError if records could not tell two threats apart."""
    seen = set()
    for threat in found:
        for method in threat.methods:
            if (threat.name, method, threat.steps) in seen:
                raise InputError(
                    f"attack: {method} on {threat.name} is there twice, with other radii or restarts. Put both into "
                    "one threat, or set attack_radii and attack_restarts."
                )
            seen.add((threat.name, method, threat.steps))


def read(suite: str | Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of a suite: a file of properties/attack, a path, or a list of methods.

    Raises:
        InputError: naming the file, the entry and the remedy.
    """
    if not isinstance(suite, str):
        return [read("quick")[0] | {"methods": suite}]
    file = Path(suite).expanduser() if suite.endswith((".yaml", ".yml")) else properties() / "attack" / f"{suite}.yaml"
    if not file.is_file():
        raise InputError(
            f"attack: there is no suite '{suite}'.{suggestion(suite, suites())} Known: {', '.join(suites())}; or the "
            "path of a YAML file, or a list of methods."
        )
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"attack: cannot read '{file}': {' '.join(str(error).split())}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise InputError(f"attack: '{file}' is not a list of threats. See properties/attack/quick.yaml.")
    for number, entry in enumerate(entries, 1):
        if isinstance(entry.get("radii"), list):  # YAML takes 1e-3, which lacks a dot, for a word
            entry["radii"] = [literal(radius) for radius in entry["radii"]]
        _check(entry, f"attack: '{file.name}', entry {number}")
    return entries


def written(found: Sequence[Threat]) -> str:
    """Return threats as the suite that holds them."""
    entries = [{key: value for key, value in asdict(threat).items() if key != "optional"} for threat in found]
    plain = [{k: list(v) if isinstance(v, tuple) else v for k, v in entry.items() if v != ""} for entry in entries]
    return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=110)


def suites() -> list[str]:
    """Return the names of the suites that ship with the package."""
    return sorted(Path(entry.name).stem for entry in (properties() / "attack").iterdir())


def _check(entry: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a key or value that a threat cannot have."""
    if "methods" not in entry:
        raise InputError(f"{where}: methods are missing. Name some, as in methods: [random, fgsm].")
    for key, value in entry.items():
        if key != "methods" and key not in FIELDS:
            raise InputError(f"{where}: {key}: no such key.{suggestion(str(key), ['methods', *FIELDS])}")
        option = OPTIONS["attack" if key == "methods" else f"attack_{key}"]
        if not option.accepts(value) or (key == "methods" and isinstance(value, str)):
            raise InputError(f"{where}: {key}: {value!r} is not valid; expected {option.expected}.")


def _threat(entry: Mapping[str, Any], options: Mapping[str, Any]) -> Threat:
    fields = FIELDS | {key: value for key, value in entry.items() if value is not None}
    fields |= {key: options[f"attack_{key}"] for key in FIELDS if options[f"attack_{key}"] is not None}
    optional = entry.get("target") in WORDS and options["attack_target"] is None
    target = fields["target"] or among_weights(options["rawp_target"])
    if fields["radii"] is None:
        raise InputError(f"attack_radii: {options['attack']!r} names none. Set attack_radii, or radii in each entry.")
    _check_combination(target, fields)
    return Threat(
        tuple(fields["methods"]),
        target if isinstance(target, str) else tuple(target),
        fields["granularity"],
        fields["unit"],
        fields["scope"],
        fields["labels"] if fields["scope"] == "per_user" else "",
        fields["steps"],
        fields["restarts"],
        tuple(sorted({0.0, *map(float, fields["radii"])})),
        optional,
    )


def _check_combination(target: Any, fields: Mapping[str, Any]) -> None:
    """Raise InputError for a granularity that does not exist for this target and scope."""
    per_user = fields["scope"] == "per_user"
    known = ("row", "sign") if target == "activations" else ("row",) if per_user else None
    if known and fields["granularity"] not in known:
        what = "attacks per user" if per_user else "attacks on activations"
        raise InputError(
            f"attack_granularity: the suite's {fields['granularity']!r} does not go with {what}. "
            f"Set attack_granularity={' or '.join(known)}."
        )
