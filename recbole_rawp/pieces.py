"""How are all items ranked without all rows in memory at once?

A sequential full-sort loader gives `eval_batch_size` users at a time. For a model without `full_sort_predict` (DIN,
DIEN) RecBole 1.2.1 builds a row for each of their items, users x items rows with every feature, and only then splits
them. Other loaders already give few enough users.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from torch import Tensor

from recbole_rawp import preserve

SEAM = "_full_sort_batch_eval"


@contextmanager
def in_pieces(trainer: Any) -> Iterator[None]:
    """Let `trainer.evaluate` build the rows of users x items a piece at a time, with bit-equal scores.

    The pieces are the `trainer.test_batch_size` rows that RecBole would hand to `predict` one after the other. Models
    with `full_sort_predict`, and trainers with a ranking of their own, are left to themselves. The scores, users x
    items, are still held at once, as for every model.
    """
    earlier = vars(trainer).get(SEAM)
    if earlier is None and getattr(type(trainer), SEAM) is getattr(Trainer, SEAM):
        setattr(trainer, SEAM, _pieced(trainer, getattr(trainer, SEAM)))
    try:
        yield
    finally:
        if earlier is None:
            vars(trainer).pop(SEAM, None)


def _pieced(trainer: Any, whole: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return RecBole's batch evaluation `whole`, large batches of a model without full ranking done in pieces."""
    ranks_all: list[bool] = []  # found out once

    def evaluate_batch(batched_data: Any) -> Any:
        interaction, history, positive_u, positive_i = batched_data
        if len(interaction) * trainer.tot_item_num <= trainer.test_batch_size:
            return whole(batched_data)
        if not ranks_all:
            ranks_all.append(_ranks_all(trainer.model, interaction[:2].to(trainer.device)))
        if ranks_all[0]:
            return whole(batched_data)
        scores = _scores(trainer, interaction.to(trainer.device)).view(-1, trainer.tot_item_num)
        scores[:, 0] = -torch.inf
        if history is not None:
            scores[history] = -torch.inf
        return interaction, scores, positive_u, positive_i

    return evaluate_batch


def _ranks_all(model: Any, interaction: Interaction) -> bool:
    """Return whether the model has a `full_sort_predict`: RecBole's refuses with NotImplementedError."""
    with preserve.rng(), preserve.state(model):
        try:
            model.full_sort_predict(interaction)
        except NotImplementedError:
            return False
        except Exception:  # it has one, which the whole batch will show
            return True
    return True


def _scores(trainer: Any, users: Interaction) -> Tensor:
    """Return the scores of all items for all users, [users * items], predicted `test_batch_size` rows at a time."""
    items, size = trainer.tot_item_num, trainer.test_batch_size
    pieces = []
    for start in range(0, len(users) * items, size):
        rows = torch.arange(start, min(start + size, len(users) * items), device=trainer.device)
        piece = _rows(users, rows // items)
        piece.update(_rows(trainer.item_tensor, rows % items))
        pieces.append(trainer.model.predict(piece).reshape(-1))
    return torch.cat(pieces)


def _rows(interaction: Interaction, index: Tensor) -> Interaction:
    """Return the rows of that index; `Interaction.__getitem__` would go through a Python list."""
    return Interaction({name: values[index] for name, values in interaction.interaction.items()})
