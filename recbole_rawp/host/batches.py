"""Reads which training batches an attack follows: the first that RecBole's loader gives, the same on every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from recbole.utils import KGDataLoaderState

from recbole_rawp.core import restoring
from recbole_rawp.core.restoring import SEED, seed_generators


def fixed_batches(train_data: Any, count: int, device: torch.device) -> list[Any]:
    """Return the first batches that the loader gives, the same on every call, and leave the loader as it was.

    Dynamic negatives are drawn as static ones: they would differ between models, and drawing them puts the model into
    training mode.
    """
    mode = getattr(train_data, "state", None)
    if hasattr(train_data, "set_mode"):  # both tasks' fields
        train_data.set_mode(KGDataLoaderState.RSKG)
    try:
        with static_negatives(train_data), restoring.rng(loader_generators(train_data)):
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
