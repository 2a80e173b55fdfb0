"""How is only the weakest module repaired?

    freeze everything but module l*; minimise the hardened loss with perturbations of l* alone; keep the best epoch
    theta(a) = (1 - a) * theta_before + a * theta_tuned,  a = 0, 0.1 .. 1;  keep the best a

Best is the robust valid metric: the valid metric at the worst change of all ranked weights (FGSM, per tensor). For a,
the clean valid metric must stay within a tolerance of stage 1's. Stage 2 of RAWP-FT; test data are never seen.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from recbole_rawp import ball, criticality
from recbole_rawp.evaluation import AttackLoss, fixed_batches, measuring, ranked
from recbole_rawp.objective import Loss, LossFunction, Objective
from recbole_rawp.overlay import clear_caches
from recbole_rawp.perturbation import AdamMoments, ascend
from recbole_rawp.selection import Weights, modules
from recbole_rawp.settings import FineTuning

LEARNERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
ALPHAS = tuple(step / 10 for step in range(11))


@dataclass
class Progress:
    """How far stage 2 has come and what it has seen: tensors, numbers and strings, so that a run can go on from it.

    Attributes:
        round, epoch: what comes next, counted from 0; epochs within the round.
        start_epoch: number of the first epoch of stage 2 for logs and for trainers that alternate by epoch.
        clean, robust: stage 1's valid scores, once `started`.
        chosen: the parameters under repair; empty between rounds.
        before, best: their values at the round's start, and at its best epoch.
        derived: buffers and frozen parameters at the round's start.
        original: the values of all parameters repaired so far, before stage 2.
        best_score: robust valid score of that epoch.
        optimizer: state of the round's optimizer.
        ranking, epochs, sweep: rows for the report, each with its round.
        seconds: time spent on ranking, tuning and sweeping.
    """

    start_epoch: int
    round: int = 0
    epoch: int = 0
    started: bool = False
    clean: float = float("nan")
    robust: float = float("nan")
    chosen: list[str] = field(default_factory=list)
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    derived: dict[str, torch.Tensor] = field(default_factory=dict)
    original: dict[str, torch.Tensor] = field(default_factory=dict)
    best_score: float | None = None
    optimizer: dict[str, Any] | None = None
    ranking: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def end_round(self) -> None:
        """Forget what only the round that is over needed."""
        self.round, self.epoch, self.chosen = self.round + 1, 0, []
        self.before, self.best, self.derived, self.best_score, self.optimizer = {}, {}, {}, None, None

    def changed(self) -> bool:
        """Tell whether a repair was worth keeping."""
        return any(row["chosen"] and row["alpha"] > 0 for row in self.sweep)

    def now(self) -> tuple[float, float]:
        """Return the clean and robust valid scores of the model as repaired so far."""
        chosen = [row for row in self.sweep if row["chosen"]]
        return (chosen[-1]["clean"], chosen[-1]["robust"]) if chosen else (self.clean, self.robust)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time spent inside to `seconds`."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


class Judge:
    """Scores the model as it is now on valid data: clean, and under the attack by which stage 2 chooses."""

    def __init__(self, trainer: Any, train_data: Any, valid_data: Any, weights: Weights, settings: FineTuning) -> None:
        self.trainer, self.train_data, self.valid_data = trainer, train_data, valid_data
        self.weights, self.settings = weights, settings
        self.batches = fixed_batches(train_data, settings.criticality.batches, trainer.device)

    def clean(self) -> float:
        """Return the valid metric, unrounded."""
        with measuring(self.trainer, self.train_data, self.valid_data):
            return self._score({})

    def robust(self) -> float:
        """Return the valid metric at the worst change of the weights within the radius of stage 2."""
        recipe, steps = self.settings.recipe, self.settings.attack_steps
        with measuring(self.trainer, self.train_data, self.valid_data):
            loss = AttackLoss(self.trainer.model, self.batches, self.weights)
            bound = ball.around(self.weights, recipe.radius, relative=recipe.relative)
            delta = ascend(loss.gradient, self.weights, bound, steps=steps, generator=torch.Generator())
            if not any(change.any() for change in delta.values()):
                self.trainer.logger.warning("Stage 2: the attack has no gradient; its robust score is the clean one.")
            return self._score(delta)

    def _score(self, delta: Weights) -> float:
        return ranked(self.trainer, self.valid_data, self.weights, delta)[self.trainer.valid_metric]

    def better(self, score: float, than: float | None) -> bool:
        """Tell whether a score beats another; NaN beats nothing."""
        if than is None:
            return score == score
        return score > than if self.trainer.valid_metric_bigger else score < than

    def keeps(self, score: float, of: float) -> bool:
        """Tell whether a clean score stays within the tolerance of stage 1's."""
        bigger = self.trainer.valid_metric_bigger
        bound = limit(of, self.settings.clean_tolerance, bigger=bigger)
        return score >= bound if bigger else score <= bound


