"""RecBole's own evaluation of the model as it runs now: unrounded, and user by user."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct
from recbole.utils import EvaluatorType
from torch import nn

from recbole_rawp.core import restoring
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.losses.attack_loss import AttackLoss
from recbole_rawp.core.overlay import clear_caches
from recbole_rawp.core.restoring import SEED, seed_generators
from recbole_rawp.host.batches import loader_generators
from recbole_rawp.host.ranking.candidates import samples
from recbole_rawp.host.ranking.item_chunks import in_pieces
from recbole_rawp.host.ranking.logits import ranked_by_logits

UNROUNDED = 17  # decimals; a float has no more
PER_USER = ["rec.topk"]  # what a metric that is a mean over users needs of RecBole's collector
BATCHED = {"rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label"}  # what RecBole collects batch by batch
TOP = "rec.items"  # the name of the lists of recommended items there


@dataclass(frozen=True)
class Measured:
    """Result of one evaluation.

    Attributes:
        metrics: RecBole's, unrounded.
        users: metric -> its value for each user, [U]; only metrics that are a mean over users.
        top: the items recommended to each user, [U, k], k the largest topk, or the number of candidates if that is
            smaller; None where nothing is ranked.
    """

    metrics: dict[str, float]
    users: dict[str, np.ndarray]
    top: np.ndarray | None


@dataclass(frozen=True)
class Measurement:
    """What was measured of one variant of a threat at one level.

    Attributes:
        losses: name -> that loss.
        climbs: the name of the loss by which the change was found; empty if it looks at none.
        settled: whether the search for it ended about where it was best.
    """

    variant: str
    level: float
    measured: Measured
    losses: dict[str, float]
    climbs: str = ""
    settled: bool = True


class NotingEvaluator(Evaluator):
    """RecBole's evaluator; it remembers what it was given last, and whether a score was NaN on the way."""

    collected: DataStruct | None = None
    nan = False

    def evaluate(self, dataobject: DataStruct) -> dict[str, float]:
        """Evaluate as RecBole does."""
        self.collected = dataobject
        return super().evaluate(dataobject)


def ranked(trainer: Any, eval_data: Any, *, seed: int = SEED) -> Measured:
    """Return RecBole's own evaluation of the model as it runs now; nothing without `eval_data`. Within `measuring`."""
    seed_generators(seed)
    trainer.evaluator.nan = False
    clear_caches(trainer.model.modules())  # loading weights does not, for some models
    result = trainer.evaluate(eval_data, load_best_model=False, show_progress=False)
    if result is None:
        return Measured({}, {}, None)
    return measured(trainer.evaluator, result, eval_data, nan=trainer.evaluator.nan)


def ranked_at(trainer: Any, eval_data: Any, loss: AttackLoss, delta: Weights) -> Measured:
    """Return RecBole's own evaluation of the model as `loss` moves it by delta; nothing without `eval_data`."""
    return ranked_as(trainer, eval_data, lambda: loss.at(delta), changed=bool(delta))


def ranked_as(
    trainer: Any, eval_data: Any, run: Callable[[], AbstractContextManager[None]], *, changed: bool
) -> Measured:
    """Return RecBole's own evaluation of the model that `run` enters; nothing without `eval_data`.

    A changed model is ranked by logits (`logits`); metrics by value (AUC, LogLoss) take the probabilities.
    """
    by_value = trainer.config["eval_type"] == EvaluatorType.VALUE
    order = ranked_by_logits(trainer.model) if changed and not by_value else nullcontext()
    with torch.no_grad(), run(), order:
        return ranked(trainer, eval_data)


def measured(evaluator: NotingEvaluator, result: dict[str, float], eval_data: Any, *, nan: bool) -> Measured:
    """Return what the evaluator found, with its users.

    Where a score was NaN every metric is, of every user: RecBole's ranking takes NaN for the best score.
    """
    collected = evaluator.collected
    assert collected is not None
    metrics = {metric: math.nan if nan else float(value) for metric, value in result.items()}
    top = collected.get(TOP).numpy() if TOP in collected else None
    if top is not None and samples(eval_data):
        top = top[:, : eval_data.times]  # the places after a user's candidates are the same always
    users = {
        name: np.full(each.shape, math.nan) if nan else each for name, each in by_user(evaluator, collected).items()
    }
    return Measured(metrics, users, top)


def by_user(evaluator: Evaluator, collected: DataStruct) -> dict[str, np.ndarray]:
    """Return every metric that RecBole averages over users before it does: name -> [U]."""
    found = {}
    for metric in evaluator.metric_class.values():
        if getattr(metric, "metric_need", None) == PER_USER:
            apart = copy.copy(metric)
            apart.topk_result = lambda name, value, topk=apart.topk: {f"{name}@{k}": value[:, k - 1] for k in topk}
            found.update(apart.calculate_metric(collected))
    return found


@contextmanager
def measuring(trainer: Any, *loaders: Any) -> Iterator[None]:
    """Measure and leave no trace: generators, the loaders' too, the model's state, mode and metrics are put back."""
    generators = [generator for loader in loaders if loader is not None for generator in loader_generators(loader)]
    with (
        torch.autograd.set_detect_anomaly(False),  # importing RecBole's SINE switches it on: slow, and NaN raises
        restoring.rng(generators),
        restoring.state(trainer.model),
        evaluation_mode(trainer.model),
        unrounded(trainer),
        in_pieces(trainer),
    ):
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
    """Let RecBole's evaluator keep all decimals and the lists of items, and attacked scores out of wandb's summary."""
    config, evaluator, logs = trainer.config, trainer.evaluator, trainer.wandblogger.log_wandb
    decimals, register = config["metric_decimal_place"], trainer.eval_collector.register
    lists = vars(register).get(TOP)
    config["metric_decimal_place"] = UNROUNDED
    trainer.evaluator = NotingEvaluator(config)
    trainer.eval_collector.eval_batch_collect = noting_nan(trainer.evaluator, trainer.eval_collector.eval_batch_collect)
    trainer.wandblogger.log_wandb = False
    if register.need("rec.topk"):
        setattr(register, TOP, True)
    try:
        yield
    finally:
        config["metric_decimal_place"] = decimals
        trainer.evaluator, trainer.wandblogger.log_wandb = evaluator, logs
        setattr(register, TOP, lists)
        del trainer.eval_collector.eval_batch_collect
        for name in BATCHED & trainer.eval_collector.data_struct._data_dict.keys():  # left by an interruption
            del trainer.eval_collector.data_struct[name]


def noting_nan(evaluator: NotingEvaluator, collect: Any) -> Any:
    """Return RecBole's `eval_batch_collect`, which tells the evaluator of scores that are NaN.

    It gets numbers in their place, and, of labelled rows, in that of infinity: some metrics refuse these.
    """

    def eval_batch_collect(scores: torch.Tensor, *rest: Any) -> None:
        """Look at the scores, and collect them."""
        nan = bool(scores.isnan().any())
        evaluator.nan = evaluator.nan or nan
        refused = nan or (scores.dim() == 1 and not bool(scores.isfinite().all()))
        collect(scores.nan_to_num() if refused else scores, *rest)

    return eval_batch_collect
