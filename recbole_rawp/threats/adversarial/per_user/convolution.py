"""Convolutions with weights of each user's own.

As through a linear layer, which reads each patch under the kernel as one more row (im2col; Rochette et al., 2019,
"Efficient Per-Example Gradient Computations in Convolutional Neural Networks"):

    y[n, :, l] = W p[n, l] + b,    W [out, in * kernel],    p[n, l] in R^(in * kernel),    l over the kernel's places
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from recbole_rawp.threats.adversarial.per_user.engine import NotSupported
from recbole_rawp.threats.adversarial.per_user.layers import Ghost, Linear, Written
from recbole_rawp.threats.adversarial.per_user.replaced_forwards import Calls


class Convolution(Linear):
    """Weight [out, in, *kernel] of nn.Conv1d or nn.Conv2d modules of equal geometry; a delta is [U, out, in * kernel].

    Memory: the patches of a batch, which overlap unless the kernel moves by its own size.
    """

    def __init__(self, weight: Tensor, users: int, ghost: bool | None, module: Any) -> None:
        super().__init__(weight.flatten(1), users, ghost)
        self.kernel, self.dilation, self.stride = module.kernel_size, module.dilation, module.stride
        self.margins = module._reversed_padding_repeated_twice  # as torch hands them to `pad`
        self.fill = "constant" if module.padding_mode == "zeros" else module.padding_mode

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> Written | Ghost:
        """Return the gradients."""
        inputs = [self._split(self._patches(x)) for x in calls.inputs]
        turned = [self._split(d.view(y.shape).movedim(1, -1)) for y, d in zip(calls.outputs, slopes)]
        return self.gradients(inputs, turned)

    def forward(self, module: Any, x: Tensor, number: int, *, own: Tensor | Ghost | None) -> Tensor:
        """Return the convolution of x [rows, in, *size] with the user's own kernels, or the module's (None)."""
        if x.dim() != module.weight.dim():
            raise NotSupported(f"a {type(module).__name__} got {tuple(x.shape)}, without a dimension for rows")
        if own is None:
            return type(module).forward(module, x)
        return super().forward(module, self._patches(x), number, own=own).movedim(-1, 1).contiguous()

    def _patches(self, x: Tensor) -> Tensor:
        """Return [rows, *places, in * kernel]."""
        size = x.dim() - 2
        if any(self.margins):
            x = functional.pad(x, self.margins, self.fill)
        for dim, (k, d, stride) in enumerate(zip(self.kernel, self.dilation, self.stride), 2):
            x = x.unfold(dim, d * (k - 1) + 1, stride)[..., ::d]
        return x.movedim(1, 1 + size).flatten(1 + size)


def convolves(owners: list[Any]) -> bool:
    """Tell whether all are plain nn.Conv1d or nn.Conv2d modules, ungrouped and of one geometry."""
    geometry = {(o.kernel_size, o.dilation, o.stride, o.padding, o.padding_mode) for o in owners if only_convolves(o)}
    return all(map(only_convolves, owners)) and len(geometry) == 1


def only_convolves(module: Any) -> bool:
    """Tell whether a module is an ungrouped nn.Conv1d or nn.Conv2d, or of a class that runs the same code."""
    return any(
        isinstance(module, kind)
        and (type(module).forward, type(module)._conv_forward) == (kind.forward, kind._conv_forward)
        and module.groups == 1
        for kind in (nn.Conv1d, nn.Conv2d)
    )
