"""Ranks all items without all rows in memory at once.

A sequential full-sort loader gives `eval_batch_size` users at a time. For a model without `full_sort_predict` (DIN,
DIEN) RecBole 1.2.1 builds a row for each of their items, users x items rows with every feature, and only then splits
them. Other loaders already give few enough users.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from torch import Tensor

SEAM = "_full_sort_batch_eval"


@contextmanager
def in_pieces(trainer: Any) -> Iterator[None]:
    """Let `trainer.evaluate` build the rows of users x items a piece at a time, with bit-equal scores.

    The pieces are the `trainer.test_batch_size` rows that RecBole would hand to `predict` one after the other. Trainers
    with a ranking of their own are left to themselves. The scores, users x items, are still held at once, as for every
    model.
    """
    earlier = vars(trainer).get(SEAM)
    if earlier is None and getattr(type(trainer), SEAM) is getattr(Trainer, SEAM):
        setattr(trainer, SEAM, partial(_evaluate_batch, trainer))
    try:
        yield
    finally:
        if earlier is None:
            vars(trainer).pop(SEAM, None)


def _evaluate_batch(trainer: Any, batched_data: Any) -> Any:
    """Do what `Trainer._full_sort_batch_eval` does, but for the pieces."""
    interaction, history, positive_u, positive_i = batched_data
    users = interaction.to(trainer.device)
    try:
        scores = trainer.model.full_sort_predict(users)
    except NotImplementedError:
        scores = _scores(trainer, users)
    scores = scores.view(-1, trainer.tot_item_num)
    scores[:, 0] = -torch.inf
    if history is not None:
        scores[history] = -torch.inf
    return interaction, scores, positive_u, positive_i


def _scores(trainer: Any, users: Interaction) -> Tensor:
    """Return the scores of all items for all users, [users * items], predicted `test_batch_size` rows at a time."""
    items, size = trainer.tot_item_num, trainer.test_batch_size
    pieces = []
    for start in range(0, len(users) * items, size):
        rows = torch.arange(start, min(start + size, len(users) * items), device=trainer.device)
        piece = rows_of(users, rows // items)
        piece.update(rows_of(trainer.item_tensor, rows % items))
        pieces.append(trainer.model.predict(piece).reshape(-1))
    return torch.cat(pieces)


def rows_of(interaction: Interaction, index: Tensor) -> Interaction:
    """Return the rows of that index; `Interaction.__getitem__` would go through a Python list."""
    return Interaction({name: values[index] for name, values in interaction.interaction.items()})
