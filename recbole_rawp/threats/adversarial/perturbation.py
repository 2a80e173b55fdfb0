"""What is a perturbation inside a ball, as a threat?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NAMES = ("target", "granularity", "unit", "scope", "labels")  # by which records tell threats apart


@dataclass(frozen=True)
class Threat:
    """What moves, how far, for whom; and the methods that look for the worst such move.

    Attributes:
        methods: names of `attacks.ATTACKS`.
        target: `hidden`, `embeddings`, `all`, patterns over parameter names, or `activations`: the outputs of hidden
            layers before their activation function.
        granularity: what one norm spans, see `ball`; of activations, `row` is one layer's output (L2).
        unit: `relative` radii are shares of each group's norm, `absolute` ones the norm itself.
        scope: `global`, one move for the whole evaluation, along the model's own training loss; or `per_user`, one for
            each user, along the cross entropy on the candidates of that user.
        labels: of that cross entropy: `pseudo`, the model's own clean answers, or `truth`. Empty if global.
        steps: of methods that iterate.
        restarts: of methods that start at random; the one with the highest loss counts.
        radii: sorted, from 0.
        optional: whether a model without such a target is passed over, or refused.
    """

    methods: tuple[str, ...]
    target: str | Sequence[str]
    granularity: str
    unit: str
    scope: str
    labels: str
    steps: int
    restarts: int
    radii: tuple[float, ...]
    optional: bool = False

    @property
    def name(self) -> str:
        """Return what moves, within which ball, for whom: `hidden/row/per_user/pseudo`."""
        target = self.target if isinstance(self.target, str) else ",".join(self.target)
        return threat_name(target, self.granularity, self.unit, self.scope, self.labels)


def threat_name(target: str, granularity: str, unit: str, scope: str, labels: str) -> str:
    """Return the name of a threat for messages."""
    return "/".join(filter(None, (target, granularity, "absolute" * (unit == "absolute"), scope, labels)))
