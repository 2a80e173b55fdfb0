"""The per-user weight attack, slow and obvious: a deep copy of the model per user, written in place."""

from __future__ import annotations

import copy

import torch


def attacked(model, score, batch, labels, mask, names, radius, *, steps=1):
    """Return (logits [U, n] under attack, attacked weights per user, gradients at w per user).

    One step moves each row by radius * ||row|| along its gradient. Several steps are projected ascent in the same
    ball with steps of 2.5 / steps times its radius, as `perturbation.ascend` does for the global attack.
    """
    users, n = mask.shape
    logits, weights, gradients = [], [], []
    for u in range(users):
        rows = batch[torch.arange(u * n, (u + 1) * n)]
        twin = copy.deepcopy(model)
        bounds = {name: radius * row_norms(model.get_parameter(name).detach()) for name in names}
        for step in range(steps):
            twin.zero_grad()
            z, y = score(twin, rows)[mask[u]], labels[u][mask[u]]
            loss = torch.logaddexp(torch.zeros_like(z), (1 - 2 * y) * z).sum()  # cross entropy, for y of 0 and 1
            loss.backward()
            if step == 0:
                gradients.append({name: gradient(twin.get_parameter(name)).clone() for name in names})
            with torch.no_grad():
                for name in names:
                    w, start = twin.get_parameter(name), model.get_parameter(name)
                    move(w, start, gradient(w), bounds[name], 1.0 if steps == 1 else 2.5 / steps)
        with torch.no_grad():
            logits.append(score(twin, rows))
        weights.append({name: twin.get_parameter(name).detach() for name in names})
    return torch.stack(logits), weights, gradients


def gradient(weight):
    """Return the gradient, 0 where the loss does not use the weight."""
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def row_norms(tensor):
    """Return ||w_r|| for each entry along the first dimension, shaped to broadcast."""
    return tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.dim() - 1))


def move(weight, start, uphill, bound, share):
    """Write weight + share * bound * g_r / ||g_r|| in place, pulled back into the ball of that bound around start."""
    norms = row_norms(uphill)
    weight += torch.where(norms > 0, share * bound * uphill / norms, torch.zeros_like(uphill))
    delta = weight - start
    length = row_norms(delta)
    outside = length > bound * (1 + 1e-12)
    weight.copy_(torch.where(outside, start + delta * bound / length, weight))
