"""Finds the radius in training: the plain model first; from there the radius grows while the clean score allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_rawp.core import ball, restoring
from recbole_rawp.host import checkpoint
from recbole_rawp.host.weights import chosen_weights
from recbole_rawp.training.callbacks import Callback
from recbole_rawp.training.plain_values import copied, plain
from recbole_rawp.training.radius.checks import check_found, check_measured, check_searchable
from recbole_rawp.training.radius.rule import JUMP, RadiusSearch, epochs_after

if TYPE_CHECKING:
    from recbole_rawp.config.settings import FineTuning


class RadiusSearching(Callback):
    """Trains the plain model before the hardened one, and sets the radius at each validation."""

    def keeps_best(self, trainer: Any) -> bool:
        """Tell whether a search goes on: it chooses the best model."""
        return trainer.state.search is not None and trainer.start_epoch < trainer.epochs

    def on_train_begin(self, trainer: Any) -> None:
        """Train the plain model, unless that is done; the hardened training goes on from its best weights.

        Raises:
            InputError: if there is nothing to find a radius by.
        """
        settings, wanted = trainer.settings.training, trainer.hardens_now and trainer.start_epoch < trainer.epochs
        if not wanted or settings.clean_budget is None:
            return
        check_searchable(settings, trainer.config, trainer.model, trainer.arguments.valid_data)
        if not trainer.tells_scores():
            return
        killed = trainer.killed
        if killed is not None and killed["training"]["search"]["trained_plainly"]:
            return
        if trainer.plain_model is None:
            train_plainly(trainer)
        else:
            take_plain(trainer, trainer.plain_model)

    def on_pass_end(self, trainer: Any, epoch: int) -> None:
        """Note whether something was perturbed since the last validation."""
        if trainer.state.search is not None and trainer.state.perturbed:
            trainer.state.search.perturbed = True

    def on_validation(self, trainer: Any, epoch: int, score: float) -> None:
        """Note the plain model's score, and keep it where it is the best; or judge the hardened one."""
        search = trainer.state.search
        if search is not None and search.settling:
            search.plain.append(float(score))
            if not search.settling:
                trainer.put_trained(search.kept)
                tell_measure(trainer)
        elif trainer.trains_plain_model:
            search.plain.append(float(score))
            if trainer.cur_step == 0:
                search.kept = copied(trainer.trained())
        elif search is not None and search.perturbed:  # epochs of empty masks tell nothing of the radius
            counts = math.nan if search.diverged else float(score)
            search.perturbed = search.diverged = False
            judge(trainer, epoch, counts)

    def on_train_end(self, trainer: Any) -> None:
        """Make the chosen model the best one.

        Raises:
            InputError: if no validation came after a perturbation.
        """
        if not self.keeps_best(trainer):
            return
        search = trainer.state.search
        check_found(search)
        if not search.chosen.passed:
            trainer.logger.warning(
                f"rawp_radius auto: valid score {search.chosen.score:.4f} at the least harmful radius "
                f"{search.chosen.radius:.3g}, but rawp_clean_budget wants {search.needed:.4f}: not kept. A larger "
                "budget, or a smaller learning_rate, may help."
            )
        if not search.chosen.passed and trainer.settings.training.keep_plain:
            give_up(trainer)
        else:
            if not trainer.arguments.saved:
                checkpoint.load_into(trainer.model, {"state_dict": trainer.state.best_weights})
            trainer.set_best(search.chosen.score, search.result)
        trainer.limit_loop(**search.limits)


def train_plainly(trainer: Any) -> None:
    """Train the plain model, as far as a killed run did not, and put its best weights and optimizer back for the ramp.

    Its checkpoint becomes `*-plain.pth`, lest it be taken for the hardened one if the run is killed.
    """
    state, saved = trainer.state, trainer.arguments.saved
    if trainer.killed is None:
        begin_search(trainer, copied(trainer.captured(epoch=trainer.start_epoch) | {"outside": {}}))
    with trainer.tensorboard_beside("plain"), restoring.state(trainer.model):  # what it leaves beside weights goes
        trainer.go_on()
        trainer.logger.info("rawp_radius auto: the plain model first, whose best valid score is the measure.")
        with trainer.called_plain():
            trainer.recboles_fit(saved=saved)
    if not trainer.heard_scores():
        state.search = None
        return
    search, seconds = state.search, state.seconds
    epochs = max(trainer.train_loss_dict, default=state.epoch_begun) + 1
    check_measured(search, trainer.valid_metric)
    file = Path(trainer.saved_model_file)
    if saved and file.exists():  # a run killed just now repeats the last epoch, which need not be the best
        file.replace(file.with_stem(f"{file.stem}-plain"))
    trainer.restore(search.start)
    trainer.put_trained(search.kept)
    state.search, state.seconds = search, seconds
    begin_ramp(trainer, epochs)


def take_plain(trainer: Any, content: Mapping[str, Any]) -> None:
    """Let the model as it is, of that checkpoint, be the plain one."""
    begin_search(trainer)
    search, epochs = trainer.state.search, content["epoch"] + 1
    go_on_with_optimizer(trainer, content)
    score, _ = trainer._valid_epoch(trainer.arguments.valid_data, show_progress=trainer.arguments.show_progress)
    search.plain, search.kept = [float(score)], None if math.isnan(score) else copied(trainer.trained())
    check_measured(search, trainer.valid_metric)
    begin_ramp(trainer, epochs)


