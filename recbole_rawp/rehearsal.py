"""Would RecBole train with these settings?  One batch is tried, before anything is written."""

from __future__ import annotations

from typing import Any

import torch
from recbole.config import Config
from torch import nn
from torch.nn.utils import clip_grad_norm_

from recbole_rawp import preserve
from recbole_rawp.errors import InputError
from recbole_rawp.losses import fixed_batches, training_loss
from recbole_rawp.objective import total
from recbole_rawp.prepare import recboles


def check_training(config: Config, model: nn.Module, train_data: Any) -> None:
    """Look for what RecBole would only notice in its first epoch; generators, loader and model stay as they were.

    Raises:
        InputError: for settings with which RecBole's training fails.
    """
    check_clipping(config["clip_grad_norm"])
    transform = config["transform"]
    with recboles("training batches" if transform is None else f"training batches (transform: {transform})"):
        (batch,) = fixed_batches(train_data, 1, config["device"])
    if str(config["learner"]).lower() == "sparse_adam":
        check_sparse(model, batch)
    if last_rows(train_data) == 1:
        check_single_row(model, batch)


def check_clipping(arguments: Any) -> None:
    """Raise InputError for a `clip_grad_norm` that torch's function does not take."""
    try:
        clip_grad_norm_([], **(arguments or {"max_norm": 1.0}))
    except (TypeError, ValueError) as error:
        raise InputError(f"clip_grad_norm: {arguments!r} cannot be used ({error}). Say {{max_norm: 5}}.") from error


def check_sparse(model: nn.Module, batch: Any) -> None:
    """Raise InputError if a weight has a dense gradient, which SparseAdam refuses."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with preserve.rng(), preserve.state(model):
        loss = total(training_loss(model)(batch))
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    for name, gradient in zip(trained, found):
        if gradient is not None and not gradient.is_sparse:
            raise InputError(f"learner: sparse_adam takes sparse gradients only; {name} has a dense one. Use adam.")


def last_rows(train_data: Any) -> int:
    """Return how many rows the last batch of an epoch has."""
    loader = getattr(train_data, "general_dataloader", train_data)
    return (loader.sample_size % loader.step or loader.step) * getattr(loader, "times", 1)


def check_single_row(model: nn.Module, batch: Any) -> None:
    """Raise InputError if the model cannot train on one row, of which BatchNorm has no statistics."""
    training = model.training
    try:
        with preserve.rng(), preserve.state(model), torch.no_grad():
            training_loss(model.train())(batch[:1])
    except ValueError as error:
        raise InputError(
            f"train_batch_size: the last batch of an epoch has one row, on which {type(model).__name__} cannot train "
            f"({error}). Choose another size."
        ) from error
    finally:
        model.train(training)
