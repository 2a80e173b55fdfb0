"""Makes the trainer of a run, and checks before that it can train."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.utils import get_trainer, set_color
from torch import nn

from recbole_rawp import files
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.config.settings import Settings, read
from recbole_rawp.config.suites import written
from recbole_rawp.errors import InputError
from recbole_rawp.host import environment
from recbole_rawp.host.checkpoint import not_finite
from recbole_rawp.host.preparation import Data, keep_log, recboles
from recbole_rawp.host.quirks import pretraining
from recbole_rawp.host.rehearsal import check_evaluation
from recbole_rawp.host.weights import chosen_weights
from recbole_rawp.training import resume, warm_up
from recbole_rawp.training.registration import robustify
from recbole_rawp.training.stage2.tuning import NOT_A_NUMBER
from recbole_rawp.training.trainer import RAWPFTTrainer

logger = logging.getLogger()
PLACES = ("rawp_output_dir", "attack_candidates")  # settings.yaml says the latter


def check_weights(settings: Settings, model: nn.Module) -> None:
    """Raise InputError, naming the option, if there is no weight to perturb."""
    if settings.training.defense != "none" or settings.fine_tuning.rounds:
        chosen_weights(model, settings.training)


def check_hardens(config: Config, model: nn.Module, data: Data) -> None:
    """Raise InputError if a defense is wanted, and a plain model would be kept."""
    settings = read(config).training
    if settings.defense != "none" and not pretraining(model):
        warm_up.check(config, settings.warmup_epochs, data.valid)
    elif settings.defense != "none" and settings.pretraining:
        warm_up.check_pretraining(config, settings.warmup_epochs)


def check_choosable(model: nn.Module, data: Data) -> None:
    """Raise InputError if nothing can be chosen by this model's score on valid data: no stage 2, no tuning."""
    if not data.valid:
        raise InputError("eval_args: the choice is made on valid data, and this split has none. Split some off.")
    if pretraining(model):
        raise InputError(
            f"train_stage: {model.train_stage!r} is a stage of pretraining, which is not scored. Fine-tune first."
        )


def write_settings(runs: Sequence[Config], folder: Path) -> None:
    """Write settings and suite of each run, the last one's into `folder` itself, before any training."""
    for config in runs:
        home = folder if config is runs[-1] else folder / "baseline"
        home.mkdir(exist_ok=True)
        files.write_text(home / "settings.yaml", environment.settings_yaml(config))
        files.write_text(home / "suite.yaml", written(read(config).attack.threats))


def fingerprint(folder: Path, config: Config) -> str:
    """Return the digest of the settings in `folder` and of our options' values, defaults too."""
    ours = sorted((key, repr(config[key])) for key in OPTIONS if key not in PLACES)
    ours.append(("threats", repr(read(config).attack.threats)))  # a suite is a file, which may change
    return hashlib.sha256((folder / "settings.yaml").read_bytes() + repr(ours).encode()).hexdigest()


def make_trainer(
    config: Config, model: nn.Module, folder: Path, data: Data, *, saved: bool = False, trained: bool = False
) -> RAWPFTTrainer:
    """Return RecBole's trainer for the model, hardened, which can evaluate.

    Args:
        folder: where its files go, and whose state it goes on from if they are `saved`.
        trained: whether the model is, and so must have scores.

    Raises:
        InputError: for settings with which RecBole cannot make it, or not evaluate; or if the state is damaged, or of
            a run with other settings.
    """
    config["checkpoint_dir"] = str(folder)
    known = fingerprint(folder, config) if saved else None
    killed = None if known is None else resume.read(folder / resume.NAME, known)
    with recboles("trainer"):
        trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.write_into(folder, fingerprint=known, killed=killed)
    for loader in (data.valid, data.test):
        check_evaluation(trainer, train_data=data.train, eval_data=loader, trained=trained)
    keep_log()
    return trainer


def ready(trainer: RAWPFTTrainer, data: Data) -> None:
    """Let a model that is not trained here be evaluated, as RecBole's `fit` does."""
    trainer.eval_collector.data_collect(data.train)


def fit(trainer: RAWPFTTrainer, data: Data, saved: bool) -> dict[str, Any]:
    """Train with the configured defense and test; return what `run_recbole` does; InputError if training diverged."""
    config = trainer.config
    try:
        score, valid_result = trainer.fit(data.train, data.valid, saved=saved, show_progress=config["show_progress"])
    except (RuntimeError, ValueError) as error:
        beyond = NOT_A_NUMBER.fullmatch(str(error)) or not_finite(trainer.model)
        if isinstance(error, InputError) or not beyond:
            raise
        raise diverged(trainer, f"{error} in epoch {trainer.state.epoch_begun}") from error
    if saved and not Path(trainer.saved_model_file).exists():
        logger.warning(f"{type(trainer).__name__}: its fit saved no model. The one that it left is saved.")
        trainer._save_checkpoint(config["epochs"] - 1)
    test_result = trainer.evaluate(data.test, load_best_model=saved, show_progress=config["show_progress"])
    if broken := not_finite(trainer.model):
        raise diverged(trainer, f"weights became NaN or infinite ({broken[0]})")
    logger.info(set_color("best valid ", "yellow") + f": {valid_result}")
    logger.info(set_color("test result", "yellow") + f": {test_result}")
    return {
        "best_valid_score": score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": valid_result,
        "test_result": test_result,
    }


def diverged(trainer: RAWPFTTrainer, how: str) -> InputError:
    """Return the error for a training that came to nothing."""
    defense, rate = trainer.defense, trainer.config["learning_rate"]
    smaller = "learning_rate" + " or rawp_radius" * (defense != "none")
    return InputError(
        f"training diverged: {' '.join(how.split())}, at learning_rate={rate} with defense={defense}. Start a new run "
        f"with a smaller {smaller}, and look for huge numbers in the data's features."
    )
