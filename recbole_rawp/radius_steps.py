"""How is the radius found in training?  The plain model first; then radii go up and down by its valid scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from recbole_rawp import checkpoint, output, preserve, resume
from recbole_rawp.errors import InputError
from recbole_rawp.radius_search import RadiusSearch
from recbole_rawp.settings import FineTuning

Train = Callable[..., tuple[float, Any]]  # RecBole's fit on the data, of saved, show_progress, callback_fn


def check_searchable(config: Any, valid_data: Any) -> None:
    """Raise InputError if there is nothing to find a radius by."""
    if not valid_data:
        raise InputError("rawp_radius: auto goes by valid data, and this split has none. Split some off, or set it.")
    if not config["single_spec"]:
        raise InputError("rawp_radius: auto searches in one process. Leave nproc out, or set a number.")
    if config["eval_step"] <= 0:
        raise InputError(
            f"eval_step: {config['eval_step']} validates never, but rawp_radius=auto goes by valid scores. Set it to 1 "
            "or more, or set rawp_radius to a number."
        )


def train_plainly(
    trainer: Any, train: Train, state: resume.State | None, *, saved: bool, show_progress: bool
) -> resume.State | None:
    """Make `trainer.search`, and train the plain model unless that is done; return the state to go on from.

    The plain model's checkpoint stays beside the one to come as `*-plain.pth`, its curves in TensorBoard, too.
    """
    settings = trainer.settings
    if trainer.start_epoch >= trainer.epochs or (state is not None and state["search"] is None):
        return state  # no stage 1: `harden`
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
    with preserve.state(trainer.model):  # what the plain training leaves in the model beside its weights
        if state is not None:
            resume.restore(trainer, trainer.loaders, state)
        trainer.logger.info("rawp_radius auto: the plain model first, whose valid scores are the measure.")
        trainer.clock = time.perf_counter() - trainer.seconds
        train(saved, show_progress, lambda epoch, score: search.plain.append(float(score)))
        seconds = time.perf_counter() - trainer.clock
    trainer.tensorboard.close()
    trainer.tensorboard, trainer.epoch_begun, search.trained_plainly = board, None, True
    if saved:
        file = Path(trainer.saved_model_file)
        output.copy(file, file.with_stem(f"{file.stem}-plain"))
    assert search.start is not None
    return search.start | {"counters": search.start["counters"] | {"seconds": seconds}}


def search(
    trainer: Any, train: Train, callback_fn: Any, *, saved: bool, show_progress: bool
) -> tuple[float, dict[str, float]]:
    """Train at the radii that `trainer.search` asks for; the chosen model is the best one.

    Raises:
        RuntimeError: if no model passed.
    """
    found = trainer.search

    def decide(epoch: int, score: float) -> None:
        """Judge what was trained since the last validation."""
        _decide(trainer, epoch, float(score), saved)
        if callback_fn:
            callback_fn(epoch, score)

    train(False, show_progress, decide)
    if found.chosen is None:
        raise RuntimeError(
            f"rawp_radius auto: no validation reached {1 - found.budget:.1%} of the plain model's score at its time. "
            "Raise rawp_clean_budget, or validate less often (eval_step)."
        )
    if not found.within_budget(found.chosen["score"]):
        trainer.logger.warning(
            f"rawp_radius auto: the best model's valid score {found.chosen['score']:.4f} is below the "
            f"{found.needed():.4f} that rawp_clean_budget asks for. More epochs may help, or a larger budget."
        )
    if not saved:
        checkpoint.load_into(trainer.model, {"state_dict": trainer.best_weights})
    trainer.best_valid_score, trainer.best_valid_result = found.chosen["score"], found.result
    return trainer.best_valid_score, trainer.best_valid_result


def _decide(trainer: Any, epoch: int, score: float, saved: bool) -> None:
    """Keep the model as it is, or put the last one that was kept back; the plain warm-up is always kept."""
    found: RadiusSearch = trainer.search
    if epoch < trainer.settings.warmup_epochs:
        found.kept = resume.copied(resume.trained(trainer, trainer.outside))
        return
    kept = found.decide(epoch, score)
    row = found.path[-1]
    trainer.logger.info(
        f"rawp_radius auto: epoch {epoch}, radius {row['radius']:.3g}, valid score {score:.4f}, needed "
        f"{row['needed']:.4f}: {'passed' if row['passed'] else 'refused'}; next radius {found.radius:.3g}"
    )
    if row["chosen"]:
        found.result = resume.plain(dict(trainer.valid_result))
        if saved:
            trainer._save_checkpoint(epoch, verbose=False)
        else:
            trainer.best_weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    if kept:
        found.kept = resume.copied(resume.trained(trainer, trainer.outside))
    else:
        resume.put_trained(trainer, found.kept or found.start or {})


def with_found(settings: FineTuning, search: RadiusSearch, values: Mapping[str, Any]) -> FineTuning:
    """Return the settings of stage 2 with the radius that was found, and what the clean budget leaves of tolerance."""
    chosen = search.chosen
    assert chosen is not None
    radius = values["ft_radius"] or chosen["radius"]
    kept = search.needed() / chosen["score"] if search.bigger else chosen["score"] / search.needed()
    tolerance = min(1.0, max(kept, settings.clean_tolerance))
    return replace(settings, clean_tolerance=tolerance, recipe=replace(settings.recipe, radius=radius))
