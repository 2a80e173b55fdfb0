"""Rows of users' candidates as tensors, and what adds up over batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recbole.evaluator import Collector
from torch import Tensor

from recbole_rawp.threats.adversarial.per_user.batch import Key


class Rows:
    """Rows of a batch as plain columns, which `torch.func.vmap` can take apart."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: Tensor) -> Rows:
        return Rows({name: values[index] for name, values in self.columns.items()})


@dataclass
class Tally:
    """What adds up over the batches under one attack: RecBole's collection, the loss, the candidates."""

    collector: Collector
    loss: float = 0.0
    rows: int = 0
    nan: bool = False

    def add(self, logits: Tensor, losses: Tensor) -> None:
        """Add one batch: the logits of all candidates, [rows], and the users' losses."""
        self.loss += float(losses.sum())
        self.rows += len(logits)
        self.nan = self.nan or bool(logits.isnan().any())


def collected(attacks: Iterator[tuple[Key, Tensor, Tensor]]) -> dict[Key, tuple[Tensor, Tensor]]:
    """Return variant and level -> logits and losses."""
    return {key: (logits, losses) for key, logits, losses in attacks}


def take(rows: Rows, index: Tensor) -> dict[str, Tensor]:
    """Return the columns of the rows numbered [C, n], for `select_engine`."""
    return rows[index].columns
