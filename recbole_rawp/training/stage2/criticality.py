"""Ranks modules by criticality: the weakest is the one whose worst change costs most.

    MRC(l) = max over delta on module l's sphere of  L(w + delta) - L(w)

Module Robust Criticality, after RiFT (Zhu et al., ICCV 2023). RAWP-FT repairs the module with the highest.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from recbole_rawp.core import ball
from recbole_rawp.core.ascent import ascend
from recbole_rawp.core.losses.attack_loss import AttackLoss, Source
from recbole_rawp.core.selection import mean_one, modules
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.ranking.measurement import measuring, ranked, ranked_at
from recbole_rawp.threats.setting import TRAINING
from recbole_rawp.training.seams.training_loss import loss_of

if TYPE_CHECKING:
    from recbole_rawp.config.settings import Criticality
    from recbole_rawp.core.ball import Weights

ROUNDING = 1e-6  # of a loss in float32, summed over a batch


@dataclass
class ModuleCriticality:
    """How critical a module is.

    Attributes:
        module: its name, and `weights`, those of its weights that were moved, and `parameters`, their entries.
        loss, worst_loss: L(w), and L at the worst change.
        rise, relative_rise: MRC, and MRC / |L(w)|.
        metric, clean, attacked, drop: the valid metric, before and at that change, and how much worse it got; None
            without valid data.
        repaired, round: of stage 2; None outside it.
    """

    module: str
    weights: str
    parameters: int
    loss: float
    worst_loss: float
    rise: float
    relative_rise: float
    metric: str | None = None
    clean: float | None = None
    attacked: float | None = None
    drop: float | None = None
    repaired: bool | None = None
    round: int | None = None

    @property
    def unused(self) -> bool:
        """Whether the model does without the module: its worst small change moves neither loss nor valid metric."""
        return abs(self.relative_rise) <= ROUNDING and abs(self.drop or 0.0) <= ROUNDING

    def columns(self) -> dict[str, Any]:
        """Return what a table shows: the round first, and nothing that is None."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        return {"round": found.pop("round"), **found} if "round" in found else found


def rank(
    trainer: Any, train_data: Any, valid_data: Any, *, weights: Weights, settings: Criticality
) -> list[ModuleCriticality]:
    """Measure the criticality of every module that owns one of `weights`; nothing is left behind.

    All modules see the same training batches and random numbers; the first gradient serves them all, and each further
    step differentiates by one module's weights only. Weights are overlaid, never copied as a model.

    Args:
        trainer: any RecBole Trainer holding the model.
        train_data: the loader whose first batches give the loss.
        valid_data: the loader on which the valid metric's drop is measured; None leaves it out.
        weights: name -> weight to perturb.
        settings: ball, steps and number of batches.

    Returns:
        The weakest module first; last those whose rise is NaN, with a warning.
    """
    rows = []
    with measuring(trainer, train_data, valid_data):
        loss = attacked_loss(trainer, train_data, weights, settings)
        clean, at_w = ranked(trainer, valid_data).metrics, loss.value({})
        owners = modules(trainer.model, weights).items()
        for module, names in tqdm(owners, "Rank modules", ncols=100, disable=not trainer.config["show_progress"]):
            group = {name: weights[name] for name in names}
            delta = worst(loss, group, settings)
            hit, peak = ranked_at(trainer, valid_data, loss, delta).metrics, loss.value(delta)
            row = ModuleCriticality(
                module,
                weights=",".join(names),
                parameters=sum(weight.numel() for weight in group.values()),
                loss=at_w,
                worst_loss=peak,
                rise=peak - at_w,
                relative_rise=(peak - at_w) / abs(at_w) if at_w else float("nan"),
            )
            rows.append(replace(row, **metric_drop(trainer, clean, hit)) if valid_data else row)
    tell_of_nan(trainer, {row.module: row.rise for row in rows})
    return sorted(rows, key=lambda row: -math.inf if math.isnan(row.rise) else row.rise, reverse=True)


def tell_of_nan(trainer: Any, rises: dict[str, float]) -> None:
    """Warn of modules or weights whose rise is not a number: they count as the strongest."""
    names = [name for name, rise in rises.items() if math.isnan(rise)]
    if names:
        trainer.logger.warning(
            f"criticality: the loss at the worst change of {', '.join(names)} is not a number, which says nothing of "
            "how critical that is, so it ranks last. Try a smaller criticality_radius."
        )


def metric_drop(trainer: Any, clean: dict[str, float], attacked: dict[str, float]) -> dict[str, Any]:
    """Return the valid metric and how much worse it got, as fields of a row."""
    metric, sign = trainer.valid_metric, 1 if trainer.valid_metric_bigger else -1
    drop = sign * (clean[metric] - attacked[metric])
    return {"metric": metric, "clean": clean[metric], "attacked": attacked[metric], "drop": drop}


def attacked_loss(trainer: Any, train_data: Any, weights: Weights, settings: Criticality) -> AttackLoss:
    """Return the training loss on the batches that every attack follows."""
    batches = fixed_batches(train_data, settings.batches, trainer.device)
    return AttackLoss(trainer.model, Source(TRAINING, (loss_of(trainer, train_data),), batches), weights)


def worst(loss: AttackLoss, group: Weights, settings: Criticality) -> Weights:
    """Return the change of the weights in `group` that raises the loss most, by projected gradient ascent."""

    def gradient(delta: Weights | None) -> Weights:
        """Return the gradient by this group; at w it is shared by all."""
        found = loss.gradient(delta)
        return {name: found[name] for name in group}

    bound = ball.around(group, settings.radius, granularity=settings.granularity)
    return ascend(gradient, group, bound, steps=settings.steps, generator=torch.Generator())


def omega(trainer: Any, train_data: Any, *, weights: Weights, settings: Criticality) -> dict[str, float]:
    """Return the layer weights max(MRC, 0), scaled to mean 1; MRC of each tensor by one step, one gradient for all.

    A rise of NaN counts as 0, with a warning.
    """
    estimate = replace(settings, steps=1)
    with measuring(trainer, train_data):
        loss = attacked_loss(trainer, train_data, weights, settings)
        clean = loss.value({})
        rises = {name: loss.value(worst(loss, {name: weight}, estimate)) - clean for name, weight in weights.items()}
    tell_of_nan(trainer, rises)
    return mean_one({name: max(0.0, rise) for name, rise in rises.items()})  # of 0 and NaN, Python takes the first
