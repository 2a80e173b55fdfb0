"""The ranking loss: a smooth form of the valid metric on valid data, through RecBole's own scoring.

    rankings (NDCG, Recall, Hit, MRR ...)   1 - NDCG (smooth: ApproxNDCG), without a cut-off, where a gradient would end
    GAUC                                    share of pairs in wrong order, user by user
    AUC                                     share of pairs of labelled rows in wrong order
    LogLoss                                 binary cross entropy
    MAE, RMSE                               mean absolute error; root of the mean square

The attacker does not see the test rows. Where there are no valid data it takes the training positives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Union

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import EvaluatorType
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recbole_rawp.core.losses import ranking
from recbole_rawp.core.losses.attack_loss import Judged, Source
from recbole_rawp.core.losses.ranking import Both
from recbole_rawp.core.restoring import rng, seed_generators, state
from recbole_rawp.errors import InputError
from recbole_rawp.host.ranking import ranking_batches as batches
from recbole_rawp.host.ranking.item_chunks import rows_of
from recbole_rawp.host.ranking.logits import ranked_by_logits
from recbole_rawp.host.ranking.ranking_batches import Labelled, Users
from recbole_rawp.threats.setting import RANKING

TEMPERATURES = (0.1, 0.3, 0.03)  # shares of the spread of the clean scores, a form of the loss each
PROBABILITIES = ("mae", "rmse")  # metrics of what `predict` returns, not of its order
Batch = Union[Users, Labelled]


def ranking_source(trainer: Any, train_data: Any, valid_data: Any, *, users: int, negatives: int) -> Source:
    """Return the ranking loss of the trainer's model.

    Args:
        trainer: any RecBole Trainer.
        train_data: the loader of the training positives, which are ranked where there are no valid data.
        valid_data: the loader of the valid data, or None.
        users: how many users, drawn once, are ranked; all if there are fewer.
        negatives: items that are ranked for each user beside those to be found, where a model without
            `full_sort_predict` would have to score every one of them by a row of its own.

    Raises:
        InputError: if there is nothing to rank, or the model has no scores of the kind that it takes.
    """
    loss = RankingLoss(trainer)
    if valid_data:
        found = loss.batches_of(valid_data, users, negatives)
    elif loss.by_value:
        found = batches.labelled_in_training(trainer.config, train_data, count=10)
    else:
        loader = batches.training_loader(trainer.config, train_data)
        found = loss.batches_of(loader, users, negatives)
    return loss.source(list(found))


class RankingLoss:
    """The ranking loss of a model, batch by batch, once `source` has seen them."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.model, self.config = trainer, trainer.model, trainer.config
        self.by_value = self.config["eval_type"] == EvaluatorType.VALUE
        self.metric = self.config["valid_metric"].partition("@")[0].lower()
        self.piece = max(1, int(self.config["train_batch_size"]))  # rows that a backward pass had room for in training
        self.whole = 0.0  # users or rows in a batch, on average

    def batches_of(self, loader: Any, users: int, negatives: int) -> Iterator[Batch]:
        """Yield batches of an evaluation loader."""
        device = self.trainer.device
        if self.by_value:
            return batches.labelled(self.config, loader)
        if not isinstance(loader, FullSortEvalDataLoader):
            return batches.with_candidates(loader, users, device)
        if scores_all(self.model):
            return batches.with_all_items(loader, users, device)
        features = loader._dataset.get_item_feature().to(device)
        return batches.with_some_items(loader, users, negatives, features, device)

    @torch.no_grad()
    def source(self, found: list[Batch]) -> Source:
        """Return what an attack climbs; the spread of the clean scores is taken of the model as it is now.

        Raises:
            InputError: if there is nothing in it, or no score of the kind that is needed.
        """
        if not found:
            raise InputError("attack_loss: ranking has nothing to rank. Set attack_loss=training.")
        self.whole = sum(map(len, found)) / len(found)
        spreads, lost, ties = [], 0.0, 0.0
        for batch in found:
            with rng(), state(self.model):
                seed_generators()
                spread, at_random, tied = self._clean(batch)
            spreads.append(replace(batch, spread=spread))
            lost, ties = lost + at_random * len(batch), ties + tied * len(batch)
        size = sum(map(len, found))
        forms = tuple(partial(self.loss, temperature=share) for share in TEMPERATURES)
        return Source(RANKING, forms, spreads, lost / size, ties / size)

    def _clean(self, batch: Batch) -> tuple[Tensor, float, float]:
        """Return the spread of a batch's clean scores, the loss of a random order, and the share of ties."""
        if isinstance(batch, Labelled):
            scores, labels = self.predicted(batch.rows), self.labels(batch)
            ties = ranking.tied_rows(scores, labels)
            return scores.std(unbiased=False), 0.5 if self.metric == "auc" else float("inf"), ties
        scores = self.scores(batch)
        ties = ranking.tied(scores, batch.users, batch.places)
        if self.metric == "gauc":
            return ranking.spread(scores), 0.5, ties
        at_random = 1 - ranking.random_order(batch.users, batch.everything.to(scores.dtype)).mean()
        return ranking.spread(scores), float(at_random), ties

    def loss(self, batch: Batch, temperature: float) -> Judged:
        """Return the loss of one batch, weighted so that the mean over batches is that over users or rows."""
        both = (self.of_rows if isinstance(batch, Labelled) else self.of_users)(batch, temperature)  # type: ignore[arg-type]
        weight = len(batch) / self.whole
        return Judged(both.smooth * weight, float(both.exact) * weight)

    def of_users(self, batch: Users, temperature: float) -> Both:
        """Return the mean over users."""
        scores = self.scores(batch)
        assert batch.spread is not None
        found = ranking.ranks(scores, batch.users, batch.places, temperature * batch.spread)
        ranked = scores.isfinite().sum(1).to(scores.dtype)
        if self.metric == "gauc":
            return Both(*(ranking.overtaken(each, batch.users, ranked).mean() for each in found))
        others, sampled = batch.everything.to(scores.dtype) - 1, ranked - 1
        whole = (ranking.among_all(each, sampled[batch.users], others[batch.users]) for each in found)
        return Both(*(1 - ranking.ndcg(each, batch.users, len(batch)).mean() for each in whole))

    def of_rows(self, batch: Labelled, temperature: float) -> Both:
        """Return the mean over rows, or over pairs of them."""
        scores = self.predicted(batch.rows)
        labels = self.labels(batch).to(scores.dtype)
        if self.metric == "auc":
            assert batch.spread is not None
            return ranking.misordered(scores, labels, temperature * batch.spread)
        if self.metric == "logloss":
            loss = functional.binary_cross_entropy_with_logits(scores, labels)
        else:
            error = scores - labels
            loss = error.abs().mean() if self.metric == "mae" else error.square().mean().sqrt()
        return Both(loss, loss.detach())

    def labels(self, batch: Labelled) -> Tensor:
        """Return the labels of a batch, [n].

        Raises:
            InputError: if the rows have none.
        """
        field = self.config["LABEL_FIELD"]
        if field not in batch.rows.interaction:
            raise InputError("attack_loss: ranking needs labelled rows, and these have none. Set attack_loss=training.")
        return batch.rows[field].to(self.trainer.device).float()

    def scores(self, batch: Users) -> Tensor:
        """Return the logits [U, n], -inf for what is not ranked."""
        if batch.columns is None:
            with ranked_by_logits(self.model):
                scores = self.model.full_sort_predict(batch.rows).reshape(len(batch), -1)
        else:
            flat = self.predicted(batch.rows)
            scores = torch.where(batch.columns >= 0, flat[batch.columns.clamp_min(0)], -torch.inf)
        if batch.hidden is None:
            return scores
        mask = torch.zeros_like(scores, dtype=torch.bool)
        mask[batch.hidden] = True
        return scores.masked_fill(mask, -torch.inf)

    def predicted(self, rows: Interaction) -> Tensor:
        """Return what `predict` says of rows, [n]; several pieces of them are computed again in the backward pass."""
        pieces = torch.arange(len(rows), device=self.trainer.device).split(self.piece)
        if len(pieces) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._piece(rows, piece) for piece in pieces])
        return torch.cat([checkpoint(self._piece, rows, piece, use_reentrant=False) for piece in pieces])

    def _piece(self, rows: Interaction, piece: Tensor) -> Tensor:
        order: AbstractContextManager[None] = (
            nullcontext() if self.metric in PROBABILITIES else ranked_by_logits(self.model)
        )
        with order:
            return self.model.predict(rows_of(rows, piece)).reshape(-1)


def scores_all(model: Any) -> bool:
    """Tell whether a model has a `full_sort_predict` of its own."""
    return type(model).full_sort_predict is not AbstractRecommender.full_sort_predict
