"""A linear layer over long rows of 0 and 1, most of them 0.

    W @ row + b = sum of W[:, c] over the columns c where the row is 1, + b

and each row only once, however often a batch asks for it: a user's row goes with all of the user's candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as modules

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # of a module, or _global..

ALL = 2**24  # numbers kept for a layer, how many ones each row shares with each, or used to count them: 64 MB


@dataclass(frozen=True)
class SparseRows:
    """A matrix [len, width] of 0 and 1.

    Attributes:
        indptr: [len + 1], row r's columns are indices[indptr[r] : indptr[r + 1]].
        indices: [number of ones], columns.
        width: number of columns.
    """

    indptr: Tensor
    indices: Tensor
    width: int

    @classmethod
    def from_scipy(cls, matrix: Any) -> SparseRows:
        """Return the places where a scipy sparse matrix is not 0, whatever is stored there; doubles count once."""
        coo = matrix.tocoo()
        stored = coo.data != 0
        return cls.from_pairs(torch.from_numpy(coo.row[stored]), torch.from_numpy(coo.col[stored]), coo.shape)

    @classmethod
    def from_pairs(cls, rows: Tensor, columns: Tensor, shape: Sequence[int]) -> SparseRows:
        """Return the matrix that is 1 at (rows[i], columns[i]); doubles count once."""
        height, width = shape
        places = (rows.long() * width + columns.long()).unique()  # sorted
        counts = torch.bincount(places // width, minlength=height)
        return cls(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), places % width, width)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def take(self, numbers: Tensor) -> SparseRows:
        """Return the rows of these numbers, [k]."""
        start, counts = self.indptr[numbers], self.indptr[numbers + 1] - self.indptr[numbers]
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        total = int(indptr[-1])
        shift = torch.repeat_interleave(start - indptr[:-1], counts, output_size=total)
        return SparseRows(indptr, self.indices[shift + torch.arange(total, device=shift.device)], self.width)

    def numbers(self) -> Tensor:
        """Return the row of each of `indices`."""
        each = torch.arange(len(self), device=self.indptr.device)
        return torch.repeat_interleave(each, self.indptr.diff(), output_size=len(self.indices))

    def dense(self, dtype: torch.dtype) -> Tensor:
        """Return [len, width]."""
        matrix = torch.zeros(len(self), self.width, dtype=dtype, device=self.indices.device)
        matrix[self.numbers(), self.indices] = 1.0
        return matrix

    def times(self, matrix: Tensor) -> Tensor:
        """Return self @ matrix, [len, k], for a matrix [width, k], which is copied unless it is contiguous."""
        return functional.embedding_bag(
            self.indices, matrix.contiguous(), self.indptr, mode="sum", include_last_offset=True
        )


class SparseLinear(nn.Linear):
    """nn.Linear(rows.width, out) of given rows; the same parameters, but called with the rows' numbers.

    The rows are buffers that are not saved: a checkpoint holds what nn.Linear's holds.
    """

    indptr: Tensor
    indices: Tensor

    def __init__(self, rows: SparseRows, out_features: int, *, bias: bool = True) -> None:
        super().__init__(rows.width, out_features, bias=bias)
        self.register_buffer("indptr", rows.indptr, persistent=False)
        self.register_buffer("indices", rows.indices, persistent=False)

    @property
    def rows(self) -> SparseRows:
        """The rows, on the layer's device."""
        return SparseRows(self.indptr, self.indices, self.in_features)

    def turn(self) -> None:
        """Keep the weight's memory column by column, as rows of 0 and 1 are read: faster, and nothing else changes.

        It comes after initialisation, for which numbers a seed draws depends on the memory. Copies of the weight, its
        gradient and an optimizer's moments follow its order; what is loaded is copied into it.
        """
        self.weight = nn.Parameter(self.weight.detach().t().contiguous().t())

    def forward(self, input: Tensor) -> Tensor:
        """Return W @ row + b for the rows of these numbers: [...] -> [..., out]."""
        found, place = self.distinct(input)
        return functional.embedding(place, found)

    def distinct(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return W @ row + b for each distinct row of these numbers, [k, out], and each number's place in it, [...]."""
        numbers, place = input.unique(return_inverse=True)
        found = self.rows.take(numbers).times(self.weight.t())
        return found if self.bias is None else found + self.bias, place

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{super().extra_repr()}, rows={len(self.rows)}, ones={len(self.indices)}"


class Pair(nn.Module):
    """The first layers of a network over pairs: user's row and item's row, each linear, concatenated -> linear.

    Between them there is no activation. So a user's half of the last layer is made once for all pairs of the user in a
    batch, an item's likewise. Where someone looks at one of the three, by a hook or by a `forward` of their own, all
    are called as modules, pair by pair.

    Args:
        users: the users' rows.
        items: the items' rows.
        width: of either row's layer.
        out_features: of the last layer.
    """

    def __init__(self, users: SparseRows, items: SparseRows, width: int, out_features: int) -> None:
        super().__init__()
        self.user, self.item = SparseLinear(users, width), SparseLinear(items, width)
        self.merge = nn.Linear(2 * width, out_features)

    def forward(self, pairs: Tensor) -> Tensor:
        """Return [P, out] for the numbers of user and item, [P, 2]."""
        if all(map(only_runs, (self.user, self.item, self.merge), (SparseLinear, SparseLinear, nn.Linear))):
            return self._once(pairs)
        return self.merge(torch.cat([self.user(pairs[:, 0]), self.item(pairs[:, 1])], dim=1))

    def _once(self, pairs: Tensor) -> Tensor:
        """Return the same, each user's and item's half made once: W (u, i) + b = (W_u u + b) + W_i i."""
        (users, user), (items, item) = self.user.distinct(pairs[:, 0]), self.item.distinct(pairs[:, 1])
        left, right = self.merge.weight.split(self.user.out_features, dim=1)
        ours, theirs = functional.linear(users, left, self.merge.bias), functional.linear(items, right)
        return functional.embedding(user, ours) + functional.embedding(item, theirs)


def only_runs(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a call of `module` runs `kind`'s forward and nothing else: no hook, no forward of its own."""
    own = type(module).forward is not kind.forward or "forward" in module.__dict__
    return not own and not any(getattr(module, name) or getattr(modules, f"_global{name}") for name in HOOKS)


_shared: WeakKeyDictionary[SparseLinear, Tensor] = WeakKeyDictionary()


def shared_ones(module: SparseLinear, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how many ones any two of a user's rows share, [U, m, m], for the rows' numbers [U, m]."""
    rows, (users, m) = module.rows, numbers.shape
    if m == 0:
        return torch.zeros(users, 0, 0, dtype=dtype, device=numbers.device)
    if m == 1:
        return rows.indptr.diff()[numbers].to(dtype).unsqueeze(2)
    if len(rows) ** 2 > ALL:
        parts = numbers.split(max(1, ALL // (m * rows.width)))
        return torch.cat([counted(rows.take(few.flatten()), len(few), dtype) for few in parts])
    if module not in _shared:
        _shared[module] = counted(rows, 1, torch.float32)[0]  # exact: below 2^24
    everything = _shared[module] = _shared[module].to(numbers.device)
    return everything.flatten()[numbers.unsqueeze(2) * len(rows) + numbers.unsqueeze(1)].to(dtype)


def counted(rows: SparseRows, users: int, dtype: torch.dtype) -> Tensor:
    """Return how many ones any two of a user's rows share, [U, m, m], for U * m rows."""
    m, number = len(rows) // users, rows.numbers()
    place = number // m * rows.width + rows.indices  # of [U * in]
    columns = torch.zeros(users * rows.width, m, dtype=dtype, device=place.device)
    columns[place, number % m] = 1.0
    return SparseRows(rows.indptr, place, users * rows.width).times(columns).view(users, m, m)
