"""Measures a model under threats that change it once for all users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor

from recbole_rawp.core.attack_loss import AttackLoss
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.overlay import keeps_embeddings
from recbole_rawp.core.restoring import seed_generators
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.quirks import training_loss
from recbole_rawp.host.ranking import candidates as ranking
from recbole_rawp.host.ranking.measurement import Measured, Measurement, ranked_as
from recbole_rawp.host.weights import moved
from recbole_rawp.threats.adversarial.method import METHODS
from recbole_rawp.threats.adversarial.perturbation import worst_change
from recbole_rawp.threats.setting import CLEAN
from recbole_rawp.threats.threat import Change, Context, Threat

HUGE = 5.0  # of each tensor's norm


class Universal:
    """Measures threats with one change for all users.

    Attributes:
        context: what the threats are handed, and where they leave notes.
        eval_data: the loader that is ranked.
    """

    def __init__(self, trainer: Any, train_data: Any, eval_data: Any, batches: int, candidates: Any) -> None:
        self.trainer, self.eval_data = trainer, eval_data
        self.candidates = candidates
        self.clean: Measured | None = None
        model = trainer.model
        attacked = fixed_batches(train_data, batches, trainer.device)
        loss, named = training_loss(model), partial(moved, model)
        self.context = Context(
            model,
            named,
            attacked,
            loss,
            weight_loss=lambda target: AttackLoss(model, loss, attacked, named(target)),
            seed=trainer.config["seed"],
        )

    def measurements(self, threat: Threat, advance: Callable[[float], Any]) -> Iterator[Measurement]:
        """Yield what is measured for each variant and level, clean first."""
        for change in threat.changes(self.context):
            yield Measurement(change.variant, change.level, self.measure(change), change.loss)
            if change.level != CLEAN:
                advance(1)

    def measure(self, change: Change) -> Measured:
        """Return RecBole's evaluation of the changed model; of the model as it is, once."""
        if change.level == CLEAN and self.clean is not None:
            return self.clean
        with ranking.frozen(self.eval_data, self.candidates):
            found = ranked_as(self.trainer, self.eval_data, change.run, changed=change.level != CLEAN)
        if change.level == CLEAN:
            self.clean = found
        return found

    def unmoved(self) -> list[str]:
        """Return the weights whose change leaves the scores of the first users as they were, though it should not.

        Noise of five times the norm is put on all weights at once. In a model that keeps embeddings between
        evaluations it is put on each weight that the loss depends on by itself: some keep those of items alone (DMF).
        """
        loss = self.context.loss("all")
        if self.clean is None:  # RecBole's trainer is ready for single batches after a whole evaluation
            self.measure(Change("", CLEAN, partial(loss.at, {}), float("nan")))
        bound = loss.ball(HUGE, granularity="tensor")
        noise = worst_change(METHODS["noise"], loss, bound, restarts=1, steps=0, seed=0)
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
