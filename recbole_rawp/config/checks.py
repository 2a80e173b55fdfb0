"""Checks names and values of options, and says what was expected."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from recbole_rawp.config.command_line import COMMAND_LINE_ONLY
from recbole_rawp.config.option import Option
from recbole_rawp.config.recbole_options import UNLISTED
from recbole_rawp.config.schema import AUTO, OPTIONS, PREFIXES, no_such
from recbole_rawp.errors import InputError, suggestion

logger = logging.getLogger()
OF_THE_BALL = (
    *("rawp_radius", "rawp_radius_unit", "rawp_radius_jitter", "rawp_granularity", "rawp_direction", "rawp_steps"),
    *("rawp_start", "rawp_ascent_fraction", "rawp_layer_weights"),
)


def check_one_process() -> None:
    """Raise InputError for one of several processes that torchrun started: each would do the whole job."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1" and os.environ.keys() >= {"RANK", "LOCAL_RANK"}:
        raise InputError(
            f"torchrun: robustness is measured in one process, and each of the {count} would do the whole job "
            "(WORLD_SIZE, RANK and LOCAL_RANK are set). Start the command without torchrun."
        )


def check_values(values: Mapping[str, Any]) -> None:
    """Raise InputError for the first of our keys whose value has the wrong type or range."""
    for key, option in OPTIONS.items():
        if key in values and not option.accepts(values[key]):
            raise InputError(
                f"{key}: {values[key]!r} is not valid; expected {option.expected}.{_word_hint(option, values[key])}"
            )
    if values.get("rawp_granularity") in ("global", "element") and values.get("rawp_layer_weights") != "uniform":
        raise InputError(
            f"rawp_layer_weights: {values['rawp_layer_weights']!r} needs one norm per tensor, but rawp_granularity is "
            f"{values['rawp_granularity']!r}. Use rawp_layer_weights=uniform or rawp_granularity=tensor."
        )
    steps = values.get("rawp_direction"), values.get("rawp_steps")
    if values.get("rawp_start") == "free" and steps != ("gradient", 1):
        raise InputError(
            "rawp_start: 'free', as rawp_ft has it, takes no step of its own. With rawp_direction=noise or several "
            "rawp_steps set rawp_start=weights."
        )
    if values.get("rawp_target") == "activations":
        _check_activations(values)
    if values.get("rawp_radius") == AUTO:
        _check_searched(values)
    elif values.get("rawp_perturbation", "ball") != "ball" and not values.get("ft_rounds"):
        _check_without_ball(values)


def _check_searched(values: Mapping[str, Any]) -> None:
    """Raise InputError for what does not go with a radius that is found from the plain model on."""
    for key, known in (("rawp_perturbation", "ball"), ("rawp_weight_clip", None)):
        if values.get(key, known) != known:
            raise InputError(
                f"{key}: {values[key]!r} does not go with rawp_radius=auto, as rawp_ft has it: its search begins at a "
                "plain model. Set a defense such as randbet or rawp_reference."
            )


def _check_without_ball(values: Mapping[str, Any]) -> None:
    """Raise InputError for an option of the ball where the loss is taken elsewhere."""
    for key in OF_THE_BALL:
        if values[key] != OPTIONS[key].default:
            raise InputError(
                f"{key}: {values[key]!r} has no effect with rawp_perturbation={values['rawp_perturbation']}, which has "
                "no ball. Leave it out."
            )


def _check_activations(values: Mapping[str, Any]) -> None:
    """Raise InputError for an option that shifts of activations, one for each row of the batch, cannot have."""
    possible = {
        "rawp_granularity": ("row", "sign"),
        "rawp_direction": ("gradient", "noise"),
        "rawp_ascent_fraction": (1,),
        "rawp_start": ("weights",),
        "rawp_perturbation": ("ball",),
        "rawp_weight_clip": (None,),
    }
    for key, known in possible.items():
        if values[key] not in known:
            raise InputError(
                f"{key}: {values[key]!r} does not go with rawp_target=activations. "
                f"Use {key}={' or '.join(map(str, known))}."
            )


def _word_hint(option: Option, value: Any) -> str:
    return suggestion(value, option.expected.split(" | ")) if isinstance(value, str) and "|" in option.expected else ""


def check_names(given: Iterable[str], recbole_keys: Iterable[str], *, own: bool = False) -> None:
    """Raise InputError for a misspelt key of ours; warn about a near miss of a key of RecBole's.

    Args:
        own: whether the model is of the user's own: it may have an option that is spelt nearly as one of ours.
    """
    known = set(recbole_keys) | UNLISTED
    for key in given:
        if not isinstance(key, str):
            raise InputError(f"{key!r}: option names are words. Leave that line out.")
        if key in COMMAND_LINE_ONLY:
            raise InputError(f"{key}: not a setting. Use --{key}, or the argument of the function.")
        if key in OPTIONS or key in known:
            continue
        ours = difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.8)
        theirs = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if key.startswith(PREFIXES) or (ours and not theirs and not own):
            raise InputError(no_such(key))
        if theirs or ours:
            logger.warning(f"{key}: not an option that RecBole knows. Did you mean '{(theirs or ours)[0]}'?")
