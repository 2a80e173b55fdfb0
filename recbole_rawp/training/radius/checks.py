"""Refuses a search for the radius that has nothing to go by, or that found nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from recbole_rawp.errors import InputError
from recbole_rawp.host.quirks import pretraining

if TYPE_CHECKING:
    from recbole_rawp.config.settings import Training
    from recbole_rawp.training.radius.rule import RadiusSearch


def check_searchable(settings: Training, config: Any, model: nn.Module, valid_data: Any) -> None:
    """Raise InputError if a radius is to be found in training, and there is nothing to find it by."""
    check_scored(settings, model)
    if settings.defense == "none" or settings.clean_budget is None or pretraining(model):
        return
    if not config["single_spec"]:
        raise InputError("nproc: rawp_radius=auto is found in one process. Leave nproc out, or set rawp_radius.")
    if not valid_data:
        raise InputError("rawp_radius: auto goes by valid data, and this split has none. Split some off, or set it.")
    if config["eval_step"] <= 0:
        raise InputError(
            f"eval_step: {config['eval_step']} validates never, but rawp_radius=auto goes by valid scores. Set it to 1 "
            "or more, or set rawp_radius to a number."
        )


def check_scored(settings: Training, model: nn.Module) -> None:
    """Raise InputError if a radius is to be found in pretraining."""
    hardened = settings.defense != "none" and settings.pretraining and pretraining(model)
    if hardened and settings.clean_budget is not None:
        raise InputError(
            "rawp_radius: auto goes by valid scores, and pretraining has none. Set it to a number, or leave "
            "rawp_pretraining out."
        )


def check_measured(search: RadiusSearch, metric: str) -> None:
    """Raise InputError if no valid score of the plain model was a number."""
    if search.kept is None:
        raise InputError(
            f"valid_metric: {metric} of the plain model was never a number, and rawp_radius=auto goes by it. Train "
            "with a smaller learning_rate, or set rawp_radius."
        )


def check_found(search: RadiusSearch) -> None:
    """Raise InputError if a search that is over saw no hardened model."""
    if not search.path:
        raise InputError(
            "rawp_radius: auto saw no validation after a perturbation. Raise rawp_mask_probability, or set "
            "rawp_mask_every: batch."
        )
