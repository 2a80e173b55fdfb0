"""Which layer is a weight attacked in?"""

from __future__ import annotations

from typing import Union, cast

from torch import Tensor, nn

from recbole_rawp.model.sparse_linear import SparseLinear
from recbole_rawp.per_user.convolution import Convolution, convolves
from recbole_rawp.per_user.engine import NotSupported
from recbole_rawp.per_user.layers import Linear, Table
from recbole_rawp.per_user.sparse_layers import Sparse

Layer = Union[Linear, Table, Sparse]


def layer_of(name: str, owners: list[nn.Module], weight: Tensor, users: int, ghost: bool | None) -> Layer:
    """Return how to attack `weight`.

    Raises:
        NotSupported: if not all its modules are plain nn.Linear, or plain nn.Embedding or ungrouped convolutions of one
            kind, with this weight, nor its only one a SparseLinear.
    """
    plain = all(getattr(owner, "weight", None) is weight and "forward" not in owner.__dict__ for owner in owners)
    if plain and all(type(owner).forward is nn.Linear.forward for owner in owners):
        return Linear(weight, users, ghost)
    if plain and all(type(owner).forward is nn.Embedding.forward for owner in owners):
        kinds = {(owner.padding_idx, owner.max_norm, owner.scale_grad_by_freq) for owner in owners}
        padding, max_norm, by_frequency = next(iter(kinds))
        if len(kinds) == 1 and max_norm is None and not by_frequency:
            return Table(weight, users, padding)
    if plain and convolves(owners):
        return Convolution(weight, users, ghost, owners[0])
    if plain and len(owners) == 1 and type(owners[0]).forward is SparseLinear.forward:
        return Sparse(weight, users, cast(SparseLinear, owners[0]))
    kinds_of_owner = ", ".join(sorted({type(owner).__name__ for owner in owners})) or "no module"
    raise NotSupported(f"{name}: belongs to {kinds_of_owner}, of a kind that hooks do not know")
