"""How is only the weakest module repaired?

    freeze everything but module l*; minimise the hardened loss with perturbations of l* alone; keep the best epoch
    theta(a) = (1 - a) * theta_before + a * theta_tuned,  a = 0, 0.1 .. 1;  keep the best a

Best is the robust valid metric: the valid metric at the worst change of all ranked weights (`judge`). For a, the clean
valid metric must stay within a tolerance of stage 1's. Stage 2 of RAWP-FT; test data are never seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recbole_rawp.config.settings import FineTuning
from recbole_rawp.core.ascent import AdamMoments
from recbole_rawp.core.gradients import Loss, LossFunction
from recbole_rawp.core.objective import Objective
from recbole_rawp.core.selection import Weights, modules
from recbole_rawp.host.quirks import settle
from recbole_rawp.training.resume import optimizers_of
from recbole_rawp.training.stage2 import criticality
from recbole_rawp.training.stage2.progress import Progress, summary
from recbole_rawp.training.stage2.robust_score import Judge

LEARNERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
ALPHAS = tuple(step / 10 for step in range(11))


def repair(
    trainer: Any,
    train_data: Any,
    valid_data: Any,
    *,
    weights: Weights,
    settings: FineTuning,
    progress: Progress,
    save: Callable[[], None],
    log: Callable[[str], None],
    show_progress: bool,
) -> None:
    """Repair the weakest modules of the trainer's model, in place, and note in `progress` what was seen.

    Each round ranks the modules, tunes the weakest and interpolates. Only their parameters are changed, and what the
    model itself derives from them; alpha = 0, no gain, leaves them bit-equal. The trainer's `_train_epoch` runs the
    epochs, so that its own passes, phases and clipping stay.

    Args:
        trainer: a `RAWPTrainer` whose model holds stage 1's best weights.
        train_data, valid_data: RecBole's loaders.
        weights: name -> weight among which modules are ranked.
        settings: of stage 2.
        progress: where to begin; that of a killed run goes on.
        save: called before each epoch, when `progress` is enough to go on from.
        log: told of the ranking, each epoch and the choice.
        show_progress: RecBole's bars.
    """
    with progress.timed():
        judge = Judge(trainer, train_data, valid_data, weights, settings)
        if not progress.started:
            progress.clean, progress.robust, progress.started = judge.clean(), judge.robust(), True
    while progress.round < settings.rounds:
        with progress.timed():
            if not progress.chosen and not choose(trainer, train_data, valid_data, weights, settings, progress):
                break
            log(f"Stage 2, round {progress.round + 1}: repairing {', '.join(progress.chosen)}.")
        parameters = {name: trainer.model.get_parameter(name) for name in progress.chosen}
        tune(trainer, train_data, weights, parameters, judge, progress, save, log, show_progress)
        with progress.timed():
            interpolate(trainer.model, parameters, judge, progress)
        progress.end_round()
        log(summary(progress, trainer.valid_metric)[-1])


def choose(
    trainer: Any, train_data: Any, valid_data: Any, weights: Weights, settings: FineTuning, progress: Progress
) -> bool:
    """Rank the modules and note the weakest that were not repaired yet; return False when none is left."""
    done = {row["module"] for row in progress.ranking if row["repaired"]}
    units = modules(trainer.model, weights)
    if done == units.keys():
        return False
    rows = criticality.rank(trainer, train_data, valid_data, weights=weights, settings=settings.criticality)
    targets = [row["module"] for row in rows if row["module"] not in done][: settings.modules]
    progress.ranking += [{"round": progress.round, **row, "repaired": row["module"] in targets} for row in rows]
    progress.chosen = [name for target in targets for name in parameters_of(trainer.model, target, units[target])]
    progress.before = values(trainer.model, progress.chosen)
    progress.original = {**progress.before, **progress.original}
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    state = trainer.model.state_dict()
    progress.derived = {name: value.clone() for name, value in state.items() if name not in trained}
    return True


def parameters_of(model: nn.Module, module: str, weights: list[str]) -> list[str]:
    """Return the names of all trained parameters of a module, its bias too; of a raw parameter, its own name."""
    if module in weights:
        return [module]
    own = model.get_submodule(module).named_parameters(recurse=False)
    return [f"{module}.{leaf}" for leaf, parameter in own if parameter.requires_grad]


def tune(
    trainer: Any,
    train_data: Any,
    weights: Weights,
    parameters: dict[str, nn.Parameter],
    judge: Judge,
    progress: Progress,
    save: Callable[[], None],
    log: Callable[[str], None],
    show_progress: bool,
) -> None:
    """Train `parameters` alone, and note their values after the epoch with the best robust valid score."""
    settings = judge.settings
    perturbed: Weights = {name: parameter for name, parameter in parameters.items() if name in weights}
    seeds = torch.Generator()
    objective = Objective(
        trainer.model, perturbed, settings.recipe, omega=dict.fromkeys(perturbed, 1.0), generator=seeds
    )
    optimizer = build_optimizer(parameters, settings)
    if progress.optimizer is not None:
        optimizer.load_state_dict(progress.optimizer)
    for epoch in range(progress.epoch, settings.epochs):
        progress.epoch, progress.optimizer = epoch, optimizer.state_dict()
        save()
        number = progress.start_epoch + progress.round * settings.epochs + epoch
        seeds.manual_seed(trainer.config["seed"] + number)  # each epoch of its own, so that a killed run can go on
        objective.draw()
        objective.adam = AdamMoments()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1.0 if 2 * epoch < settings.epochs else 0.1)
        with progress.timed():
            loss = one_epoch(trainer, train_data, number, parameters, optimizer, objective, show_progress)
            score = math.nan if math.isnan(loss) else judge.robust()
        progress.epochs.append({"round": progress.round, "epoch": epoch, "loss": loss, "robust": score})
        if math.isnan(loss):
            trainer.logger.warning(f"Stage 2 diverged in epoch {epoch}; try a smaller ft_learning_rate.")
            break
        log(f"Stage 2 epoch {epoch} [train loss: {loss:.4f}, robust valid {trainer.valid_metric}: {score:.6f}]")
        trainer.tensorboard.add_scalar("RAWP/robust_valid_score", score, number)
        if judge.better(score, progress.best_score):
            progress.best, progress.best_score = values(trainer.model, parameters), score


def one_epoch(
    trainer: Any,
    train_data: Any,
    number: int,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    show_progress: bool,
) -> float:
    """Train `parameters` alone for an epoch; return its loss, NaN if that diverged.

    RecBole stops at a loss of NaN, which some losses refuse themselves.
    """
    objective.reset()
    try:
        with alone(trainer, parameters, optimizer, objective):
            loss = trainer._train_epoch(train_data, number, show_progress=show_progress)
    except (RuntimeError, ValueError) as error:
        if all(bool(parameter.isfinite().all()) for parameter in parameters.values()) and "nan" not in str(error):
            raise
        return math.nan
    if objective.batches == 0:
        raise RuntimeError(f"{type(trainer).__name__}: its loop did not use loss_func; nothing was repaired")
    return float(sum(loss) if isinstance(loss, tuple) else loss)


@contextmanager
def alone(
    trainer: Any, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, objective: Objective
) -> Iterator[None]:
    """Let the trainer's epochs change `parameters` only, by the hardened loss; put everything back afterwards.

    All optimizers of the trainer (RecVAE has three) give way to one. BatchNorm keeps its statistics: the epoch's loop
    calls `model.train()`, so it is put in evaluation mode inside the loss. A phase whose loss does not use the module
    (MKR's knowledge graph) gets a gradient of 0.
    """
    kept = {id(parameter) for parameter in parameters.values()}
    others = [p for p in trainer.model.parameters() if p.requires_grad and id(p) not in kept]
    norms = [module for module in trainer.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    originals = optimizers_of(trainer)

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
    vars(trainer).update(dict.fromkeys(originals, optimizer))
    trainer.hardened = hardened
    try:
        yield
    finally:
        trainer.hardened = None
        vars(trainer).update(originals)
        for parameter in others:
            parameter.requires_grad_(True)


def build_optimizer(parameters: dict[str, nn.Parameter], settings: FineTuning) -> torch.optim.Optimizer:
    """Return the optimizer of stage 2: SGD with momentum, or one of RecBole's learners."""
    if settings.learner == "sgd":
        return torch.optim.SGD(
            parameters.values(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    learner = LEARNERS[settings.learner]
    return learner(parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def interpolate(model: nn.Module, parameters: dict[str, nn.Parameter], judge: Judge, progress: Progress) -> None:
    """Score theta(a) for every a, and leave the model at the best: the smallest a of those that are equally robust.

    Only a = 0 where tuning came to nothing.
    """
    before, tuned = progress.before, progress.best or progress.before
    clean, robust = progress.now()
    rows = []
    for alpha in ALPHAS if progress.best else ALPHAS[:1]:
        put(model, {name: mix(before[name], tuned[name], alpha) for name in parameters})
        scores = (clean, robust) if alpha == 0 else (judge.clean(), judge.robust())
        rows.append({"round": progress.round, "alpha": alpha, "clean": scores[0], "robust": scores[1], "chosen": False})
    choice = rows[0]
    for row in rows[1:]:
        if judge.keeps(row["clean"], of=progress.clean) and judge.better(row["robust"], choice["robust"]):
            choice = row
    choice["chosen"] = True
    if choice["alpha"] == 0:  # what the model derived from its weights meanwhile goes, too: RecVAE's prior
        model.load_state_dict(progress.derived, strict=False)
    put(model, {name: mix(before[name], tuned[name], choice["alpha"]) for name in parameters})
    progress.sweep += rows


@contextmanager
def undone(model: nn.Module, progress: Progress) -> Iterator[None]:
    """Run the model as it was before stage 2."""
    repaired = values(model, progress.original)
    put(model, progress.original)
    try:
        yield
    finally:
        put(model, repaired)


def mix(before: torch.Tensor, tuned: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return (1 - alpha) * before + alpha * tuned; at 0 and 1 the tensors themselves."""
    return before if alpha == 0 else tuned if alpha == 1 else torch.lerp(before, tuned, alpha)


def values(model: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return copies of the named parameters."""
    return {name: model.get_parameter(name).detach().clone() for name in names}


@torch.no_grad()
def put(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy `tensors` into the parameters of those names."""
    for name, tensor in tensors.items():
        model.get_parameter(name).copy_(tensor)
    settle(model)
