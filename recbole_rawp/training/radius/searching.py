"""How is the radius found in training?  The plain model first; then radii go up and down by its valid scores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.tensorboard import SummaryWriter

from recbole_rawp.config import settings as options
from recbole_rawp.config.settings import FineTuning, Training
from recbole_rawp.core import ball, restoring
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.quirks import pretraining
from recbole_rawp.host.weights import chosen_weights
from recbole_rawp.training import resume
from recbole_rawp.training.radius.search import RadiusSearch

Train = Callable[..., tuple[float, Any]]  # RecBole's fit on the data, of saved, show_progress, callback_fn


def check_searchable(config: Any, model: nn.Module, valid_data: Any) -> None:
    """Raise InputError if a radius is to be found in training, and there is nothing to find it by."""
    settings = options.training(config)
    check_scored(settings, model)
    if settings.defense == "none" or settings.clean_budget is None or pretraining(model):
        return
    if not config["single_spec"]:
        raise InputError("nproc: rawp_radius=auto is found in one process. Leave nproc out, or set rawp_radius.")
    if not valid_data:
        raise InputError("rawp_radius: auto goes by valid data, and this split has none. Split some off, or set it.")
    if config["eval_step"] <= 0:
        raise InputError(
            f"eval_step: {config['eval_step']} validates never, but rawp_radius=auto goes by valid scores. Set it to 1 "
            "or more, or set rawp_radius to a number."
        )


def check_scored(settings: Training, model: nn.Module) -> None:
    """Raise InputError if a radius is to be found in pretraining."""
    hardened = settings.defense != "none" and settings.pretraining and pretraining(model)
    if hardened and settings.clean_budget is not None:
        raise InputError(
            "rawp_radius: auto goes by valid scores, and pretraining has none. Set it to a number, or leave "
            "rawp_pretraining out."
        )


def train_plainly(
    trainer: Any, train: Train, state: resume.State | None, *, saved: bool, show_progress: bool
) -> resume.State | None:
    """Make `trainer.search`, and train the plain model unless that is done; return the state to go on from.

    The plain model's checkpoint becomes `*-plain.pth`, lest it be taken for the hardened one if the run is killed.
    """
    settings = trainer.settings
    if state is None:
        trainer.search = search = RadiusSearch(
            settings.clean_budget, trainer.valid_metric_bigger, settings.largest_radius
        )
        start = resume.capture(trainer, trainer.loaders, trainer.outside, epoch=trainer.start_epoch)
        search.start = resume.copied(start | {"outside": {}})
    else:
        trainer.search = search = RadiusSearch(**state["search"])
        if search.trained_plainly:
            return state
    board = trainer.tensorboard
    trainer.tensorboard = SummaryWriter(f"{board.log_dir}-plain")
    with restoring.state(trainer.model):  # what the plain training leaves in the model beside its weights
        if state is not None:
            resume.restore(trainer, trainer.loaders, state)
        trainer.logger.info("rawp_radius auto: the plain model first, whose valid scores are the measure.")
        trainer.clock = time.perf_counter() - trainer.seconds
        with called_plain(trainer.config):
            train(saved, show_progress, lambda epoch, score: search.plain.append(float(score)))
        seconds = time.perf_counter() - trainer.clock
    trainer.tensorboard.close()
    trainer.tensorboard, trainer.epoch_begun, search.trained_plainly = board, None, True
    file = Path(trainer.saved_model_file)
    if saved and file.exists():  # a run killed just now repeats the last epoch, which need not be the best
        file.replace(file.with_stem(f"{file.stem}-plain"))
    if math.isinf(search.largest):
        search.largest = size(trainer)
    assert search.start is not None
    return search.start | {"counters": search.start["counters"] | {"seconds": seconds}}


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
    weights, _ = chosen_weights(trainer.model, trainer.settings)
    groups = ball.around(weights, 1.0, granularity=trainer.settings.recipe.granularity).radius
    return max(float(radius.max()) for radius in groups.values())


def search(
    trainer: Any, train: Train, callback_fn: Any, *, saved: bool, show_progress: bool
) -> tuple[float, dict[str, float]]:
    """Train at the radii that `trainer.search` asks for; the chosen model is the best one.

    Raises:
        InputError: if no model passed.
    """
    found = trainer.search

    def decide(epoch: int, score: float) -> None:
        """Judge what was trained since the last validation."""
        _decide(trainer, epoch, float(score), saved)
        if callback_fn:
            callback_fn(epoch, score)

    train(False, show_progress, decide)
    if not found.path:
        raise InputError(
            "rawp_radius: auto saw no validation after a perturbation. Train longer, or raise rawp_mask_probability."
        )
    if found.chosen is None:
        raise InputError(
            f"rawp_clean_budget: {found.budget:g} was kept at no validation, however small the radius. Raise it, or "
            "validate less often (eval_step)."
        )
    if not found.within_budget(found.chosen):
        trainer.logger.warning(
            f"rawp_radius auto: valid score {found.chosen['score']:.4f}, {found.borne_out()}, but rawp_clean_budget "
            f"wants {found.needed():.4f}: not kept. More epochs may help, or a larger budget."
        )
    if not saved:
        checkpoint.load_into(trainer.model, {"state_dict": trainer.best_weights})
    trainer.best_valid_score, trainer.best_valid_result = found.chosen["score"], found.result
    return trainer.best_valid_score, trainer.best_valid_result


def _decide(trainer: Any, epoch: int, score: float, saved: bool) -> None:
    """Keep the model as it is, or put the last one that was kept back, or the first."""
    found: RadiusSearch = trainer.search
    perturbed, found.perturbed = found.perturbed, False
    waited = any(row["waits"] for row in found.rows[-1:])
    kept = _judge(trainer, epoch, score, saved) if perturbed else not waited
    if not perturbed and kept:  # plain epochs, of the warm-up or of empty masks, tell nothing of the radius
        found.kept_score, found.warmed = score, found.warmed + 1
    if found.gives_up(impatient=trainer.cur_step >= max(1, trainer.stopping_step)):
        _begin_anew(trainer)
    elif kept:
        found.kept = resume.copied(resume.trained(trainer, trainer.outside))
    elif not found.path[-1]["waits"]:
        resume.put_trained(trainer, found.kept or found.start or {})
    if not found.path:
        found.start, found.warm_start = found.kept, found.warmed


def _judge(trainer: Any, epoch: int, score: float, saved: bool) -> bool:
    """Set the next radius, and make the model the result so far if it is; tell whether to keep it."""
    found: RadiusSearch = trainer.search
    kept = found.decide(epoch, score)
    row = found.path[-1]
    trainer.logger.info(
        f"rawp_radius auto: epoch {epoch}, radius {row['radius']:.3g}, valid score {score:.4f}, needed "
        f"{row['needed']:.4f}: {'passed' if row['passed'] else 'refused'}{', goes on' * row['waits']}; next radius "
        f"{found.radius:.3g}"
    )
    if row["chosen"]:
        _keep_chosen(trainer, epoch, score, saved)
    return kept


def _begin_anew(trainer: Any) -> None:
    """Train from the start again, at smaller radii; RecBole's early stopping, too."""
    found: RadiusSearch = trainer.search
    found.begin_anew()
    resume.put_trained(trainer, found.start or {})
    trainer.cur_step, trainer.best_valid_score = 0, -math.inf if found.bigger else math.inf
    trainer.logger.info(
        f"rawp_radius auto: the budget is not kept; training begins anew, at a radius of {found.largest:.3g} at most"
    )


def _keep_chosen(trainer: Any, epoch: int, score: float, saved: bool) -> None:
    """Keep the model as it is as the result so far; RecBole's early stopping, by the clean score, counts anew."""
    trainer.search.result = resume.plain(dict(trainer.valid_result))
    trainer.cur_step = 0
    if saved:
        highest, trainer.best_valid_score = trainer.best_valid_score, score  # the file tells its own model's
        trainer._save_checkpoint(epoch, verbose=False)
        trainer.best_valid_score = highest
    else:
        trainer.best_weights = resume.copied(trainer.model.state_dict())


def with_found(settings: FineTuning, search: RadiusSearch, values: Mapping[str, Any]) -> FineTuning:
    """Return the settings of stage 2 with the radius that was found, and what the clean budget leaves of tolerance."""
    chosen = search.chosen
    assert chosen is not None
    radius = values["ft_radius"] or chosen["radius"]
    part, whole = search.needed(), chosen["confirmed"]
    part, whole = (part, whole) if search.bigger else (whole, part)
    tolerance = max(settings.clean_tolerance, min(1.0, part / whole)) if whole > 0 else 1.0
    return replace(settings, clean_tolerance=tolerance, recipe=replace(settings.recipe, radius=radius))
