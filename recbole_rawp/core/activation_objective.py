"""The loss that is minimised when activations move: clean_weight * L(z) + adversarial_weight * L(z + delta)

z are the outputs of hidden linear layers before their activation function, delta a constant for each row of the batch:
random layer-wise adversarial training (RAT), the layers drawn by the masks. Baseline to the perturbation of weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from recbole_rawp.core import restoring
from recbole_rawp.core.ball import Ball, Weights, around
from recbole_rawp.core.gradients import Loss, LossFunction, combine, gradients
from recbole_rawp.core.hooks import hooked
from recbole_rawp.core.objective import Objective, Replay


class ActivationObjective(Objective):
    """`Objective` for shifts of hidden layers' outputs; its `weights` are those layers' weights.

    A shift is called `weight's name#n` for the n-th call of its layer in a pass, and is shaped like that output.
    """

    def __call__(self, loss_function: LossFunction, batch: Any) -> Loss:
        """Return the hardened loss on `batch`; a tuple stays a tuple of the same length."""
        weights = self.begin()
        if not weights:
            return loss_function(batch)
        clean_counts = self.recipe.clean_weight > 0
        replay = Replay()
        with ExitStack() as stack:
            if not clean_counts:  # the pass only looks
                stack.enter_context(restoring.rng())
                stack.enter_context(restoring.state(self.model))
            clean, outputs = self.run(loss_function, batch, weights)
            at_z = gradients(clean, outputs, retain_graph=clean_counts)
        delta = self.perturb(
            {name: output.detach() for name, output in outputs.items()},
            lambda delta: at_z if delta is None else self.slope(loss_function, batch, weights, delta, replay),
        )
        with ExitStack() as stack:
            if clean_counts:
                stack.enter_context(replay)
                stack.enter_context(restoring.state(self.model))
            adversarial, _ = self.run(loss_function, batch, weights, delta)
        self.count(adversarial)
        if not clean_counts:
            return combine((self.recipe.adversarial_weight, adversarial))
        return combine((self.recipe.clean_weight, clean), (self.recipe.adversarial_weight, adversarial))

    def slope(
        self, loss_function: LossFunction, batch: Any, weights: Weights, delta: Weights, replay: Replay
    ) -> Weights:
        """Return dL/dz at z + delta, leaving no trace in generators or model."""
        with replay, restoring.state(self.model):
            loss, outputs = self.run(loss_function, batch, weights, delta)
            return gradients(loss, outputs)

    def run(
        self, loss_function: LossFunction, batch: Any, weights: Weights, delta: Weights | None = None
    ) -> tuple[Loss, Weights]:
        """Return the loss with the outputs shifted by delta, and the shifted outputs, which gradients reach."""
        layers = {name: self.model.get_submodule(name.rpartition(".")[0]) for name in weights}
        with shifting(layers, delta or {}) as outputs:
            return loss_function(batch), outputs

    def bound(self, tensors: Weights, radius: float) -> Ball:
        """Return the ball around the outputs; omega is that of the layer."""
        recipe = self.recipe
        omega = {name: self.omega[name.rpartition("#")[0]] for name in tensors}
        return around(tensors, radius, granularity=recipe.granularity, relative=recipe.relative, omega=omega)


@contextmanager
def shifting(layers: Mapping[str, nn.Module], delta: Weights) -> Iterator[Weights]:
    """Add delta to the layers' outputs, call by call; what is given holds the outputs as they went on."""
    outputs: Weights = {}
    calls = dict.fromkeys(layers, 0)

    def hook(name: str) -> Any:
        """Return the hook of the layer whose weight has this name."""

        def shift(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            """Note one call's output, moved."""
            key = f"{name}#{calls[name]}"
            calls[name] += 1
            outputs[key] = output + delta[key] if key in delta else output
            return outputs[key]

        return shift

    with hooked({layer: hook(name) for name, layer in layers.items()}):
        yield outputs
