"""How well does it hold?  model x attack x radius -> records; radius 0 is the clean model."""

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.utils import KGDataLoaderState
from torch import nn
from tqdm import tqdm

from recbole_rawp import ball, preserve
from recbole_rawp.objective import gradients, shifted_loss, total
from recbole_rawp.overlay import clear_caches, overlay
from recbole_rawp.perturbation import ascend
from recbole_rawp.selection import Weights

Record = dict[str, Any]
SCHEMA = (
    *("model", "dataset", "defense", "stage", "seed", "split", "attack", "target", "granularity", "scope", "steps"),
    *("radius", "metric", "value"),
)

# A global weight attack is one delta for the whole evaluation: name -> direction of `perturbation.ascend`. `fgsm` is
# `bim` with one step (Kurakin et al., 2017); a model that resists the one and not the other hides its gradient.
ATTACKS = {"random": "random", "fgsm": "gradient", "bim": "gradient"}
LOSS = "loss"  # the metric name of the attacked loss itself, on training batches
UNROUNDED = 17  # decimals; a float has no more
SEED = 2020  # of whatever RecBole draws while measuring: the same attacked batches and candidates (uniN) everywhere


def under_attack(
    trainer: Any,
    train_data: Any,
    eval_data: Any,
    *,
    weights: Weights,
    radii: Iterable[float],
    defense: str,
    attacks: Sequence[str] = tuple(ATTACKS),
    steps: int = 10,
    granularity: str = "tensor",
    batches: int = 10,
    target: str | Sequence[str] = "hidden",
    split: str = "test",
    stage: int = 1,
    show_progress: bool = False,
) -> list[Record]:
    """Measure RecBole's metrics, unrounded, while `weights` are attacked at each radius, and the attacked loss.

    The global attack moves the weights once, by radius * norm of each group: along the gradient of the model's own
    training loss, summed over fixed training batches in evaluation mode, in one step (`fgsm`) or several (`bim`), or in
    a random direction of the same norm (`random`, the control). Nothing is left behind: weights are bit-equal,
    caches clear and generators where they were.

    Args:
        trainer: any RecBole Trainer holding the model to be measured.
        train_data: the loader whose loss is attacked.
        eval_data: the loader that is ranked.
        weights: name -> attacked weight.
        radii: fractions of each group's norm; 0 is always measured, first.
        defense: for the records.
        attacks: names of `ATTACKS`.
        steps: of `bim`.
        granularity: what one norm spans, see `ball`.
        batches: how many training batches the attack uses.
        target, split, stage: for the records.
        show_progress: whether to show a bar over attacks and radii.

    Returns:
        Records with the fields `SCHEMA`, for every attack, radius and metric.
    """
    config = trainer.config
    common = {
        "model": config["model"],
        "dataset": config["dataset"],
        "defense": defense,
        "stage": stage,
        "seed": config["seed"],
        "target": target if isinstance(target, str) else ",".join(target),
        "granularity": granularity,
        "scope": "global",
    }
    curve = sorted({0.0, *radii})
    records: list[Record] = []
    with measuring(trainer, train_data, eval_data):
        loss = AttackLoss(trainer.model, fixed_batches(train_data, batches, trainer.device), weights)
        clean = measure(trainer, eval_data, loss, {})
        grid = [(attack, radius) for attack in attacks for radius in curve]
        for attack, radius in tqdm(grid, desc="Attack", ncols=100, disable=not show_progress):
            taken = steps if attack == "bim" else 1
            measured = clean
            if radius > 0:
                bound = ball.around(weights, radius, granularity=granularity)
                noise = torch.Generator().manual_seed(config["seed"])
                delta = ascend(loss.gradient, weights, bound, direction=ATTACKS[attack], steps=taken, generator=noise)
                measured = measure(trainer, eval_data, loss, delta)
            for metric, value in measured.items():
                where = {"split": "train" if metric == LOSS else split, "attack": attack, "steps": taken}
                records.append(common | where | {"radius": radius, "metric": metric, "value": value})
    return [{field: record[field] for field in SCHEMA} for record in records]


