"""Measures a model under threats that change it once for all users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor

from recbole_rawp.config.settings import Attack
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.losses.attack_loss import AttackLoss, Source
from recbole_rawp.core.overlay import keeps_embeddings
from recbole_rawp.core.restoring import seed_generators
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.preparation import Data
from recbole_rawp.host.ranking import candidates as ranking
from recbole_rawp.host.ranking.measurement import Measured, Measurement, ranked_as
from recbole_rawp.host.ranking.popularity import by_popularity
from recbole_rawp.host.ranking.ranking_loss import ranking_source
from recbole_rawp.host.twins import other_weights
from recbole_rawp.host.weights import moved
from recbole_rawp.threats.adversarial.method import METHODS
from recbole_rawp.threats.setting import CLEAN, RANKING, TRAINING
from recbole_rawp.threats.threat import Change, Context, Threat
from recbole_rawp.training.seams.training_loss import loss_of

HUGE = 5.0  # of each tensor's norm


class Universal:
    """Measures threats with one change for all users.

    Attributes:
        context: what the threats are handed, and where they leave notes.
        eval_data: the loader that is ranked.
    """

    def __init__(
        self, trainer: Any, data: Data, attack: Attack, candidates: Any, twins: Mapping[str, Weights] | None = None
    ) -> None:
        self.trainer, self.data, self.eval_data = trainer, data, data.test
        self.candidates = candidates
        self.clean: Measured | None = None
        self.last: tuple[Any, Measured] | None = None
        model = trainer.model
        batches = fixed_batches(data.train, attack.batches, trainer.device)
        training = Source(TRAINING, (loss_of(trainer, data.train),), batches)
        ranked = partial(
            ranking_source, trainer, data.train, data.valid, users=attack.users, negatives=attack.negatives
        )
        self.context = Context(
            model,
            partial(moved, model),
            {TRAINING: lambda: training, RANKING: ranked},
            around=partial(AttackLoss, model),
            other=partial(other_weights, model, trainer.config),
            seed=trainer.config["seed"],
            twins=twins,
        )

    def measurements(self, threat: Threat, advance: Callable[[float], Any]) -> Iterator[Measurement]:
        """Yield what is measured for each variant and level, clean first."""
        for change in threat.changes(self.context):
            measured = self.measure(change)
            yield Measurement(
                change.variant, change.level, measured, dict(change.losses), change.climbs, change.settled
            )
            if change.level != CLEAN:
                advance(1)

    def measure(self, change: Change) -> Measured:
        """Return RecBole's evaluation of the changed model; of the model as it is, and of the same change, once."""
        if change.level == CLEAN and self.clean is not None:
            return self.clean
        if self.last is not None and self.last[0] is change.run:
            return self.last[1]
        with ranking.frozen(self.eval_data, self.candidates):
            found = ranked_as(self.trainer, self.eval_data, change.run, changed=change.level != CLEAN)
        if change.level == CLEAN:
            self.clean = found
        self.last = change.run, found
        return found

    def by_popularity(self) -> dict[str, float]:
        """Return what popularity alone scores."""
        with ranking.frozen(self.eval_data, self.candidates):
            return by_popularity(self.trainer, self.data.train, self.eval_data)

    def ties(self) -> float | None:
        """Return the share of clean scores that tie with one to be found; None if no ranking was attacked."""
        known = self.context.known.get(RANKING)
        return None if known is None else known.ties

    def unmoved(self) -> list[str]:
        """Return the weights whose change leaves the scores of the first users as they were, though it should not.

        Noise of five times the norm is put on all weights at once. In a model that keeps embeddings between
        evaluations it is put on each weight that the loss depends on by itself: some keep those of items alone (DMF).
        """
        loss = self.context.loss("all")
        if self.clean is None:  # RecBole's trainer is ready for single batches after a whole evaluation
            self.measure(Change("", CLEAN, partial(loss.at, {}), {}))
        bound = loss.ball(HUGE, granularity="tensor")
        noise = METHODS["noise"].start(loss.shapes, bound, torch.Generator().manual_seed(0))
        assert noise is not None
        groups = {"all weights": noise}
        if keeps_embeddings(self.trainer.model):
            groups = {name: {name: noise[name]} for name, g in loss.gradient(None).items() if g.any()}
        with ranking.frozen(self.eval_data, self.candidates):
            batch = next(iter(self.eval_data))
        full = isinstance(self.eval_data, FullSortEvalDataLoader)
        score = self.trainer._full_sort_batch_eval if full else self.trainer._neg_sample_batch_eval
        clean = moved_scores(score, batch, loss, {})
        with torch.no_grad(), loss.at({}):  # the generators have gone on
            if not torch.equal(score(batch)[1].nan_to_num(), clean.nan_to_num()):
                self.context.note(
                    "The model draws its scores anew on each call; here always with the same random numbers."
                )
        return [name for name, delta in groups.items() if torch.equal(moved_scores(score, batch, loss, delta), clean)]


@torch.no_grad()
def moved_scores(score: Callable[[Any], Any], batch: Any, loss: AttackLoss, delta: Weights) -> Tensor:
    """Return RecBole's scores of one batch of an evaluation loader, with the model moved by delta."""
    with loss.at(delta):
        seed_generators()
        return score(batch)[1]
