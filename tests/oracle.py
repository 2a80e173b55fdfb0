"""Slow, obviously correct versions: perturb in place, run, copy back."""

from __future__ import annotations

import copy
from itertools import count

import torch

from recbole_rawp.core.gradients import total
from recbole_rawp.threats.adversarial.method import Objective


def searched(method, gradient, shapes, bound, *, value=None, **how):
    """Return the delta that a method finds; without `value` the loss rises at each call, so that it is the last."""
    risen = count()
    loss = value or (lambda delta: next(risen))

    def number(delta):
        return torch.tensor(float(loss(delta)), dtype=torch.float64)

    nothing = {name: torch.zeros_like(shape) for name, shape in shapes.items()}
    climb = lambda delta: (number(nothing if delta is None else delta), gradient(delta))  # noqa: E731
    return method.search(Objective(shapes, number, climb), bound, **how).delta


def hardened_gradient(model, loss_function, batch, weights, radius, *, autocast=False, clean_weight=0.0):
    """Return (loss, gradients of all parameters) of clean_weight * L(w) + L(w + delta), FGSM per tensor.

    Each pass runs on a deep copy of the model, from the same random numbers, with the weights written in place.
    """
    start = torch.get_rng_state()

    def run(delta):
        torch.set_rng_state(start)
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for name, step in delta.items():
                twin.get_parameter(name).add_(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = total(loss_function(twin, batch))
        loss.backward()
        return twin, loss.item(), {name: p.grad for name, p in twin.named_parameters()}

    _, clean, at_w = run({})
    delta = {}
    for name, weight in weights.items():
        g = torch.zeros_like(weight) if at_w[name] is None else at_w[name]
        norm = g.norm()
        delta[name] = radius * weight.detach().norm() * g / norm if norm > 0 else torch.zeros_like(g)
    twin, adversarial, at_delta = run(delta)
    combined = {
        name: None if g is None else g + clean_weight * at_w[name] if clean_weight else g
        for name, g in at_delta.items()
    }
    return adversarial + clean_weight * clean, combined, dict(twin.named_buffers())
