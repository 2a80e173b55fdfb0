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


def check_found(search: RadiusSearch) -> None:
    """Raise InputError if a search that is over chose no model."""
    if not search.path:
        raise InputError(
            "rawp_radius: auto saw no validation after a perturbation. Train longer, or raise rawp_mask_probability."
        )
    if search.chosen is None:
        raise InputError(
            f"rawp_clean_budget: {search.budget:g} was kept at no validation, however small the radius. Raise it, or "
            "validate less often (eval_step)."
        )
