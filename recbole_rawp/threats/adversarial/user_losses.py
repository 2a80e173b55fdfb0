"""The losses that an attack on each user raises, of that user's candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TOP = 0.1  # share of the candidates that count as what the model recommends
TEMPERATURE = 0.1  # of the spread of a user's logits


class UserLoss(NamedTuple):
    """A loss of candidates' logits.

    Attributes:
        value: logits [..., n], labels in {0, 1}, mask -> [...]; a tensor's leading dimensions are users.
        pseudo_labels: clean logits [U, n], mask -> labels: what the clean model believes.
    """

    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    pseudo_labels: Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Return sum_j mask_uj * BCEWithLogits(logit_uj, y_uj) for each user, [..., n] -> [...].

    Not by torch's function of that name: its gradient sigmoid(logit) - y is 0 for y = 1 and a logit above 17.
    """
    y = labels.to(logits.dtype)
    each = y * functional.logsigmoid(logits) + (1 - y) * functional.logsigmoid(-logits)
    return -torch.where(mask, each, 0.0).sum(-1)


def believed(logits: Tensor, mask: Tensor) -> Tensor:
    """Return 1[sigmoid(logit) > .5]: what the clean model believes."""
    return (logits.detach() > 0).to(logits.dtype)


def approximate_ndcg_loss(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - ApproxNDCG of each user's candidates with label 1, [..., n] -> [...]; 0 where there are none.

    rank_i = 1 + sum_{j != i} sigmoid((s_j - s_i) / T), as `core.losses.ranking`; T is `TEMPERATURE` times the spread of
    the logits as they are, through which no gradient goes.
    """
    number = mask.sum(-1, keepdim=True)
    mean = torch.where(mask, logits, 0.0).sum(-1, keepdim=True) / number
    squares = torch.where(mask, logits - mean, 0.0).square().sum(-1, keepdim=True) / number
    width = TEMPERATURE * squares.sqrt().clamp_min(torch.finfo(logits.dtype).tiny).detach()
    above = torch.sigmoid((logits.unsqueeze(-2) - logits.unsqueeze(-1)) / width.unsqueeze(-1))
    ranks = 0.5 + torch.where(mask.unsqueeze(-2), above, 0.0).sum(-1)
    wanted = torch.where(mask, labels, 0).to(logits.dtype)
    places = torch.arange(1, logits.shape[-1] + 1, device=logits.device, dtype=logits.dtype)
    count = wanted.sum(-1, keepdim=True)
    best = torch.where(places <= count, 1 / torch.log2(1 + places), 0.0).sum(-1)
    gained = (wanted / torch.log2(1 + ranks)).sum(-1)
    return torch.where(count.squeeze(-1) > 0, 1 - gained / best.clamp_min(1e-9), 0.0)


def recommended(logits: Tensor, mask: Tensor) -> Tensor:
    """Return 1 for the tenth of a user's candidates that the clean model ranks first, one at least."""
    order = torch.where(mask, logits.detach(), -torch.inf).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (order < (TOP * mask.sum(-1, keepdim=True)).ceil()).to(logits.dtype)


CROSS_ENTROPY = UserLoss(cross_entropy, believed)
SMOOTH_NDCG = UserLoss(approximate_ndcg_loss, recommended)
