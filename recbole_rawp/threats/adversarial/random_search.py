"""A search that looks at no gradient, and so betrays a model that hides it."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_rawp.core.ball import Ball, Weights, normalize, project, random_direction
from recbole_rawp.threats.adversarial.method import Best, Found, Method, Objective, register

QUERIES = 5  # for each of `attack_steps`
LEAST = 0.1  # of the radius, the length of the last moves


@register("random_search")
class RandomSearch(Method):
    """Random changes of rank 1, kept where they raise the loss; their length falls from the radius to a tenth of it.

    In the manner of the Square attack (Andriushchenko et al., ECCV 2020), where the ball is one of weights: an outer
    product u v^T moves a whole layer along one direction of its inputs, as a row of squares moves an image.
    """

    title = "random search without gradients"
    iterates = True
    at_random = True
    black_box = True

    def search(
        self,
        objective: Objective,
        ball: Ball,
        *,
        steps: int,
        generator: torch.Generator,
        warm: Weights | None = None,
        anew: bool = False,
    ) -> Found:
        """Return the best delta of the search."""
        delta = objective.zero()
        best = Best(objective.value(delta), delta)
        queries = QUERIES * steps
        for query in range(queries):
            length = LEAST ** (query / max(1, queries - 1))
            step = normalize(rank_1(objective.shapes, generator, users=ball.users), ball.shrunk(length))
            tried = project({name: best.delta[name] + change for name, change in step.items()}, ball)
            best.offer(objective.value(tried), tried)
        return Found(best.delta, best.value, best.value)


def rank_1(shapes: Weights, generator: torch.Generator, *, users: bool = False) -> Weights:
    """Return u v^T for each tensor, Gaussian u by its first dimension and v by the rest; Gaussian vectors as they are.

    With `users`, tensors have a leading dimension of users, each with a u and v of their own.
    """
    return {name: _outer(shape, generator, lead=int(users)) for name, shape in shapes.items()}


def _outer(shape: Tensor, generator: torch.Generator, *, lead: int) -> Tensor:
    if shape.dim() < lead + 2:
        return random_direction({"": shape}, generator)[""]
    users, rows = shape.shape[:lead], shape.shape[lead]
    rest = shape[(0,) * (lead + 1)].numel()
    sides = {"u": shape.new_empty(*users, rows, 1), "v": shape.new_empty(*users, 1, rest)}
    drawn = random_direction(sides, generator)
    return (drawn["u"] @ drawn["v"]).reshape(shape.shape)
