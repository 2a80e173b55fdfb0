"""How is the model attacked for all users at once?  One move, along the model's own training loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor

from recbole_rawp.core.attack_loss import AttackLoss
from recbole_rawp.core.ball import Ball
from recbole_rawp.core.overlay import keeps_embeddings
from recbole_rawp.core.restoring import seed_generators
from recbole_rawp.core.selection import Weights
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.quirks import training_loss
from recbole_rawp.host.ranking import candidates as ranking
from recbole_rawp.host.ranking.measurement import Cell, Measured, ranked_at
from recbole_rawp.host.weights import moved, perturbed_weights
from recbole_rawp.threats.adversarial import ATTACKS, Attack, run
from recbole_rawp.threats.adversarial.activations import ActivationLoss
from recbole_rawp.threats.adversarial.perturbation import Threat

RESTART = 7919  # between the seeds of two random starts
HUGE = 5.0  # of each tensor's norm


class Global:
    """Attacks with one move for all users."""

    def __init__(self, trainer: Any, train_data: Any, eval_data: Any, batches: int, candidates: Any) -> None:
        self.trainer, self.eval_data = trainer, eval_data
        self.batches = fixed_batches(train_data, batches, trainer.device)
        self.candidates = candidates
        self.losses: dict[Any, AttackLoss] = {}
        self.notes: list[str] = []
        self.still: list[str] = []
        self.clean: Measured | None = None

    def curves(self, threat: Threat, advance: Callable[[float], Any]) -> Iterator[Cell]:
        """Yield what is measured for each method and radius, clean first."""
        loss = self.loss(threat)
        if self.clean is None:
            self.clean = self.measure(loss, {})
        self.look_at_gradient(loss, threat)
        at_zero = loss.value({})
        for method in threat.methods:
            yield method, 0.0, self.clean, at_zero
            for radius in threat.radii[1:]:
                bound = loss.ball(radius, granularity=threat.granularity, relative=threat.unit == "relative")
                delta = strongest(
                    ATTACKS[method],
                    loss,
                    bound,
                    restarts=threat.restarts,
                    steps=threat.steps,
                    seed=self.trainer.config["seed"],
                )
                yield method, radius, self.measure(loss, delta), loss.value(delta)
                advance(1)

    def look_at_gradient(self, loss: AttackLoss, threat: Threat) -> None:
        """Note what the attack cannot move, for the loss has no gradient by it."""
        gradient = loss.gradient(None)
        whole = [name for name, g in gradient.items() if not g.any() or not g.isfinite().all()]
        rows = {name: float((g.flatten(1) == 0).all(1).float().mean()) for name, g in gradient.items() if g.dim() > 1}
        parts = [f"{share:.0%} of {name}" for name, share in rows.items() if share >= 0.01 and name not in whole]
        if whole:
            self.note(
                f"Target {threat.target}: the loss has no usable gradient by {', '.join(whole)}; only noise moves it."
            )
        if parts:
            self.note(
                f"Target {threat.target}: rows without gradient, which only noise moves: {', '.join(parts)} (users or "
                "items in none of the attacked batches, or units that are never active)."
            )
        if len(whole) == len(gradient):
            self.still.append(threat.name)

    def note(self, text: str) -> None:
        """Note something once."""
        if text not in self.notes:
            self.notes.append(text)

    def loss(self, threat: Threat) -> AttackLoss:
        """Return the attacked loss; its gradient at the weights serves all threats to the same target."""
        if threat.target not in self.losses:
            model = self.trainer.model
            attacked = ActivationLoss if threat.target == "activations" else AttackLoss
            self.losses[threat.target] = attacked(
                model, training_loss(model), self.batches, moved(model, threat.target)
            )
        return self.losses[threat.target]

    def unmoved(self) -> list[str]:
        """Return the weights whose change leaves the scores of the first users as they were, though it should not.

        Noise of five times the norm is put on all weights at once. In a model that keeps embeddings between
        evaluations it is put on each weight that the loss depends on by itself: some keep those of items alone (DMF).
        """
        loss = AttackLoss(
            self.trainer.model,
            training_loss(self.trainer.model),
            self.batches,
            perturbed_weights(self.trainer.model, "all"),
        )
        if self.clean is None:  # RecBole's trainer is ready for single batches after a whole evaluation
            self.clean = self.measure(loss, {})
        bound = loss.ball(HUGE, granularity="tensor")
        noise = strongest(ATTACKS["random"], loss, bound, restarts=1, steps=0, seed=0)
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
                self.note("The model draws its scores anew on each call; here always with the same random numbers.")
        return [name for name, delta in groups.items() if torch.equal(moved_scores(score, batch, loss, delta), clean)]

    def measure(self, loss: AttackLoss, delta: Weights) -> Measured:
        """Return RecBole's evaluation with the model moved by delta."""
        with ranking.frozen(self.eval_data, self.candidates):
            return ranked_at(self.trainer, self.eval_data, loss, delta)


@torch.no_grad()
def moved_scores(score: Callable[[Any], Any], batch: Any, loss: AttackLoss, delta: Weights) -> Tensor:
    """Return RecBole's scores of one batch of an evaluation loader, with the model moved by delta."""
    with loss.at(delta):
        seed_generators()
        return score(batch)[1]


def strongest(attack: Attack, loss: AttackLoss, bound: Ball, *, restarts: int, steps: int, seed: int) -> Weights:
    """Return the delta that the attack finds; of several random starts the one with the highest loss."""
    starts = range(restarts if attack.restarts else 1)
    best: tuple[float, Weights] | None = None
    for number in starts:
        generator = torch.Generator().manual_seed(seed + RESTART * number)
        delta = run(attack, loss.gradient, loss.shapes, bound, steps=steps, generator=generator)
        value = loss.value(delta) if len(starts) > 1 else 0.0
        if best is None or value > best[0]:
            best = value, delta
    assert best is not None
    return best[1]
