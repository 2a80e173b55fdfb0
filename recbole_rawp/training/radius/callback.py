"""Finds the radius in training: the plain model first; then radii go up and down by its valid scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_rawp.core import ball, restoring
from recbole_rawp.host import checkpoint
from recbole_rawp.host.weights import chosen_weights
from recbole_rawp.training.callbacks import Callback
from recbole_rawp.training.plain_values import copied, plain
from recbole_rawp.training.radius.checks import check_found, check_searchable
from recbole_rawp.training.radius.rule import RadiusSearch

if TYPE_CHECKING:
    from recbole_rawp.config.settings import FineTuning


class RadiusSearching(Callback):
    """Trains the plain model before the hardened one, and sets the radius at each validation."""

    def keeps_best(self, trainer: Any) -> bool:
        """Tell whether a search goes on: it chooses the best model."""
        return trainer.state.search is not None and trainer.start_epoch < trainer.epochs

    def on_train_begin(self, trainer: Any) -> None:
        """Train the plain model, unless that is done; training begins anew from its start.

        Raises:
            InputError: if there is nothing to find a radius by.
        """
        settings, wanted = trainer.settings.training, trainer.hardens_now and trainer.start_epoch < trainer.epochs
        if not wanted or settings.clean_budget is None:
            return
        check_searchable(settings, trainer.config, trainer.model, trainer.arguments.valid_data)
        killed = trainer.killed
        if killed is None or not killed["training"]["search"]["trained_plainly"]:
            train_plainly(trainer)

    def on_pass_end(self, trainer: Any, epoch: int) -> None:
        """Note whether something was perturbed since the last validation."""
        if trainer.state.search is not None and trainer.state.perturbed:
            trainer.state.search.perturbed = True

    def on_validation(self, trainer: Any, epoch: int, score: float) -> None:
        """Note the plain model's score, or decide about the hardened one."""
        search = trainer.state.search
        if trainer.trains_plain_model:
            search.plain.append(float(score))
        elif search is not None:
            _decide(trainer, epoch, float(score))

    def on_train_end(self, trainer: Any) -> None:
        """Make the chosen model the best one.

        Raises:
            InputError: if no model passed.
        """
        if not self.keeps_best(trainer):
            return
        search = trainer.state.search
        check_found(search)
        if not search.within_budget(search.chosen):
            trainer.logger.warning(
                f"rawp_radius auto: valid score {search.chosen.score:.4f}, {search.borne_out()}, but rawp_clean_budget "
                f"wants {search.needed():.4f}: not kept. More epochs may help, or a larger budget."
            )
        if not trainer.arguments.saved:
            checkpoint.load_into(trainer.model, {"state_dict": trainer.state.best_weights})
        trainer.set_best(search.chosen.score, search.result)


def train_plainly(trainer: Any) -> None:
    """Train the plain model, as far as a killed run did not, and go back to the start.

    Its checkpoint becomes `*-plain.pth`, lest it be taken for the hardened one if the run is killed.
    """
    state, saved = trainer.state, trainer.arguments.saved
    if trainer.killed is None:
        begin_search(trainer)
    with trainer.tensorboard_beside("plain"), restoring.state(trainer.model):  # what it leaves beside weights goes
        trainer.go_on()
        trainer.logger.info("rawp_radius auto: the plain model first, whose valid scores are the measure.")
        with called_plain(trainer.config):
            trainer.recboles_fit(saved=saved)
    search, seconds = state.search, state.seconds
    search.trained_plainly = True
    file = Path(trainer.saved_model_file)
    if saved and file.exists():  # a run killed just now repeats the last epoch, which need not be the best
        file.replace(file.with_stem(f"{file.stem}-plain"))
    if math.isinf(search.largest):
        search.largest = size(trainer)
    assert search.start is not None
    trainer.restore(search.start)
    state.search, state.seconds = search, seconds


def begin_search(trainer: Any) -> None:
    """Make the search, which remembers how training begins."""
    settings = trainer.settings.training
    start = copied(trainer.captured(epoch=trainer.start_epoch) | {"outside": {}})
    trainer.state.search = RadiusSearch(
        settings.clean_budget, trainer.valid_metric_bigger, settings.largest_radius, start=start
    )


@contextmanager
def called_plain(config: Any) -> Iterator[None]:
    """Let checkpoints tell that their model has no defense."""
    defense, config["defense"] = config["defense"], "none"
    try:
        yield
    finally:
        config["defense"] = defense


def size(trainer: Any) -> float:
    """Return the absolute radius of a change as large as the weights: as the largest of their groups."""
    settings = trainer.settings.training
    weights, _ = chosen_weights(trainer.model, settings)
    groups = ball.around(weights, 1.0, granularity=settings.recipe.granularity).radius
    return max(float(radius.max()) for radius in groups.values())


def _decide(trainer: Any, epoch: int, score: float) -> None:
    """Keep the model as it is, or put the last one that was kept back, or the first."""
    search: RadiusSearch = trainer.state.search
    perturbed, search.perturbed = search.perturbed, False
    waited = any(row.waits for row in search.rows[-1:])
    kept = _set_radius(trainer, epoch, score) if perturbed else not waited
    if not perturbed and kept:  # plain epochs, of the warm-up or of empty masks, tell nothing of the radius
        search.kept_score, search.warmed = score, search.warmed + 1
    if search.gives_up(impatient=trainer.cur_step >= max(1, trainer.stopping_step)):
        _begin_anew(trainer)
    elif kept:
        search.kept = copied(trainer.trained())
    elif not search.path[-1].waits:
        trainer.put_trained(search.kept or search.start or {})
    if not search.path:
        search.start, search.warm_start = search.kept, search.warmed


def _set_radius(trainer: Any, epoch: int, score: float) -> bool:
    """Set the next radius, and make the model the result so far if it is; tell whether to keep it."""
    search: RadiusSearch = trainer.state.search
    kept = search.decide(epoch, score)
    row = search.path[-1]
    trainer.logger.info(
        f"rawp_radius auto: epoch {epoch}, radius {row.radius:.3g}, valid score {score:.4f}, needed "
        f"{row.needed:.4f}: {'passed' if row.passed else 'refused'}{', goes on' * row.waits}; next radius "
        f"{search.radius:.3g}"
    )
    if row.chosen:  # RecBole's early stopping, by the clean score, counts anew
        search.result = plain(dict(trainer.state.valid_result))
        trainer.count_patience_anew()
        if trainer.arguments.saved:
            trainer.save_as_best(epoch, score)
        else:
            trainer.state.best_weights = copied(trainer.model.state_dict())
    return kept


def _begin_anew(trainer: Any) -> None:
    """Train from the start again, at smaller radii; RecBole's early stopping, too."""
    search: RadiusSearch = trainer.state.search
    search.begin_anew()
    trainer.put_trained(search.start or {})
    trainer.forget_best()
    trainer.logger.info(
        f"rawp_radius auto: the budget is not kept; training begins anew, at a radius of {search.largest:.3g} at most"
    )


def with_found(settings: FineTuning, search: RadiusSearch, values: Mapping[str, Any]) -> FineTuning:
    """Return the settings of stage 2 with the radius that was found, and what the clean budget leaves of tolerance."""
    chosen = search.chosen
    assert chosen is not None
    radius = values["ft_radius"] or chosen.radius
    part, whole = search.needed(), chosen.confirmed
    part, whole = (part, whole) if search.bigger else (whole, part)
    tolerance = max(settings.clean_tolerance, min(1.0, part / whole)) if whole > 0 else 1.0
    return replace(settings, clean_tolerance=tolerance, recipe=replace(settings.recipe, radius=radius))
