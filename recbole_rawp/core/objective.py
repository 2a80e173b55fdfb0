"""The loss that is minimised: clean_weight * L(w) + adversarial_weight * L(w + delta), delta a constant."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_rawp.core import restoring
from recbole_rawp.core.ascent import Memory, ascend, follow
from recbole_rawp.core.ball import Ball, Weights, around, group_norms
from recbole_rawp.core.gradients import Loss, LossFunction, combine, gradients, total
from recbole_rawp.core.overlay import overlay
from recbole_rawp.core.selection import draw_mask

Change = Callable[[Weights, torch.Generator], Weights]


@dataclass(frozen=True)
class Recipe:
    """How to perturb, and how to weigh the two losses. Options and ranges: `properties/rawp.yaml`.

    Attributes:
        perturbs: whether it does at all.
        change: weights, a generator -> what takes their place, in training on a threat; None: a point of the ball.
        weight_clip: bound of each weight's size after each step; None for none.
    """

    radius: float
    radius_jitter: float = 0.0
    relative: bool = True
    granularity: str = "tensor"
    mask_probability: float = 1.0
    mask_every: str = "epoch"
    direction: str = "gradient"
    steps: int = 1
    start: str = "weights"
    ascent_fraction: float = 1.0
    clean_weight: float = 0.0
    adversarial_weight: float = 1.0
    perturbs: bool = True
    change: Change | None = None
    weight_clip: float | None = None


class Objective:
    """The hardened loss of one model; call it in place of the model's own loss function.

    Per epoch (`draw`) or per batch: T ~ U(1 - jitter, 1 + jitter) and masks m_l ~ Bernoulli(p). Per batch, `ascend`
    finds delta with ||delta_l|| = radius * T * m_l * omega_l * ||w_l||; in training on a threat, delta_l is
    m_l (w'_l - w_l), where w' is what the threat makes of w. The gradient goes straight through. All passes over a
    batch see the same random numbers (one dropout mask), and only one of them moves BatchNorm statistics, counters and
    generators: the pass at w where clean_weight > 0, else the pass at w + delta.

    Attributes:
        mask: name -> whether the tensor is perturbed until the next draw.
        stretch: T.
        batches, perturbed: calls since `reset`, and those with a perturbation, over which `losses` sums L(w + delta).
        memory: what the ascent keeps from batch to batch.
        norms: name -> [sum of ||delta_l||, number of summands].
    """

    def __init__(
        self, model: nn.Module, weights: Weights, recipe: Recipe, *, omega: dict[str, float], generator: torch.Generator
    ) -> None:
        self.model = model
        self.weights = weights
        self.recipe = recipe
        self.omega = omega
        self.generator = generator
        self.memory = Memory()
        self.draw()
        self.reset()

    def draw(self) -> None:
        """Draw T and the masks anew."""
        jitter = self.recipe.radius_jitter
        self.stretch = 1.0 + jitter * (2.0 * float(torch.rand((), generator=self.generator)) - 1.0)
        self.mask = draw_mask(self.weights, self.recipe.mask_probability, self.generator)

    def reset(self) -> None:
        """Start the counts anew."""
        self.batches = self.perturbed = 0
        self.losses: Tensor | float = 0.0
        self.norms: dict[str, list[Any]] = {}

    def __call__(self, loss_function: LossFunction, batch: Any) -> Loss:
        """Return the hardened loss on `batch`; a tuple stays a tuple of the same length.

        Raises:
            RuntimeError: if the loss does not depend on any parameter.
        """
        weights = self.begin()
        if not weights:
            return loss_function(batch)
        if self.recipe.clean_weight == 0:
            delta = self.perturb(weights, lambda delta: self.gradient(loss_function, batch, weights, delta))
            adversarial = self.perturbed_loss(loss_function, batch, weights, delta)
            return combine((self.recipe.adversarial_weight, adversarial))
        return self.both(loss_function, batch, weights)

    def begin(self) -> Weights:
        """Count a batch and return the weights that are not masked in it."""
        self.clip()
        self.batches += 1
        if self.recipe.mask_every == "batch":
            self.draw()
        if not self.recipe.perturbs:
            return {}
        return {name: weight for name, weight in self.weights.items() if self.mask[name]}

    @torch.no_grad()
    def clip(self) -> None:
        """Bring weights that the last step took beyond `weight_clip` back to it."""
        bound = self.recipe.weight_clip
        if bound is not None:
            for weight in self.weights.values():
                if not weight.is_complex():
                    weight.clamp_(-bound, bound)

    def both(self, loss_function: LossFunction, batch: Any, weights: Weights) -> Loss:
        """Return the weighted sum of L(w) and L(w + delta); L(w) also serves as the first ascent pass."""
        replay = Replay()
        clean = loss_function(batch)

        def gradient(delta: Weights | None) -> Weights:
            """Return dL/dw at w + delta; at w from the clean pass, if that saw the rows that the ascent sees."""
            if delta is None and self.stride(batch) == 1:
                return gradients(clean, weights, retain_graph=True)
            with replay:
                return self.gradient(loss_function, batch, weights, delta)

        delta = self.perturb(weights, gradient)
        with replay, restoring.state(self.model):
            adversarial = self.perturbed_loss(loss_function, batch, weights, delta)
        return combine((self.recipe.clean_weight, clean), (self.recipe.adversarial_weight, adversarial))

    def perturb(self, weights: Weights, gradient: Callable[[Weights | None], Weights]) -> Weights:
        """Return delta for the unmasked `weights`, and count its norms."""
        recipe = self.recipe
        if recipe.change is not None:
            delta = self.changed(recipe.change, weights)
            self.note_norms(delta)
            return delta
        ball = self.bound(weights, recipe.radius * self.stretch)
        if recipe.start == "free" and self.memory.uphill:
            delta = follow(self.memory, weights, ball)
        else:
            delta = ascend(
                gradient,
                weights,
                ball,
                direction=recipe.direction,
                steps=recipe.steps,
                generator=self.generator,
                adam=self.memory.adam,
                start=None if recipe.start == "weights" else self.memory.start(weights),
            )
        if recipe.start != "weights":
            self.memory.keep(delta, watched=recipe.start == "free")
        self.note_norms(delta)
        return delta

    @torch.no_grad()
    def note_norms(self, delta: Weights) -> None:
        """Count the norms of a perturbation, of which no graph is kept: that would hold every batch's delta."""
        for name, norm in group_norms(delta, "tensor").items():
            entry = self.norms.setdefault(name, [0.0, 0])
            entry[:] = entry[0] + norm, entry[1] + 1

    @torch.no_grad()
    def changed(self, change: Change, weights: Weights) -> Weights:
        """Return w' - w, drawn anew; complex weights have no stored form, and stay."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        real = {name: weight.detach() for name, weight in weights.items() if not weight.is_complex()}
        values = change(real, torch.Generator().manual_seed(seed))
        return {name: value - weights[name] for name, value in values.items()}

    def bound(self, weights: Weights, radius: float) -> Ball:
        """Return the ball around `weights`."""
        recipe = self.recipe
        return around(weights, radius, granularity=recipe.granularity, relative=recipe.relative, omega=self.omega)

    def gradient(self, loss_function: LossFunction, batch: Any, weights: Weights, delta: Weights | None) -> Weights:
        """Return dL/dw at w + delta on the ascent's share of the batch, leaving no trace in RNGs or model."""
        stride = self.stride(batch)
        rows = batch if stride == 1 else batch[::stride]
        with restoring.rng(), restoring.state(self.model), torch.enable_grad():
            loss = shifted_loss(self.model, loss_function, rows, weights, delta)
            return gradients(loss, weights)

    def stride(self, batch: Any) -> int:
        """Return k: the ascent takes every k-th row, for negatives follow positives in RecBole's batches.

        At least two rows stay: BatchNorm has no statistics of one.
        """
        wanted = round(1 / self.recipe.ascent_fraction)
        return 1 if wanted == 1 else max(1, min(wanted, len(batch) // 2))

    def perturbed_loss(self, loss_function: LossFunction, batch: Any, weights: Weights, delta: Weights) -> Loss:
        """Return L(w + delta), and count it."""
        loss = shifted_loss(self.model, loss_function, batch, weights, delta)
        self.count(loss)
        return loss

    def count(self, adversarial: Loss) -> None:
        """Count a batch with a perturbation, and its loss."""
        self.perturbed += 1
        self.losses = self.losses + total(adversarial).detach().float()  # in bf16, under autocast, a sum stalls


class Replay:
    """Lets later passes see the generators as they are now, and puts back what they were before each pass."""

    def __init__(self) -> None:
        self.start = restoring.rng_state()

    def __enter__(self) -> None:
        self.resume = restoring.rng_state()
        restoring.set_rng_state(self.start)

    def __exit__(self, *_: object) -> None:
        restoring.set_rng_state(self.resume)


def shifted_loss(
    model: nn.Module, loss_function: LossFunction, batch: Any, weights: Weights, delta: Weights | None
) -> Loss:
    """Return the loss at w + delta; its gradient reaches w as if delta were a constant."""
    shifted = {} if delta is None else {name: weights[name] + delta[name] for name in delta}
    with overlay(model, shifted) if shifted else nullcontext():
        return loss_function(batch)
