"""Hardens RecBole's epochs, stage 1 of RAWP-FT: every batch's loss becomes the objective's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recbole_rawp.config.schema import OF_A_DEFENSE
from recbole_rawp.config.suites import OPTIONAL_TARGETS
from recbole_rawp.config.yaml_files import is_yaml
from recbole_rawp.core.activation_objective import ActivationObjective
from recbole_rawp.core.ascent import Memory
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.gradients import LossFunction
from recbole_rawp.core.objective import Objective
from recbole_rawp.errors import InputError
from recbole_rawp.host import quirks
from recbole_rawp.host.models.classes import check_gradient
from recbole_rawp.host.reached import check_reached
from recbole_rawp.host.weights import chosen_weights, weight_table
from recbole_rawp.training.callbacks import Callback
from recbole_rawp.training.stage2 import criticality


class Hardening(Callback):
    """Puts the objective in the place of the loss in every epoch that is to be hardened, and logs what it did.

    Attributes:
        objective: the hardened loss; None before the first epoch that has it.
    """

    def __init__(self) -> None:
        self.objective: Objective | None = None

    def due(self, trainer: Any, epoch: int) -> bool:
        """Tell whether an epoch is to be hardened."""
        late = epoch >= trainer.settings.training.warmup_epochs
        return bool(trainer.hardens_now and not trainer.trains_plain_model and late)

    def build(self, trainer: Any) -> Objective:
        """Make the objective, which draws its first masks, and log the table of weights that it perturbs."""
        settings, state = trainer.settings.training, trainer.state
        weights, omega = chosen_weights(trainer.model, settings)
        trainer.logger.info(weight_table(trainer.model, weights, omega, settings.defense))
        recipe = settings.recipe
        if recipe.start == "free" and recipe.ascent_fraction < 1:
            trainer.logger.warning(
                f"rawp_ascent_fraction: {recipe.ascent_fraction:g} has no effect with rawp_start=free, which has no "
                "ascent of its own. Leave it out, or set rawp_start=weights."
            )
        kind = ActivationObjective if settings.target == "activations" else Objective
        self.objective = kind(trainer.model, weights, settings.recipe, omega=omega, generator=state.masks)
        state.memory = Memory()
        return self.objective

    def on_epoch_begin(self, trainer: Any, train_data: Any, epoch: int) -> None:
        """Measure omega where that is due, and draw the epoch's masks."""
        if self.due(trainer, epoch) and self.objective is None:
            check_weights(trainer, train_data)
        if not self.due(trainer, epoch):
            return
        objective = self.objective or self.build(trainer)
        if trainer.settings.training.layer_weights == "criticality":
            weights, _ = chosen_weights(trainer.model, trainer.settings.training)
            measure_omega(trainer, train_data, weights, epoch)
        objective.draw()

    def on_loss(self, trainer: Any, loss: LossFunction, epoch: int) -> LossFunction:
        """Return the objective on that loss, with the weights as the model holds them now."""
        if not self.due(trainer, epoch):
            trainer.state.perturbed = None
            return loss
        objective, state = self.objective, trainer.state
        assert objective is not None and state.memory is not None
        objective.weights, omega = chosen_weights(trainer.model, trainer.settings.training)
        objective.omega, objective.memory = state.omega or omega, state.memory
        if state.search is not None:
            objective.recipe = replace(objective.recipe, radius=state.search.radius)
        counted = quirks.counted(trainer, loss, epoch)
        return lambda batch: objective(counted, batch)

    def on_pass_end(self, trainer: Any, epoch: int) -> None:
        """Log the pass."""
        if not self.due(trainer, epoch):
            return
        objective = self.objective
        assert objective is not None
        objective.clip()
        used = objective.perturbed if objective.recipe.perturbs else objective.batches
        trainer.state.perturbed = used
        trainer.state.hardened |= used > 0
        log(trainer, objective, epoch)
        objective.reset()


def check_weights(trainer: Any, train_data: Any) -> None:
    """Look whether changes of the weights reach the loss; if none does, the trainer cannot harden."""
    weights, _ = chosen_weights(trainer.model, trainer.settings.training)
    try:
        check_reached(trainer.model, weights, train_data, trainer.device)
    except InputError as error:
        trainer.cannot_harden(str(error))


def measure_omega(trainer: Any, train_data: Any, weights: Weights, epoch: int) -> None:
    """Measure omega by criticality at the first hardened epoch, and at every k-th after it."""
    settings, state = trainer.settings.training, trainer.state
    age = epoch - settings.warmup_epochs
    if state.omega is None or age % settings.criticality_every == 0:
        state.omega = criticality.omega(trainer, train_data, weights=weights, settings=settings.criticality)
        words = ", ".join(f"{name} {value:.3g}" for name, value in state.omega.items())
        trainer.logger.info(f"omega by criticality: {words}")


def log(trainer: Any, objective: Objective, epoch: int) -> None:
    """Log the adversarial loss, the masks and the norms of a pass; warn if nothing moved in it."""
    if objective.perturbed:
        loss = float(objective.losses) / objective.perturbed
        trainer.tensorboard.add_scalar("RAWP/adversarial_loss", loss, epoch)
        trainer.wandblogger.log_metrics({"adversarial_loss": loss, "train_step": epoch}, head="train")
        if not any(float(norm) for norm, _ in objective.norms.values()):
            trainer.logger.warning(
                f"rawp_target: nothing moved in epoch {epoch}; no loss has a usable gradient by these weights."
            )
    if objective.recipe.perturbs and objective.recipe.change is None:
        trainer.tensorboard.add_scalar("RAWP/radius", objective.recipe.radius, epoch)
        trainer.tensorboard.add_scalar("RAWP/radius_stretch", objective.stretch, epoch)
    for name, used in objective.mask.items():
        trainer.tensorboard.add_scalar(f"RAWP/mask/{name}", int(used), epoch)
    for name, (norm, count) in objective.norms.items():
        trainer.tensorboard.add_scalar(f"RAWP/delta_norm/{name}", float(norm) / count, epoch)


def tell_defense(trainer: Any) -> None:
    """Let a plain Config, as under `register`, tell its checkpoints the defense, and what its file says if it is one.

    The file may be gone when a checkpoint is used.
    """
    config, settings = trainer.config, trainer.settings
    if trainer.perturbable and not config["defense"]:
        config["defense"] = settings.training.defense
    elif is_yaml(config["defense"]):
        for key in OF_A_DEFENSE:
            config[key] = settings.values[key]


def perturbable(trainer: Any) -> bool:
    """Tell whether there is something to perturb, where it is wanted.

    Raises:
        InputError: if there is nothing; a `lenient` trainer warns instead, unless a pattern fails, which is a mistake.
    """
    settings = trainer.settings.training
    if settings.defense == "none" and not trainer.settings.fine_tuning.rounds:
        return False
    try:
        check_gradient(type(trainer.model))
        quirks.check_built(trainer.model)
        chosen_weights(trainer.model, settings)
    except InputError as error:
        if settings.target not in OPTIONAL_TARGETS:
            raise
        trainer.cannot_harden(str(error))
        return False
    return True