def go_on_with_optimizer(trainer: Any, content: Mapping[str, Any]) -> None:
    """Take the moments of a checkpoint's optimizer, and none of its options; if it is another, say so and leave it."""
    own, theirs = trainer.optimizer.state_dict(), content.get("optimizer") or {"param_groups": []}
    alike = [group["params"] for group in own["param_groups"]] == [g["params"] for g in theirs["param_groups"]]
    if alike and content["config"]["learner"] == trainer.config["learner"]:
        trainer.optimizer.load_state_dict(own | {"state": theirs["state"]})
    else:
        trainer.logger.warning("rawp_radius auto: the checkpoint's optimizer does not fit this one, which begins anew.")


def begin_search(trainer: Any, start: dict[str, Any] | None = None) -> None:
    """Make the search, which remembers how a plain training that it waits for begins."""
    settings = trainer.settings.training
    trainer.state.search = RadiusSearch(
        settings.clean_budget, trainer.valid_metric_bigger, settings.largest_radius, JUMP, jumping=True, start=start
    )


def begin_ramp(trainer: Any, plain: int) -> None:
    """Let RecBole's loop go on after so many plain epochs, validate after each, and not stop early."""
    search: RadiusSearch = trainer.state.search
    search.trained_plainly, search.start = True, None
    search.settle()
    trainer.state.plain_until = plain + search.settling
    if math.isinf(search.largest):
        search.largest = size(trainer)
        search.radius, search.small = search.radius * search.largest, search.small * search.largest
    search.total = epochs_after(plain)
    end = plain + search.settling + search.total
    if not search.settling:
        tell_measure(trainer)
    search.limits = trainer.limit_loop(start_epoch=plain, epochs=end, eval_step=1, stopping_step=end)


def tell_measure(trainer: Any) -> None:
    """Log what the clean score is measured by."""
    search: RadiusSearch = trainer.state.search
    trainer.logger.info(
        f"rawp_radius auto: the plain model's valid score is {search.plain[search.best or 0]:.4f}, "
        f"{search.measure:.4f} in the mean with those after it; {search.needed:.4f} is needed."
    )


def size(trainer: Any) -> float:
    """Return the absolute radius of a change as large as the weights: as the largest of their groups."""
    settings = trainer.settings.training
    weights, _ = chosen_weights(trainer.model, settings)
    groups = ball.around(weights, 1.0, granularity=settings.recipe.granularity).radius
    return max(float(radius.max()) for radius in groups.values())


def refuse(trainer: Any, error: ValueError) -> bool:
    """Let a hardened epoch whose loss became NaN, which RecBole says by an error, count as refused; tell whether."""
    search: RadiusSearch | None = trainer.state.search
    if search is None or trainer.trains_plain_model or "loss is nan" not in str(error):
        return False
    trainer.logger.warning(f"rawp_radius auto: the training loss became NaN at radius {search.radius:.3g}.")
    trainer.put_trained(search.kept)
    search.perturbed = search.diverged = True
    return True


def judge(trainer: Any, epoch: int, score: float) -> None:
    """Set the next radius; keep the model, or put the one kept last back where the rule does; note a result so far."""
    search: RadiusSearch = trainer.state.search
    row = search.decide(epoch, score)
    trainer.logger.info(
        f"rawp_radius auto: epoch {epoch}, radius {row.radius:.3g}, valid score {score:.4f}, needed "
        f"{search.needed:.4f}: {'kept' if row.passed else 'recovering' if search.jumping else 'refused'}; next radius "
        f"{search.radius:.3g}"
    )
    if row.chosen:
        search.result = plain(dict(trainer.state.valid_result))
        if trainer.arguments.saved:
            trainer.save_as_best(epoch, score)
        else:
            trainer.state.best_weights = copied(trainer.model.state_dict())
    if row.passed:
        search.kept = copied(trainer.trained())
    elif search.goes_back:
        trainer.put_trained(search.kept)


def give_up(trainer: Any) -> None:
    """Make the plain model, the only one that was ever kept, the result."""
    search, arguments = trainer.state.search, trainer.arguments
    trainer.logger.warning("rawp_radius auto: the plain model is kept (rawp_keep_plain); it is NOT hardened.")
    trainer.put_trained(search.kept)
    search.gave_up = True
    trainer.set_best(*trainer._valid_epoch(arguments.valid_data, show_progress=arguments.show_progress))
    if arguments.saved:
        with trainer.called_plain():
            trainer.save_as_best(trainer.state.plain_until - 1, trainer.best_valid_score)


def with_found(settings: FineTuning, search: RadiusSearch, values: Mapping[str, Any]) -> FineTuning:
    """Return the settings of stage 2 with the radius that was found, and what the clean budget leaves of tolerance."""
    chosen = search.chosen
    assert chosen is not None
    radius = values["ft_radius"] or chosen.radius
    part, whole = search.needed, chosen.score
    part, whole = (part, whole) if search.bigger else (whole, part)
    tolerance = max(settings.clean_tolerance, min(1.0, part / whole)) if whole > 0 else 1.0
    return replace(settings, clean_tolerance=tolerance, recipe=replace(settings.recipe, radius=radius))