class AttackLoss:
    """The training loss over fixed batches as a function of delta, with the same random numbers on each call.

    `delta` may hold some of the weights only; the others stay where they are.
    """

    def __init__(self, model: nn.Module, batches: list[Any], weights: Weights) -> None:
        self.model, self.batches, self.weights = model, batches, weights
        self.function = training_loss(model)
        self._at_weights: Weights | None = None

    def value(self, delta: Weights) -> float:
        """Return the mean loss over the batches at w + delta."""
        with torch.no_grad():
            losses = [float(total(loss)) for loss in self._losses(delta)]
        return sum(losses) / len(losses)

    def gradient(self, delta: Weights | None) -> Weights:
        """Return the gradient at w + delta by the weights in delta, summed over the batches.

        At w (None) it is by all weights, and computed once for all radii and modules.
        """
        if delta is None and self._at_weights is not None:
            return self._at_weights
        summed: Weights = {}
        # cuDNN's recurrent layers have no backward pass in evaluation mode.
        names = self.weights if delta is None else delta
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            for loss in self._losses(delta):
                found = gradients(loss, {name: self.weights[name] for name in names})
                summed = {name: summed[name] + g if summed else g for name, g in found.items()}
        if delta is None:
            self._at_weights = summed
        return summed

    def _losses(self, delta: Weights | None) -> Iterator[Any]:
        for batch in self.batches:
            with preserve.rng(), preserve.state(self.model):
                seed_generators()
                yield shifted_loss(self.model, self.function, batch, self.weights, delta or None)


def training_loss(model: Any) -> Callable[[Any], Any]:
    """Return the loss of the recommendation task.

    MKR keeps it apart from that of its knowledge graph; RecVAE has two, of which the decoder's is the plain one.
    """
    loss = getattr(model, "calculate_rs_loss", None) or model.calculate_loss
    if "encoder_flag" in inspect.signature(loss).parameters:
        return partial(loss, encoder_flag=False)
    return loss


def fixed_batches(train_data: Any, count: int, device: torch.device) -> list[Any]:
    """Return the first batches that the loader gives, the same on every call, and leave the loader as it was."""
    mode = getattr(train_data, "state", None)
    if hasattr(train_data, "set_mode"):  # both tasks' fields
        train_data.set_mode(KGDataLoaderState.RSKG)
    try:
        with preserve.rng(loader_generators(train_data)):
            for generator in loader_generators(train_data):
                generator.manual_seed(SEED)
            seed_generators()
            return [batch.to(device) for batch in islice(train_data, count)]
    finally:
        if hasattr(train_data, "set_mode"):
            train_data.state = mode


def loader_generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that a RecBole loader draws its order from; a knowledge graph's loader has two."""
    parts = [getattr(loader, name, None) for name in ("general_dataloader", "kg_dataloader")]
    return [part.generator for part in parts if part is not None] or [loader.generator]


def measure(trainer: Any, eval_data: Any, loss: AttackLoss, delta: Weights) -> dict[str, float]:
    """Return the metrics of RecBole's own evaluation at w + delta (none without `eval_data`), and the loss there."""
    return {**ranked(trainer, eval_data, loss.weights, delta), LOSS: loss.value(delta)}


def ranked(trainer: Any, eval_data: Any, weights: Weights, delta: Weights) -> dict[str, float]:
    """Return the metrics of RecBole's own evaluation at w + delta."""
    seed_generators()
    clear_caches(trainer.model.modules())  # loading weights does not, for some models
    shifted = {name: weights[name].detach() + change for name, change in delta.items()}
    with overlay(trainer.model, shifted) if shifted else nullcontext():
        result = trainer.evaluate(eval_data, load_best_model=False, show_progress=False) or {}
    return {metric: float(value) for metric, value in result.items()}


def seed_generators() -> None:
    """Seed what RecBole draws from: Python's, numpy's and torch's generators. Callers put them back."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@contextmanager
def measuring(trainer: Any, *loaders: Any) -> Iterator[None]:
    """Measure and leave no trace: generators, the loaders' too, the model's state, mode and metrics are put back."""
    generators = [generator for loader in loaders if loader is not None for generator in loader_generators(loader)]
    with preserve.rng(generators), preserve.state(trainer.model), evaluation_mode(trainer.model), unrounded(trainer):
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Run in evaluation mode: no dropout, BatchNorm by its running statistics, as when the model is deployed."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def unrounded(trainer: Any) -> Iterator[None]:
    """Let RecBole's evaluator keep all decimals, and keep attacked scores out of wandb's summary."""
    config, evaluator, logs = trainer.config, trainer.evaluator, trainer.wandblogger.log_wandb
    decimals = config["metric_decimal_place"]
    config["metric_decimal_place"] = UNROUNDED
    trainer.evaluator = Evaluator(config)
    trainer.wandblogger.log_wandb = False
    try:
        yield
    finally:
        config["metric_decimal_place"] = decimals
        trainer.evaluator, trainer.wandblogger.log_wandb = evaluator, logs
