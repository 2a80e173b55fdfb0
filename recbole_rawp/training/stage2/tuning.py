"""Trains one module alone, by the hardened loss with perturbations of that module alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from recbole_rawp.core.ascent import Memory
from recbole_rawp.core.objective import Objective

if TYPE_CHECKING:
    from recbole_rawp.config.settings import FineTuning
    from recbole_rawp.core.ball import Weights
    from recbole_rawp.core.gradients import Loss, LossFunction
    from recbole_rawp.training.stage2.progress import Progress
    from recbole_rawp.training.stage2.valid_scores import ValidScores

LEARNERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
# What RecBole says of such a loss; and torch of such a gradient, in the mode that importing RecBole's SINE switches on,
# and of such a step.
NOT_A_NUMBER = re.compile(
    r"Training loss is nan|Function '\w+' returned nan values in its \d+th output\.|value cannot be converted to type "
    r"\w+ without overflow"
)
Parameters = dict[str, nn.Parameter]


@dataclass
class TunedEpoch:
    """An epoch of a round: the hardened loss, NaN if it diverged, and the robust valid score."""

    round: int
    epoch: int
    loss: float
    robust: float


def tune(trainer: Any, weights: Weights, parameters: Parameters, scores: ValidScores) -> None:
    """Train `parameters` alone, and note their values after the epoch with the best robust valid score.

    Args:
        trainer: whose `fine_tuning` says how, and whose `state.progress` says where to begin and is kept up to date.
        weights: name -> weight that may be perturbed; those among `parameters` are.
        parameters: name -> parameter of the modules under repair.
        scores: of the model as it is.
    """
    settings, progress = trainer.fine_tuning, trainer.state.progress
    optimizer, objective = build_optimizer(parameters, settings), build_objective(trainer, weights, parameters)
    if progress.optimizer is not None:
        optimizer.load_state_dict(progress.optimizer)
    elif settings.patience and not math.isnan(progress.now()[1]):
        progress.best_score = progress.now()[1]
    for epoch in range(progress.epoch, settings.epochs):
        if settings.patience and stalled(progress, epochs=settings.patience):
            trainer.log(f"Stage 2: no gain in {settings.patience} epochs, the round is over.")
            break
        progress.epoch, progress.optimizer = epoch, optimizer.state_dict()
        trainer.save_state(trainer.epochs)
        number = progress.start_epoch + progress.round * settings.epochs + epoch
        objective.generator.manual_seed(trainer.config["seed"] + number)  # each epoch of its own: a killed run goes on
        objective.draw()
        objective.memory = Memory()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1.0 if 2 * epoch < settings.epochs else 0.1)
        with progress.timed():
            loss = one_epoch(trainer, number, parameters, optimizer, objective)
            score = math.nan if math.isnan(loss) else scores.robust()
        progress.epochs.append(TunedEpoch(progress.round, epoch, loss, score))
        if math.isnan(loss):
            trainer.logger.warning(f"Stage 2 diverged in epoch {epoch}; try a smaller ft_learning_rate.")
            break
        trainer.log(f"Stage 2 epoch {epoch} [train loss: {loss:.4f}, robust valid {trainer.valid_metric}: {score:.6f}]")
        trainer.tensorboard.add_scalar("RAWP/robust_valid_score", score, number)
        if scores.better(score, progress.best_score):
            progress.best_score, progress.best_epoch = score, epoch + 1
            progress.best = {name: parameter.detach().clone() for name, parameter in parameters.items()}


def stalled(progress: Progress, *, epochs: int) -> bool:
    """Tell whether the last so many epochs of the round at hand brought nothing."""
    done = [row for row in progress.epochs if row.round == progress.round]
    return len(done) - progress.best_epoch >= epochs


def build_optimizer(parameters: Parameters, settings: FineTuning) -> torch.optim.Optimizer:
    """Return the optimizer of stage 2: SGD with momentum, or one of RecBole's learners."""
    given: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.learner == "sgd":
        return torch.optim.SGD(parameters.values(), momentum=settings.momentum, **given)
    return LEARNERS[settings.learner](parameters.values(), **given)


def build_objective(trainer: Any, weights: Weights, parameters: Parameters) -> Objective:
    """Return the hardened loss that perturbs those of `parameters` which are among `weights`, with random numbers."""
    perturbed: Weights = {name: parameter for name, parameter in parameters.items() if name in weights}
    recipe, omega = trainer.fine_tuning.recipe, dict.fromkeys(perturbed, 1.0)
    return Objective(trainer.model, perturbed, recipe, omega=omega, generator=torch.Generator())


def one_epoch(
    trainer: Any, number: int, parameters: Parameters, optimizer: torch.optim.Optimizer, objective: Objective
) -> float:
    """Train `parameters` alone for an epoch; return its loss, NaN if that diverged.

    RecBole stops at a loss of NaN, and some losses refuse such numbers themselves.
    """
    objective.reset()
    arguments = trainer.arguments
    try:
        with alone(trainer, parameters, optimizer, objective):
            loss = trainer._train_epoch(arguments.train_data, number, show_progress=arguments.show_progress)
    except (RuntimeError, ValueError) as error:
        if not diverged(error, parameters, objective):
            raise
        return math.nan
    objective.clip()
    if objective.batches == 0:
        raise RuntimeError(f"{type(trainer).__name__}: its loop did not use loss_func; nothing was repaired")
    return float(sum(loss) if isinstance(loss, tuple) else loss)


def diverged(error: Exception, parameters: Parameters, objective: Objective) -> bool:
    """Tell whether training failed because numbers grew beyond measure, and not by a mistake in some code."""
    numbers = [*parameters.values(), torch.as_tensor(objective.losses)]
    finite = all(bool(number.isfinite().all()) for number in numbers)
    return not finite or NOT_A_NUMBER.fullmatch(str(error)) is not None


@contextmanager
def alone(
    trainer: Any, parameters: Parameters, optimizer: torch.optim.Optimizer, objective: Objective
) -> Iterator[None]:
    """Let the trainer's epochs change `parameters` only, by the hardened loss; put everything back afterwards.

    All optimizers of the trainer give way to one. BatchNorm keeps its statistics: the epoch's loop calls
    `model.train()`, so it is put in evaluation mode inside the loss. A phase whose loss does not use the module (MKR's
    knowledge graph) gets a gradient of 0.
    """
    kept = {id(parameter) for parameter in parameters.values()}
    others = [p for p in trainer.model.parameters() if p.requires_grad and id(p) not in kept]
    norms = [module for module in trainer.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def hardened(loss_function: LossFunction) -> LossFunction:
        """Return the hardened form of a loss function, with a trace of the module in it."""

        def anchored(batch: Any) -> Loss:
            """Return the loss plus 0 * sum(l*)."""
            for norm in norms:
                norm.eval()
            loss = loss_function(batch)
            trace = 0.0 * sum(parameter.real.sum() for parameter in parameters.values())
            return (loss[0] + trace, *loss[1:]) if isinstance(loss, tuple) else loss + trace

        return lambda batch: objective(anchored, batch)

    for parameter in others:
        parameter.requires_grad_(False)
        parameter.grad = None  # gradient clipping counts every gradient that it finds
    try:
        with trainer.only_optimizer(optimizer), trainer.only_loss(hardened):
            yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
