"""What does a global attack raise?  The model's own training loss, over training batches that stay the same."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from recbole.utils import KGDataLoaderState
from torch import nn

from recbole_rawp import ball, preserve
from recbole_rawp.ball import Ball
from recbole_rawp.objective import gradients, total
from recbole_rawp.overlay import exact, overlay
from recbole_rawp.selection import Weights

SEED = 2020  # of whatever RecBole draws while measuring: the same attacked batches everywhere


class AttackLoss:
    """The training loss over fixed batches as a function of delta, with the same random numbers on each call.

    `delta` may hold some of the weights only; the others stay where they are.

    Attributes:
        shapes: name -> what moves (here the weights), with a gradient.
    """

    def __init__(self, model: nn.Module, batches: list[Any], weights: Weights) -> None:
        self.model, self.batches, self.shapes = model, batches, weights
        self.function = training_loss(model)
        self._at_weights: Weights | None = None

    def ball(self, radius: float, *, granularity: str, relative: bool = True) -> Ball:
        """Return the ball of this radius around the weights."""
        return ball.around(self.shapes, radius, granularity=granularity, relative=relative)

    def at(self, delta: Weights) -> AbstractContextManager[None]:
        """Run the model at w + delta, through which gradients reach w."""
        return overlay(self.model, {name: self.shapes[name] + change for name, change in delta.items()})

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
        names = self.shapes if delta is None else delta
        with torch.enable_grad(), exact(self.model):
            for loss in self._losses(delta or {}):
                found = gradients(loss, {name: self.shapes[name] for name in names})
                summed = {name: summed[name] + g if summed else g for name, g in found.items()}
        if delta is None:
            self._at_weights = summed
        return summed

    def _losses(self, delta: Weights) -> Iterator[Any]:
        for batch in self.batches:
            with preserve.rng(), preserve.state(self.model), self.at(delta):
                seed_generators()
                yield self.function(batch)


def training_loss(model: Any) -> Callable[[Any], Any]:
    """Return the loss of the recommendation task.

    MKR keeps it apart from that of its knowledge graph; RecVAE has two, of which the decoder's is the plain one; in
    distillation KD_DAGFM's teacher answers only while the model itself is in training mode.
    """
    loss = getattr(model, "calculate_rs_loss", None) or model.calculate_loss
    if getattr(model, "phase", "") == "distillation":
        return partial(_in_training, model, loss)
    if "encoder_flag" in inspect.signature(loss).parameters:
        return partial(loss, encoder_flag=False)
    return loss


def _in_training(model: nn.Module, loss: Callable[[Any], Any], batch: Any) -> Any:
    """Return the loss with the model, but none of its parts, in training mode."""
    mode, model.training = model.training, True
    try:
        return loss(batch)
    finally:
        model.training = mode


def fixed_batches(train_data: Any, count: int, device: torch.device) -> list[Any]:
    """Return the first batches that the loader gives, the same on every call, and leave the loader as it was.

    Dynamic negatives are drawn as static ones: they would differ between models, and drawing them puts the model into
    training mode.
    """
    mode = getattr(train_data, "state", None)
    if hasattr(train_data, "set_mode"):  # both tasks' fields
        train_data.set_mode(KGDataLoaderState.RSKG)
    try:
        with static_negatives(train_data), preserve.rng(loader_generators(train_data)):
            for generator in loader_generators(train_data):
                generator.manual_seed(SEED)
            seed_generators()
            return [batch.to(device) for batch in islice(train_data, count)]
    finally:
        if hasattr(train_data, "set_mode"):
            train_data.state = mode


@contextmanager
def static_negatives(loader: Any) -> Iterator[None]:
    """Let a training loader draw its negatives whatever the model thinks of them."""
    part = getattr(loader, "general_dataloader", loader)
    arguments = getattr(part, "neg_sample_args", None)
    if arguments is not None:
        part.neg_sample_args = {**arguments, "dynamic": False}
    try:
        yield
    finally:
        if arguments is not None:
            part.neg_sample_args = arguments


def loader_generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that a RecBole loader draws its order from; a knowledge graph's loader has two.

    None where RecBole took it away to save the loader (`save_dataloaders`): then the order comes from torch's own.
    """
    parts = [getattr(loader, name, None) for name in ("general_dataloader", "kg_dataloader")]
    found = [part.generator for part in parts if part is not None] or [loader.generator]
    return [generator for generator in found if generator is not None]


def seed_generators(seed: int = SEED) -> None:
    """Seed what RecBole draws from: Python's, numpy's and torch's generators. Callers put them back."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
