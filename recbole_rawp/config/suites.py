"""Reads suites: YAML files with a list of threats, each with the methods to try."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_rawp.config.command_line import Typed
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.config.shipped import names, properties
from recbole_rawp.config.yaml_files import is_yaml, read_yaml
from recbole_rawp.core.selection import TARGETS, among_weights
from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.threats.setting import PER_USER
from recbole_rawp.threats.threat import KINDS, VARIANTS, Threat, joined

logger = logging.getLogger()
FILES = ("attack", "attack_checkpoint", "criticality_threats")  # options that may be one
OPTIONAL_TARGETS = (*TARGETS, "activations")  # targets that some models lack


def threats(options: Mapping[str, Any]) -> tuple[Threat, ...]:
    """Return the threats of the suite that `attack` names; options attack_... that are set win over the suite's.

    Raises:
        InputError: for a suite that cannot be read, or a combination that does not exist.
    """
    found = joined(_threat(entry, options) for entry in read(options["attack"]))
    _check_names(found)
    _tell_unused(found, options)
    return found


def _tell_unused(found: Iterable[Threat], options: Mapping[str, Any]) -> None:
    """Warn of options that are set, and that no threat of the suite takes; a checkpoint may have brought them along."""
    taken = {key for threat in found for key in threat.DEFAULTS}
    known = {key for kind in KINDS.values() for key in kind.DEFAULTS}
    for key in sorted(known - taken):
        if options.get(f"attack_{key}") is not None:
            logger.warning(f"attack_{key}: nothing in attack={options['attack']} takes it, so it has no effect.")


def _check_names(found: Iterable[Threat]) -> None:
    """Raise InputError if records could not tell two threats apart."""
    seen = set()
    for threat in found:
        for variant in threat.variants:
            key = (threat.name, variant, threat.steps(variant))
            if key in seen:
                raise InputError(
                    f"attack: {variant} on {threat.name} is there twice, with other radii or restarts. Put both into "
                    "one threat, or set attack_radii and attack_restarts."
                )
            seen.add(key)


def read(suite: str | Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of a suite: a file of properties/attack, a path, or a list of methods.

    Raises:
        InputError: naming the file, the entry and the remedy.
    """
    if not isinstance(suite, str):
        return listed(suite)
    file = Path(suite).expanduser() if is_yaml(suite) else properties() / "attack" / f"{suite}.yaml"
    if not file.is_file():
        raise InputError(
            f"attack: there is no suite '{suite}'.{suggestion(suite, suites())} Known: {', '.join(suites())}; or the "
            "path of a YAML file, or a list of methods."
        )
    entries = read_yaml(str(file), option="attack", loader=Typed)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise InputError(f"attack: '{file}' is not a list of threats. See properties/attack/quick.yaml.")
    for number, entry in enumerate(entries, 1):
        _check(entry, f"attack: '{file.name}', entry {number}")
    return entries


def with_whole_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with files among them by their whole paths, for whoever goes on from another folder."""
    found = dict(options)
    for key in FILES:
        value = found.get(key)
        if isinstance(value, str) and (key == "attack_checkpoint" or is_yaml(value)):
            file = Path(value).expanduser()
            found[key] = str(file.resolve()) if file.is_file() else value
    return found


def listed(methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries that try these methods: each kind's as `quick` has it, or by its defaults.

    Raises:
        InputError: for a method that does not exist.
    """
    by_kind: dict[type[Threat], list[str]] = {}
    check_listed(methods)
    for method in methods:
        by_kind.setdefault(KINDS[method], []).append(method)
    quick = read("quick")[0]
    own = {KINDS[quick["methods"][0]]: quick}
    return [own.get(kind, {}) | {"methods": names} for kind, names in by_kind.items()]


def check_listed(suite: str | Sequence[str]) -> None:
    """Raise InputError if a suite is a list that names a method which does not exist."""
    if not isinstance(suite, str) and not KINDS.keys() >= set(suite):
        raise InputError(
            f"attack: {suite!r} is not valid; expected suite, YAML file, or list of methods: {', '.join(KINDS)}."
        )


def written(found: Sequence[Threat]) -> str:
    """Return threats as the suite that holds them."""
    plain = [{k: list(v) if isinstance(v, tuple) else v for k, v in threat.entry().items()} for threat in found]
    return yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=110)


def suites() -> list[str]:
    """Return the names of the suites that ship with the package."""
    return names("attack")


def _check(entry: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a key or value that a threat cannot have."""
    if "methods" not in entry:
        raise InputError(f"{where}: methods are missing. Name some, as in methods: [noise, fgsm].")
    methods = entry["methods"]
    if isinstance(methods, str) or not OPTIONS["attack"].accepts(methods):
        raise InputError(f"{where}: methods: {methods!r} is not valid; expected {OPTIONS['attack'].expected}.")
    for method in methods:
        _check_method(method, where)
    kinds = {KINDS[method] for method in methods}
    if len(kinds) > 1:
        raise InputError(f"{where}: methods: {methods!r} are of several kinds. Give each kind an entry of its own.")
    known = kinds.pop().DEFAULTS
    for key, value in entry.items():
        if key != "methods" and key not in known:
            raise InputError(f"{where}: {key}: no such key.{suggestion(str(key), ['methods', *known])}")
        option = OPTIONS.get(f"attack_{key}")
        if option is not None and not option.accepts(value):
            raise InputError(f"{where}: {key}: {value!r} is not valid; expected {option.expected}.")


def _check_method(method: str, where: str) -> None:
    """Raise InputError if there is no such method."""
    if method not in KINDS:
        raise InputError(
            f"{where}: there is no method '{method}'.{suggestion(method, KINDS)} Known: {', '.join(KINDS)}."
        )


def completed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with its kind's defaults where it says nothing; a target of None follows the defense's."""
    return dict(KINDS[entry["methods"][0]].DEFAULTS) | {key: v for key, v in entry.items() if v is not None}


def _threat(entry: Mapping[str, Any], options: Mapping[str, Any]) -> Threat:
    """Return the threat of an entry: what is set, then what the entry says, then the kind's default."""
    kind, fields = KINDS[entry["methods"][0]], completed(entry)
    given = {key: options[f"attack_{key}"] for key in kind.DEFAULTS if options.get(f"attack_{key}") is not None}
    fields |= given | {"variants": tuple(entry["methods"])}
    if options["attack"] == "quick" and fields.get("scope") == PER_USER:  # a change for each user is not carried over
        fields["variants"] = tuple(name for name in entry["methods"] if not VARIANTS[name].carried)
    fields["optional"] = entry.get("target") in OPTIONAL_TARGETS and options["attack_target"] is None
    target = fields["target"] or among_weights(options["rawp_target"])
    fields["target"] = target if isinstance(target, str) else tuple(target)
    if "radii" in fields and fields["radii"] is None:
        raise InputError(f"attack_radii: {options['attack']!r} names none. Set attack_radii, or radii in each entry.")
    if wrong := kind.check(fields):
        raise InputError(wrong)
    return kind.of(fields)
