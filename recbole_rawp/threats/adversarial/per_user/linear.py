"""Linear layers and convolutions with weights of each user's own, and their gradients.

Inputs A_u [m, in], gradients by the outputs D_u [m, out]:    G_u = D_u^T A_u

A convolution is a linear layer that reads each patch under the kernel as one more row (im2col; Rochette et al., 2019,
"Efficient Per-Example Gradient Computations in Convolutional Neural Networks"):

    y[n, :, l] = W p[n, l] + b,    W [out, in * kernel],    p[n, l] in R^(in * kernel),    l over the kernel's places
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_rawp.threats.adversarial.per_user.engine import Calls, NotSupported, Written, scaled


@dataclass(frozen=True)
class Ghost:
    """Gradients of a linear layer as D^T A, not written out: A [U, m, in], D [U, m, out]."""

    inputs: Tensor
    slopes: Tensor

    @property
    def gradient(self) -> Tensor:
        """G_u = D_u^T A_u, [U, out, in]."""
        return self.slopes.transpose(1, 2) @ self.inputs

    @cached_property
    def norms(self) -> Tensor:
        """||G_r||^2 = d_r^T (A A^T) d_r, [U, out, 1]; D is scaled first, since its square might underflow."""
        slopes, scale = scaled(self.slopes)
        squares = (slopes * (self.inputs @ self.inputs.transpose(1, 2) @ slopes)).sum(1)
        return squares.clamp_min(0).sqrt().unsqueeze(2) * scale

    def moved(self, base: Tensor, factor: Tensor) -> Ghost:
        """Return factor * G, for the layer adds it to what it gives."""
        return Ghost(self.inputs, self.slopes * factor.transpose(1, 2))

    def added(self, x: Tensor) -> Tensor:
        """Return x G^T = (x A^T) D for x [U, m', in]."""
        return x @ self.inputs.transpose(1, 2) @ self.slopes


class Linear:
    """Weight [out, in] of nn.Linear modules; a delta is [U, out, in]."""

    def __init__(self, weight: Tensor, users: int, ghost: bool | None) -> None:
        self.base, self.users, self.ghost = weight.detach().unsqueeze(0), users, ghost
        self.shape = (users, *weight.shape)

    def start(self, calls: Calls) -> None:
        """Learn nothing from the first pass."""

    def reduce(self, calls: Calls, slopes: list[Tensor]) -> Written | Ghost:
        """Return the gradients."""
        return self.gradients([self._split(x) for x in calls.inputs], slopes)

    def gradients(self, inputs: list[Tensor], slopes: list[Tensor]) -> Written | Ghost:
        """Return the sum over calls of D^T A, for A [U, m, in] and D [U, m, out].

        Not written out where m < in * out / (in + out), which costs less.
        """
        if not inputs:
            return Written(self.base.new_zeros(()).expand(self.shape))
        _, out, width = self.base.shape
        rows = sum(x.shape[1] for x in inputs)
        if rows * (width + out) < width * out if self.ghost is None else self.ghost:
            return Ghost(joined(inputs), joined(slopes))
        parts = [d.transpose(1, 2) @ x for x, d in zip(inputs, slopes)]
        return Written(sum(parts[1:], parts[0]))

    def forward(self, module: Any, x: Tensor, number: int, *, own: Tensor | Ghost | None) -> Tensor:
        """Return x W_u^T + b, where W_u is `own`, w + `own` (Ghost) or w (None)."""
        if own is None:
            return functional.linear(x, self.base[0], module.bias)
        rows, bias = self._split(x), module.bias
        if isinstance(own, Ghost):
            return functional.linear(x, self.base[0], bias) + own.added(rows).view(*x.shape[:-1], -1)
        turned = own.transpose(1, 2)
        result = rows @ turned if bias is None else torch.baddbmm(bias, rows, turned)
        return result.view(*x.shape[:-1], -1)

    def _split(self, x: Tensor) -> Tensor:
        """Return [U, m, in]."""
        return x.reshape(self.users, -1, x.shape[-1])


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


def joined(parts: list[Tensor]) -> Tensor:
    """Return [U, sum of m, k] from [U, m, k], the only part itself."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
