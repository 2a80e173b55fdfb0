"""Runs a model with other forwards in some of its layers, and takes gradients by what these give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from recbole_rawp.core.ball import Ball
from recbole_rawp.core.overlay import clear_caches, exact
from recbole_rawp.threats.adversarial.per_user.engine import (
    Calls,
    NotSupported,
    Steepest,
    UserBatch,
)

Forward = Callable[[Any, Tensor, int], Tensor]  # module, its input, how many calls there were before


def call(module: nn.Module, forward: Forward, calls: Calls, rows: int, input: Tensor) -> Tensor:
    """Stand in for `module.forward`.

    Raises:
        NotSupported: if the input's first dimension is not as many entries for each row of the batch: one, or several
            where the model has flattened [rows, L, ...].
    """
    if input.dim() < 1 + input.is_floating_point() or not len(input) or len(input) % rows:
        raise NotSupported(f"a {type(module).__name__} got {tuple(input.shape)} where the batch has {rows} rows")
    output = forward(module, input, calls.number)
    calls.number += 1
    if torch.is_grad_enabled():
        calls.add(input, output)
    return output


@contextmanager
def replaced(forwards: dict[nn.Module, tuple[Forward, Calls]], rows: int) -> Iterator[None]:
    """Put other forwards in the place of these modules' own, which come back afterwards, also after an error."""
    try:
        for module, (forward, calls) in forwards.items():
            module.forward = partial(call, module, forward, calls, rows)
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient: the backward pass then computes none by a weight."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


class ReplacedForwards:
    """Forward and backward passes in which the layers of some names run a forward of ours."""

    def __init__(self, batch: UserBatch, modules: dict[str, list[nn.Module]]) -> None:
        self.batch, self.modules = batch, modules

    def steepest(self, ball: Ball) -> Steepest:
        """Return the one-step attack; its `logits` write out no more of it than they need."""
        return Steepest(ball)

    def loss(self, logits: Tensor) -> Tensor:
        """Return [U]."""
        return self.batch.loss.value(logits, self.labels, self.batch.mask)

    @cached_property
    def labels(self) -> Tensor:
        """The labels [U, n]."""
        given = self.batch.labels
        return self.batch.loss.pseudo_labels(self._clean[0], self.batch.mask) if given is None else given

    @cached_property
    def _clean(self) -> tuple[Tensor, dict[str, Calls]]:
        """The pass at w, with its graph; both go once `_at_w` has been taken from them."""
        return self._run({}, gradient=True)

    def _run(self, own: dict[str, Any], *, gradient: bool) -> tuple[Tensor, dict[str, Calls]]:
        """Return the logits of one pass, and its calls by name.

        Raises:
            NotSupported: if what a layer read or gave is overwritten.
        """
        batch, calls = self.batch, {name: Calls() for name in self.modules}
        forwards = {
            module: (self._forward(name, own.get(name)), calls[name])
            for name, modules in self.modules.items()
            for module in modules
        }
        with frozen(batch.model), torch.set_grad_enabled(gradient), exact(batch.model):
            with replaced(forwards, batch.mask.numel()):
                clear_caches(batch.model.modules())
                logits = batch.logits()
            clear_caches(batch.model.modules())
        for name, made in calls.items():
            if made.changed():
                raise NotSupported(f"{name}: the model overwrites what the layer reads or gives")
        return logits, calls

    def _backward(self, logits: Tensor, calls: dict[str, Calls]) -> dict[str, list[Tensor]]:
        """Return the gradients by the outputs of all calls, each [U, m, out], name by name."""
        users = self.batch.users
        outputs = [output for made in calls.values() for output in made.outputs]
        found = iter(torch.autograd.grad(self.loss(logits).sum(), outputs, allow_unused=True) if outputs else ())
        slopes = {name: [(y, next(found)) for y in made.outputs] for name, made in calls.items()}
        return {
            name: [(torch.zeros_like(y) if d is None else d).reshape(users, -1, y.shape[-1]) for y, d in pairs]
            for name, pairs in slopes.items()
        }

    def _forward(self, name: str, own: Any) -> Forward:
        """Return the forward of a layer, given what is the users' own of it (None: nothing)."""
        raise NotImplementedError
