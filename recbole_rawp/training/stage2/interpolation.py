"""Interpolates between a module before and after its repair, and keeps what is most robust.

theta(alpha) = (1 - alpha) * before + alpha * tuned,   alpha = 0, 1/n .. 1,   n = ft_alphas
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from tqdm import tqdm

from recbole_rawp.host.quirks import settle

if TYPE_CHECKING:
    from recbole_rawp.training.stage2.progress import Progress
    from recbole_rawp.training.stage2.valid_scores import ValidScores


@dataclass
class Mixture:
    """The clean and the robust valid score at an alpha of a round, and whether it is the one that is kept."""

    round: int
    alpha: float
    clean: float
    robust: float
    chosen: bool = False


def interpolate(
    model: nn.Module, names: Iterable[str], scores: ValidScores, progress: Progress, *, shown: bool = False
) -> None:
    """Score theta(alpha) for every alpha, and leave the model at the best: the smallest of those equally robust.

    Only alpha = 0 where tuning came to nothing. `shown`: whether to show how far it is.
    """
    before, tuned = progress.before, progress.best or progress.before
    rows = []
    steps = scores.settings.alphas if progress.best else 0
    alphas = [step / steps for step in range(1, steps + 1)]
    for alpha in tqdm([0.0, *alphas], "Interpolate", ncols=100, disable=not shown):
        put(model, {name: mix(before[name], tuned[name], alpha) for name in names})
        if alpha == 0:
            clean, robust = progress.now()
        else:
            clean = scores.clean()
            robust = scores.robust() if alpha < 1 or progress.best_score is None else progress.best_score
        rows.append(Mixture(progress.round, alpha, clean, robust))
    best = rows[0]
    for row in rows[1:]:
        if scores.keeps(row.clean, of=progress.clean) and scores.better(row.robust, best.robust):
            best = row
    best.chosen = True
    if best.alpha == 0:  # what the model derived from its weights meanwhile goes, too: RecVAE's prior
        model.load_state_dict(progress.derived, strict=False)
    put(model, {name: mix(before[name], tuned[name], best.alpha) for name in names})
    progress.sweep += rows


@contextmanager
def undone(model: nn.Module, progress: Progress) -> Iterator[None]:
    """Run the model as it was before stage 2."""
    repaired = values(model, progress.original)
    put(model, progress.original)
    try:
        yield
    finally:
        put(model, repaired)


def mix(before: torch.Tensor, tuned: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return (1 - alpha) * before + alpha * tuned; at 0 and 1 the tensors themselves."""
    return before if alpha == 0 else tuned if alpha == 1 else torch.lerp(before, tuned, alpha)


def values(model: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return copies of the named parameters."""
    return {name: model.get_parameter(name).detach().clone() for name in names}


@torch.no_grad()
def put(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy `tensors` into the parameters of those names."""
    for name, tensor in tensors.items():
        model.get_parameter(name).copy_(tensor)
    settle(model)