def limit(clean: float, tolerance: float, *, bigger: bool) -> float:
    """Return the clean score that must be kept: tolerance * clean, or clean / tolerance where less is better."""
    return clean - (1 - tolerance) * abs(clean) if bigger else clean + (1 / tolerance - 1) * abs(clean)


def repair(
    trainer: Any,
    train_data: Any,
    valid_data: Any,
    *,
    weights: Weights,
    settings: FineTuning,
    progress: Progress,
    save: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda text: None,
    show_progress: bool = False,
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
    rows = criticality.rank(trainer, train_data, valid_data, weights=weights, settings=settings.criticality)
    targets = [row["module"] for row in rows if row["module"] not in done][: settings.modules]
    progress.ranking += [{"round": progress.round, **row, "repaired": row["module"] in targets} for row in rows]
    units = modules(trainer.model, weights)
    progress.chosen = [name for target in targets for name in parameters_of(trainer.model, target, units[target])]
    progress.before = values(trainer.model, progress.chosen)
    progress.original = {**progress.before, **progress.original}
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    state = trainer.model.state_dict()
    progress.derived = {name: value.clone() for name, value in state.items() if name not in trained}
    return bool(targets)


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
            try:
                with alone(trainer, parameters, optimizer, objective):
                    loss = trainer._train_epoch(train_data, number, show_progress=show_progress)
            except (RuntimeError, ValueError) as error:  # RecBole stops at a loss of NaN; some losses refuse it
                finite = all(bool(parameter.isfinite().all()) for parameter in parameters.values())
                if finite and "nan" not in str(error):
                    raise
                trainer.logger.warning(f"Stage 2 diverged in epoch {epoch}; try a smaller ft_learning_rate.")
                break
            if objective.batches == 0:
                raise RuntimeError(f"{type(trainer).__name__}: its loop did not use loss_func; nothing was repaired")
            objective.reset()
            score = judge.robust()
        summed = sum(loss) if isinstance(loss, tuple) else loss
        progress.epochs.append({"round": progress.round, "epoch": epoch, "loss": float(summed), "robust": score})
        log(f"Stage 2 epoch {epoch} [train loss: {summed:.4f}, robust valid {trainer.valid_metric}: {score:.6f}]")
        trainer.tensorboard.add_scalar("RAWP/robust_valid_score", score, number)
        if judge.better(score, progress.best_score):
            progress.best, progress.best_score = values(trainer.model, parameters), score


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
    originals = {name: value for name, value in vars(trainer).items() if isinstance(value, torch.optim.Optimizer)}

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
    """Score theta(a) for every a, and leave the model at the best: the smallest a of those that are equally robust."""
    before, tuned = progress.before, progress.best or progress.before
    clean, robust = progress.now()
    rows = []
    for alpha in ALPHAS:
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
    clear_caches(model.modules())


def summary(progress: Progress, metric: str) -> list[str]:
    """Return in words what stage 2 ranked and chose, a line for each round."""
    lines = []
    for round_ in range(progress.round):
        ranking, sweep = (
            [row for row in rows if row["round"] == round_] for rows in (progress.ranking, progress.sweep)
        )
        order = ", ".join(f"{row['module']} {row['rise']:.3g}" for row in ranking)
        repaired = ", ".join(row["module"] for row in ranking if row["repaired"])
        chosen = next(row for row in sweep if row["chosen"])
        lines.append(
            f"Stage 2, round {round_ + 1}: loss rise {order}. Repaired {repaired}: alpha {chosen['alpha']:g}, valid "
            f"{metric} {sweep[0]['clean']:.4f} -> {chosen['clean']:.4f}, under attack {sweep[0]['robust']:.4f} -> "
            f"{chosen['robust']:.4f}."
        )
    return lines
