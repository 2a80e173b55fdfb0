"""Tries one batch of training, before anything is written."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

import torch
from recbole.config import Config
from recbole.trainer.trainer import Trainer
from recbole.utils import get_trainer
from torch import nn
from torch.nn.utils import clip_grad_norm_

from recbole_rawp.core import restoring
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.gradients import total
from recbole_rawp.core.overlay import overlay
from recbole_rawp.errors import InputError
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.preparation import recboles
from recbole_rawp.host.quirks import training_loss

logger = logging.getLogger()
_told: WeakSet[nn.Module] = WeakSet()  # models of which some weights are missed


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
    try:
        with restoring.rng(), restoring.state(model), torch.no_grad():
            for module in model.modules():  # not `train()`, which makes SGL draw graphs
                module.training = True
            training_loss(model)(batch)
    except NotImplementedError as error:
        if get_trainer(config["MODEL_TYPE"], config["model"]).__module__ == Trainer.__module__:
            raise InputError(
                f"model: {name} has no calculate_loss. Write it, or put a {name}Trainer that passes a loss to "
                "super()._train_epoch into recbole.trainer."
            ) from error
    except KeyError as error:
        raise InputError(
            f"train_neg_sample_args: the loss of {name} needs the field {error}, which no training batch has. Let it "
            "draw negatives, or load that column or make it by threshold."
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


def check_reached(model: nn.Module, weights: Weights, train_data: Any, device: Any) -> None:
    """Warn of weights that the training loss reads past what stands in their place, which no change of ours reaches.

    Such are held by something else than the model's modules, or were made into something else in its constructor.

    Raises:
        InputError: if these are all of `weights`.
    """
    try:
        with recboles("training batches"):
            (batch,) = fixed_batches(train_data, 1, device)
        missed = past_the_overlay(model, weights, batch)
    except Exception:  # of a loss that a trainer must prepare, or does without; training shows it
        return
    if not missed:
        return
    names, name = ", ".join(missed), type(model).__name__
    reason = f"{name} does not take {names} from where its parameters are, so no change of ours reaches its loss"
    if len(missed) == len(weights):
        raise InputError(f"model: {reason}. Let it use self.LAYER.weight itself whenever it computes.")
    if model not in _told:
        logger.warning(f"{reason}: nothing is measured or hardened there.")
    _told.add(model)


def past_the_overlay(model: nn.Module, weights: Weights, batch: Any) -> list[str]:
    """Return the weights that the loss has a gradient by though others stand in their places, or reads as made before.

    The latter: it has none by the others, and the model keeps a tensor that was computed from the weight.
    """
    others = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    made = made_of(model, weights)
    with restoring.rng(), restoring.state(model), overlay(model, others), torch.enable_grad():
        loss = total(training_loss(model)(batch))
        found = torch.autograd.grad(loss, [*weights.values(), *others.values()], allow_unused=True)
    past, through = found[: len(weights)], found[len(weights) :]
    rows = zip(weights, past, through)
    return [name for name, own, other in rows if own is not None or (other is None and name in made)]


def made_of(model: nn.Module, weights: Weights) -> set[str]:
    """Return the weights from which a tensor was computed that some module keeps."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    found: set[str] = set()
    for tensor in kept:
        if tensor.grad_fn is not None:
            with torch.enable_grad():
                by = torch.autograd.grad(tensor.sum(), list(weights.values()), allow_unused=True, retain_graph=True)
            found |= {name for name, gradient in zip(weights, by) if gradient is not None}
    return found
