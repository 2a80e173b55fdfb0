"""What may an attack move, and what does its radius mean?  In words, for axes, titles and the verdict."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

TARGETS = {
    "": "hidden weights",
    "hidden": "hidden weights",
    "all": "all weights",
    "activations": "outputs of hidden layers",
}
GROUPS = {  # what has one norm: for weights, embeddings, activations
    "tensor": ("each weight tensor", "each embedding table", "each hidden layer's output"),
    "row": ("each weight row", "each embedding row", "each hidden layer's output"),
    "global": ("all attacked weights together", "all embeddings together", "all hidden layers' outputs together"),
    "element": ("all attacked weights together", "all embeddings together", "all hidden layers' outputs together"),
    "sign": ("each weight", "each entry of the embeddings", "each hidden unit"),
}
AXIS = {  # (granularity, unit) -> what the radius is; every other granularity reads as these two of tensor
    ("tensor", "relative"): "share of the norm of {}",
    ("tensor", "absolute"): "L2 norm of the change of {}",
    ("element", "relative"): "rms change, in units of |w| + 0.01, of {}",
    ("element", "absolute"): "L2 norm of the change, in units of |w| + 0.01, of {}",
    ("sign", "relative"): "largest change of {}, as a share of its tensor's rms",
    ("sign", "absolute"): "largest change of {}",
}
MOVES = {
    ("tensor", "relative"): "moves {} by {share} of its norm",
    ("global", "relative"): "moves {} by {share} of their norm",
    ("tensor", "absolute"): "moves {} by {radius:g} in L2 norm",
    ("element", "relative"): "moves {} by {share} of each one's size (rms)",
    ("element", "absolute"): "moves {} by {radius:g} in units of each one's size (L2)",
    ("sign", "relative"): "moves {} by {share} of its tensor's rms",
    ("sign", "absolute"): "moves {} by {radius:g}",
}
PIECES = {
    "": "tensor by tensor",
    "tensor": "tensor by tensor",
    "row": "row by row",
    "global": "all under one norm",
    "element": "in units of each one's size",
    "sign": "entry by entry",
}
SCOPES = {
    ("global", ""): "one change for all users",
    ("per_user", "pseudo"): "one change per user, pseudo-labels",
    ("per_user", "truth"): "one change per user, true labels",
}


@dataclass(frozen=True)
class Setting:
    """What the attacks of one comparison share; within a setting their curves over the radius compare."""

    target: str = ""
    granularity: str = ""
    unit: str = "relative"
    scope: str = ""
    labels: str = ""

    @property
    def name(self) -> str:
        """Return the setting's part of file names and TensorBoard tags: `hidden-row-absolute-per_user-truth`."""
        unit, labels = "absolute" * (self.unit == "absolute"), self.labels * (self.labels == "truth")
        parts = (
            re.sub(r"[^\w.]+", "_", p).strip("_") for p in (self.target, self.granularity, unit, self.scope, labels)
        )
        return "-".join(part for part in parts if part)

    @property
    def title(self) -> str:
        """Return the setting in words."""
        layers = self.target == "activations" and self.granularity == "row"
        pieces = "layer by layer" if layers else PIECES.get(self.granularity, self.granularity)
        absolute = ", absolute radius" * (self.unit == "absolute")
        scope = SCOPES.get((self.scope, self.labels), self.scope or "one change for all users")
        return f"{TARGETS.get(self.target, self.target)}, {pieces}{absolute}, {scope}"

    @property
    def group(self) -> str:
        """Return what one radius bounds."""
        kinds = GROUPS.get(self.granularity, GROUPS["tensor"])
        return kinds[{"embeddings": 1, "activations": 2}.get(self.target, 0)]

    @property
    def radius(self) -> str:
        """Return what the radius is and its unit."""
        form = AXIS.get((self.granularity, self.unit)) or AXIS["tensor", self.unit]
        return form.format(self.group)

    def moves(self, radius: float) -> str:
        """Return what an attack of this radius does, as the verdict says it."""
        form = MOVES.get((self.granularity, self.unit)) or MOVES["tensor", self.unit]
        return form.format(self.group, radius=radius, share=f"{100 * radius:.4g}%")


SETTING = tuple(field.name for field in fields(Setting))
