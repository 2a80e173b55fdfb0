"""Smooth forms of ranking metrics, which have a gradient, beside the exact ones that they stand for.

The rank of item i among the items j that are ranked for a user, and with a sigmoid in place of the step:

    rank_i = 1 + sum_{j != i} 1[s_j > s_i]  (a tie: 1/2)      smooth:  1 + sum_{j != i} sigmoid((s_j - s_i) / T)

NDCG of smooth ranks is ApproxNDCG (Qin, Liu and Li, Information Retrieval 13, 2010); the mean of
sigmoid((s_n - s_p) / T) over pairs of a positive and a negative is 1 - AUC made smooth (Yan et al., ICML 2003). T is a
share of the spread of the clean scores: raw scores of one model lie within a thousandth, of another within hundreds.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ENTRIES = 2**22  # differences of scores that are held at once


class Both(NamedTuple):
    """A value in its smooth form, which has a gradient, and in the exact one."""

    smooth: Tensor
    exact: Tensor


def spread(scores: Tensor) -> Tensor:
    """Return the standard deviation of each user's scores, [U, n] -> [U]; those of -inf are not ranked."""
    ranked = scores.isfinite()
    count = ranked.sum(1).clamp_min(1)
    mean = torch.where(ranked, scores, 0.0).sum(1) / count
    squares = torch.where(ranked, scores - mean.unsqueeze(1), 0.0).square().sum(1) / count
    return squares.sqrt().clamp_min(torch.finfo(scores.dtype).tiny)


def ranks(scores: Tensor, users: Tensor, items: Tensor, temperature: Tensor) -> Both:
    """Return the ranks, from 1, of some items among their users' scores.

    Args:
        scores: [U, n]; -inf for what is not ranked.
        users, items: [P], row and column of the items.
        temperature: [U].

    At most `ENTRIES` differences are held at once; more are computed again in the backward pass.
    """
    pieces = torch.arange(len(users), device=users.device).split(max(1, ENTRIES // scores.shape[1]))
    one = partial(_ranks, scores)
    if len(pieces) == 1:
        return Both(*one(users, items, temperature))
    found = [checkpoint(one, users[piece], items[piece], temperature, use_reentrant=False) for piece in pieces]
    return Both(*(torch.cat(parts) for parts in zip(*found)))


def _ranks(scores: Tensor, users: Tensor, items: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    above = scores[users] - scores[users, items].unsqueeze(1)  # [P, n]; 0 for the item itself, which counts 1/2
    exact = 0.5 + (above > 0).sum(1) + 0.5 * (above == 0).sum(1)
    return 0.5 + torch.sigmoid(above / temperature[users].unsqueeze(1)).sum(1), exact.to(scores.dtype)


def among_all(found: Tensor, sampled: Tensor, everything: Tensor) -> Tensor:
    """Return ranks among all other items, from ranks among a sample of them: 1 + (rank - 1) * everything / sampled."""
    return 1 + (found - 1) * (everything / sampled.clamp_min(1))


def ndcg(found: Tensor, users: Tensor, count: int) -> Tensor:
    """Return NDCG without a cut-off, [count]: sum over a user's positives of 1 / log2(1 + rank), over its maximum.

    Args:
        found: ranks of the positives, [P].
        users: whose they are, [P], each user at least once.
        count: of users.
    """
    gains = 1 / torch.log2(1 + found)
    number = torch.bincount(users, minlength=count)
    places = torch.arange(1, int(number.max()) + 1, device=found.device, dtype=found.dtype)
    best = (1 / torch.log2(1 + places)).cumsum(0)[number - 1]
    return torch.zeros(count, dtype=found.dtype, device=found.device).index_add(0, users, gains) / best


def overtaken(found: Tensor, users: Tensor, ranked: Tensor) -> Tensor:
    """Return 1 - AUC of each user, [U]: the share of pairs of a positive and another item that are in wrong order.

    Args:
        found: ranks of the positives, [P].
        users: whose they are, [P].
        ranked: how many items are ranked for each user, [U].
    """
    number = torch.bincount(users, minlength=len(ranked)).to(found.dtype)
    summed = torch.zeros_like(number).index_add(0, users, found - 1)
    among_positives = number * (number - 1) / 2  # in whatever order
    return (summed - among_positives) / (number * (ranked - number)).clamp_min(1)


def misordered(scores: Tensor, labels: Tensor, temperature: Tensor) -> Both:
    """Return 1 - AUC of labelled rows: the share of pairs of a positive and a negative row that are in wrong order.

    Args:
        scores, labels: [n]; 0 pairs count as half.
        temperature: a number.
    """
    positive, negative = scores[labels > 0.5], scores[labels <= 0.5]
    if not len(positive) or not len(negative):
        half = 0.5 + 0.0 * scores.sum()
        return Both(half, half.detach())
    above = negative.unsqueeze(0) - positive.unsqueeze(1)
    exact = (above > 0).to(scores.dtype).mean() + 0.5 * (above == 0).to(scores.dtype).mean()
    return Both(torch.sigmoid(above / temperature).mean(), exact)


@torch.no_grad()
def tied(scores: Tensor, users: Tensor, items: Tensor) -> float:
    """Return the share of other items with exactly the score of an item to be found; arguments as of `ranks`."""
    same, others = 0, 0
    for piece in torch.arange(len(users), device=users.device).split(max(1, ENTRIES // scores.shape[1])):
        rows = scores[users[piece]]
        same += int((rows == scores[users[piece], items[piece]].unsqueeze(1)).sum()) - len(piece)
        others += int(rows.isfinite().sum()) - len(piece)
    return same / max(1, others)


@torch.no_grad()
def tied_rows(scores: Tensor, labels: Tensor) -> float:
    """Return the share of pairs of a positive and a negative row with exactly the same score."""
    positive, negative = scores[labels > 0.5], scores[labels <= 0.5]
    same = (positive.unsqueeze(1) == negative.unsqueeze(0)).sum()
    return float(same) / max(1, len(positive) * len(negative))


def random_order(users: Tensor, ranked: Tensor) -> Tensor:
    """Return each user's NDCG, [U], if every rank were (n + 1) / 2, the middle of the n items ranked for the user."""
    return ndcg((ranked[users] + 1) / 2, users, len(ranked))
