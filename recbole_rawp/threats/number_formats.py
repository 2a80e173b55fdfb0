"""Number formats of fewer bits: integers on an even grid, and floating-point numbers of 16 and 8 bits. Weights only.

Integers of b bits, symmetric or affine, with the grid and rounding of torchao (a test compares them bit for bit):

    symmetric   s = max |w| / ((2^b - 1) / 2),         z = 0
    affine      s = (max(w, 0) - min(w, 0)) / (2^b - 1),  z = -2^(b-1) - round(min(w, 0) / s)
    q = clamp(round(w / s) + z, -2^(b-1), 2^(b-1) - 1),   w' = (q - z) s

The largest and smallest w are those of a row (an output neuron, an item's embedding), or of the tensor. bfloat16 and
float16 are roundings to the nearest, ties to even. The 8-bit floats are scaled to their largest number first, by row or
tensor as well. `int4_noise` is what training for int4 takes in its place: w' = w + s u, u ~ U(-1/2, 1/2).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

BITS = (8, 6, 5, 4, 3, 2)
SMALLEST = torch.finfo(torch.float32).eps  # of s


def spanned(weight: Tensor, by_row: bool) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest entry of each row, or of the tensor, in a shape that broadcasts."""
    dims = tuple(range(1 if by_row and weight.dim() > 1 else 0, weight.dim()))
    return weight.amin(dims, keepdim=True), weight.amax(dims, keepdim=True)


def symmetric_grid(weight: Tensor, by_row: bool, *, bits: int) -> tuple[Tensor, Tensor]:
    """Return q, whole numbers, and s, the step of each row or of the tensor."""
    low, high = spanned(weight, by_row)
    step = (torch.maximum(-low, high) / ((2**bits - 1) / 2)).clamp(min=SMALLEST)
    return (weight * (1.0 / step)).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), step


def symmetric(weight: Tensor, by_row: bool, *, bits: int) -> Tensor:
    """Return the weight on a grid around 0."""
    stored, step = symmetric_grid(weight, by_row, bits=bits)
    return stored * step


def affine(weight: Tensor, by_row: bool, *, bits: int) -> Tensor:
    """Return the weight on a grid from its smallest to its largest entry; 0 is on it."""
    low, high = (bound.clamp(**zero) for bound, zero in zip(spanned(weight, by_row), ({"max": 0.0}, {"min": 0.0})))
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    step = ((high - low) / (2**bits - 1)).clamp(min=SMALLEST)
    zero_point = (least - (low / step).round()).clamp(least, most)
    return (((weight * (1.0 / step)).round() + zero_point).clamp(least, most) - zero_point) * step


def rounded(weight: Tensor, by_row: bool, *, form: torch.dtype) -> Tensor:
    """Return the weight rounded to a number format."""
    return weight.to(form).to(weight.dtype)


def scaled(weight: Tensor, by_row: bool, *, form: torch.dtype) -> Tensor:
    """Return the weight rounded to a short number format, whose largest number the largest entry becomes."""
    low, high = spanned(weight, by_row)
    step = (torch.maximum(-low, high) / torch.finfo(form).max).clamp(min=SMALLEST)
    return (weight / step).to(form).to(weight.dtype) * step


FORMATS: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "bf16": partial(rounded, form=torch.bfloat16),
    "fp16": partial(rounded, form=torch.float16),
    "fp8_e4m3": partial(scaled, form=torch.float8_e4m3fn),
    "fp8_e5m2": partial(scaled, form=torch.float8_e5m2),
    **{f"int{bits}": partial(symmetric, bits=bits) for bits in BITS},
    **{f"int{bits}_affine": partial(affine, bits=bits) for bits in BITS},
}
NOISE = {f"int{bits}_noise": bits for bits in BITS}  # as large as the error of rounding


def noisy(weight: Tensor, by_row: bool, generator: torch.Generator, *, bits: int) -> Tensor:
    """Return the weight with uniform noise within half a step of a grid around 0."""
    _, step = symmetric_grid(weight, by_row, bits=bits)
    drawn = torch.rand(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
    return weight + step * (drawn - 0.5)
