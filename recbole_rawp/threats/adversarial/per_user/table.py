"""Embedding tables with rows of each user's own, and their gradients.

Looked-up rows r_ui, gradients by them D_ui:    G_u[r] = sum of D_ui over r_ui = r
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recbole_rawp.threats.adversarial.per_user.engine import Calls, NotSupported, Written


class Table:
    """Weight [V, k] of nn.Embedding modules; a delta is [U, R, k]: the rows that a user's candidates look up.

    R is the most distinct rows of one user; those with fewer have slots that nothing reads: their gradient is 0.
    R is 0 for a table that is never called.
    """

    def __init__(self, weight: Tensor, users: int, padding: int | None) -> None:
        self.weight, self.users, self.padding = weight.detach(), users, padding

    def start(self, calls: Calls) -> None:
        """Give each row that a user looks up a slot: index [U, R] -> row, and slots, look-up -> u * R + slot."""
        self.lookups = calls.inputs
        user = torch.arange(self.users, device=self.weight.device).unsqueeze(1)
        index = torch.cat([user[:, :0], *(x.reshape(self.users, -1) for x in self.lookups)], 1)
        pairs, which = (user * len(self.weight) + index).unique(return_inverse=True)
        owner = pairs // len(self.weight)
        count = owner.bincount(minlength=self.users)
        most = int(count.max())
        slot = owner * most + torch.arange(len(pairs), device=index.device) - (count.cumsum(0) - count)[owner]
        self.index = pairs.new_zeros(self.users * most).index_copy(0, slot, pairs % len(self.weight))
        parts = slot[which].split([x.numel() // self.users for x in self.lookups], 1)
        self.slots = [part.reshape(x.shape) for part, x in zip(parts, self.lookups)]
        self.shape = (self.users, most, self.weight.shape[1])
        self.base = self.weight[self.index].view(self.shape)

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> Written:
        """Return the gradients, 0 for the padding row."""
        total = self.weight.new_zeros(len(self.index), self.shape[2])
        if self.shape[1] == 1:  # every look-up of a user reads the same row
            total = sum((d.sum(1) for d in slopes), total)
        for slots, d in zip(self.slots, slopes if self.shape[1] > 1 else []):
            total.index_add_(0, slots.flatten(), d.reshape(-1, self.shape[2]))
        if self.padding is not None:
            total[self.index == self.padding] = 0.0
        return Written(total.view(self.shape))

    def forward(self, module: Any, x: Tensor, number: int, *, own: Tensor | None) -> Tensor:
        """Look up in the user's own rows, or in the table (None)."""
        if own is None:
            return functional.embedding(x, self.weight)
        if number >= len(self.lookups) or not torch.equal(x, self.lookups[number]):
            raise NotSupported("an embedding is asked for other rows under attack than before")
        return functional.embedding(self.slots[number], own.reshape(-1, self.shape[2]))
