"""What reports call perturbations inside a norm ball: settings, radii, what an attack of a radius does."""

from __future__ import annotations

from recbole_rawp.threats.setting import Setting, Words, for_files

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
GRAINS = {
    "": "tensor by tensor",
    "tensor": "tensor by tensor",
    "row": "row by row",
    "global": "all under one norm",
    "element": "in units of each one's size",
    "sign": "entry by entry",
}
SCOPES = {
    ("universal", ""): "one change for all users",
    ("per_user", "pseudo"): "one change per user, pseudo-labels",
    ("per_user", "truth"): "one change per user, true labels",
}


class PerturbationWords(Words):
    """The words of perturbations whose radii are `relative` to a norm, or `absolute`."""

    noun, nouns = "radius", "radii"

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def short(self, setting: Setting) -> str:
        """Return the setting for messages: `hidden/row/absolute/per_user/pseudo`."""
        absolute = "absolute" * (self.unit == "absolute")
        return "/".join(filter(None, (setting.target, setting.granularity, absolute, setting.scope, setting.labels)))

    def name(self, setting: Setting) -> str:
        """Return a part of file names and TensorBoard tags: `hidden-row-absolute-per_user-truth`."""
        absolute, labels = "absolute" * (self.unit == "absolute"), setting.labels * (setting.labels == "truth")
        return for_files(setting.target, setting.granularity, absolute, setting.scope, labels)

    def title(self, setting: Setting) -> str:
        """Return the setting in words."""
        layers = setting.target == "activations" and setting.granularity == "row"
        grain = "layer by layer" if layers else GRAINS.get(setting.granularity, setting.granularity)
        absolute = ", absolute radius" * (self.unit == "absolute")
        scope = SCOPES.get((setting.scope, setting.labels), setting.scope or "one change for all users")
        return f"{setting.what}, {grain}{absolute}, {scope}"

    def axis(self, setting: Setting) -> str:
        """Return what the radius is and its unit."""
        form = AXIS.get((setting.granularity, self.unit)) or AXIS["tensor", self.unit]
        return form.format(group(setting))

    def happens(self, setting: Setting, level: float, variants: str) -> str:
        """Return what an attack of this radius does, as the verdict says it."""
        form = MOVES.get((setting.granularity, self.unit)) or MOVES["tensor", self.unit]
        return f"{variants} {form.format(group(setting), radius=level, share=f'{100 * level:.4g}%')}"


def group(setting: Setting) -> str:
    """Return what one radius bounds."""
    kinds = GROUPS.get(setting.granularity, GROUPS["tensor"])
    return kinds[{"embeddings": 1, "activations": 2}.get(setting.target, 0)]
