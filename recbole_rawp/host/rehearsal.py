"""Tries one batch of training, before anything is written, and one of evaluation, before anything is trained."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import torch
from recbole.config import Config
from recbole.trainer.trainer import Trainer
from recbole.utils import get_trainer
from torch import nn
from torch.nn.utils import clip_grad_norm_

from recbole_rawp.core import restoring
from recbole_rawp.core.gradients import total
from recbole_rawp.errors import InputError
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.preparation import recboles
from recbole_rawp.host.quirks import pretraining, training_loss
from recbole_rawp.host.ranking.measurement import measuring, ranked


def check_training(config: Config, model: nn.Module, train_data: Any) -> None:
    """Look for what RecBole would only notice in its first epoch; generators, loader and model stay as they were.

    Raises:
        InputError: for settings with which RecBole's training fails.
    """
    if not isinstance(config["learner"], str):
        raise InputError(f"learner: {config['learner']!r} is not valid; expected the name of an optimizer, as adam.")
    check_clipping(config["clip_grad_norm"])
    check_dynamic(config, model, train_data)
    transform = config["transform"]
    with recboles("training batches" if transform is None else f"training batches (transform: {transform})"):
        (batch,) = fixed_batches(train_data, 1, config["device"])
    check_loss(config, model, batch[:1] if last_rows(train_data) == 1 else batch)
    if config["learner"].lower() == "sparse_adam":
        check_sparse(model, batch)


def check_clipping(arguments: Any) -> None:
    """Raise InputError for a `clip_grad_norm` that torch's function does not take."""
    try:
        clip_grad_norm_([], **(arguments or {"max_norm": 1.0}))
    except (TypeError, ValueError) as error:
        raise InputError(f"clip_grad_norm: {arguments!r} cannot be used ({error}). Say {{max_norm: 5}}.") from error


def check_dynamic(config: Config, model: nn.Module, train_data: Any) -> None:
    """Raise InputError if dynamic negatives are wanted of a loader that draws none, or from no candidates."""
    arguments = config["train_neg_sample_args"] or {}
    if not arguments.get("dynamic"):
        return
    if not hasattr(train_data, "get_model"):
        raise InputError(f"train_neg_sample_args: {type(model).__name__} draws no negatives. Leave dynamic out.")
    if arguments["candidate_num"] < 1:
        raise InputError("train_neg_sample_args: dynamic picks one of candidate_num, which is 0. Set it to 2 or more.")


def last_rows(train_data: Any) -> int:
    """Return how many rows the last batch of an epoch has."""
    loader = getattr(train_data, "general_dataloader", train_data)
    return (loader.sample_size % loader.step or loader.step) * getattr(loader, "times", 1)


def check_loss(config: Config, model: nn.Module, batch: Any) -> None:
    """Raise InputError if there is no loss, or it lacks a field, or BatchNorm more than one row to take statistics of.

    Whatever else fails may be due to what a trainer does first (NCL clusters), and is left for training to show.
    """
    name = type(model).__name__
    recboles_own = get_trainer(config["MODEL_TYPE"], config["model"]).__module__ == Trainer.__module__
    try:
        with restoring.rng(), restoring.state(model), torch.no_grad():
            for module in model.modules():  # not `train()`, which makes SGL draw graphs
                module.training = True
            training_loss(model)(batch)
    except NotImplementedError as error:
        if recboles_own:
            raise InputError(
                f"model: {name} has no calculate_loss. Write it, or put a {name}Trainer that passes a loss to "
                "super()._train_epoch into recbole.trainer."
            ) from error
    except KeyError as error:
        if recboles_own:  # another may pass a loss that adds the field
            raise InputError(
                f"train_neg_sample_args: the loss of {name} needs the field {error}, which no training batch has. Let "
                "it draw negatives, or load that column or make it by threshold."
            ) from error
    except Exception as error:
        if "more than 1 value per channel" in str(error):
            raise InputError(
                f"train_batch_size: the last batch of an epoch has one row, on which {name} cannot train ({error}). "
                "Choose another size."
            ) from error


def check_sparse(model: nn.Module, batch: Any) -> None:
    """Raise InputError if a weight has a dense gradient, which SparseAdam refuses."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with restoring.rng(), restoring.state(model):
        loss = total(training_loss(model)(batch))
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    for name, gradient in zip(trained, found):
        if gradient is not None and not gradient.is_sparse:
            raise InputError(f"learner: sparse_adam takes sparse gradients only; {name} has a dense one. Use adam.")


def check_evaluation(trainer: Any, *, train_data: Any, eval_data: Any, trained: bool) -> None:
    """Score one batch as RecBole's evaluation does; generators, loaders and model stay as they were.

    Args:
        trainer: any RecBole Trainer; what its evaluation collects of the training data is collected.
        eval_data: may be empty.
        trained: whether the model is; what else fails may be due to what training does first, and is left to it.

    Raises:
        InputError: for settings with which RecBole's evaluation fails, of one batch and of all.
    """
    if not eval_data or pretraining(trainer.model):
        return
    trainer.eval_collector.data_collect(train_data)
    failed = scoring_fails(trainer, train_data, first_batch(eval_data))
    failed = failed and scoring_fails(trainer, train_data, eval_data)  # one batch may lack what all have: two labels
    if failed and (trained or isinstance(failed, KeyError)):
        reason = f"{type(failed).__name__}: {' '.join(str(failed).split())}"
        raise InputError(f"RecBole cannot evaluate the model with these settings: {reason}") from failed


def scoring_fails(trainer: Any, train_data: Any, eval_data: Any) -> Exception | None:
    """Return the error that RecBole's evaluation ends in; None if it does not."""
    try:
        with measuring(trainer, train_data, eval_data):
            ranked(trainer, eval_data)
    except Exception as error:
        return error
    return None


def first_batch(loader: Any) -> Any:
    """Return a loader like this one that gives its first batch alone."""
    kind = type(loader)
    once = copy.copy(loader)
    once.__class__ = type(kind.__name__, (kind,), {"__iter__": lambda self: islice(kind.__iter__(self), 1)})
    return once
