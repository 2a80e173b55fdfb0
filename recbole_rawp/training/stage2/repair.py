"""Repairs only the weakest module: stage 2 of RAWP-FT, after RecBole's fit; test data are never seen.

    freeze everything but module l*; minimise the hardened loss with perturbations of l* alone; keep the best epoch
    theta(a) = (1 - a) * theta_before + a * theta_tuned,  a = 0, 1/n .. 1;  keep the best a

Best is the robust valid metric: the valid metric at the worst change of all ranked weights (`valid_scores`). For a, the
clean valid metric must stay within a tolerance of stage 1's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from recbole_rawp import files
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.selection import modules
from recbole_rawp.host import checkpoint
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.training.callbacks import Callback
from recbole_rawp.training.plain_values import copied
from recbole_rawp.training.stage2 import criticality, interpolation, tuning
from recbole_rawp.training.stage2.progress import Progress, summary
from recbole_rawp.training.stage2.valid_scores import ValidScores


class Stage2(Callback):
    """Repairs the best model of stage 1, where `ft_rounds` is above 0 and there are valid data."""

    def keeps_best(self, trainer: Any) -> bool:
        """Tell whether stage 1 is over: the model that there is must not be saved as one of its epochs."""
        return bool(trainer.state.stage > 1)

    def on_validation(self, trainer: Any, epoch: int, score: float) -> None:
        """Keep the weights if this validation was the best so far and no file has them; a search keeps its own."""
        state = trainer.state
        if wanted(trainer) and state.search is None and trainer.cur_step == 0 and not trainer.arguments.saved:
            state.best_weights = copied(trainer.model.state_dict())

    def on_train_end(self, trainer: Any) -> None:
        """Repair the best model; the repaired one becomes the best."""
        state, arguments = trainer.state, trainer.arguments
        if state.stage == 3 or not wanted(trainer):
            return
        if not arguments.valid_data:
            trainer.logger.warning("Stage 2 is skipped: it chooses by valid data, and there are none.")
            return
        if state.stage == 1:
            load_best(trainer)
        if state.progress is None:
            state.progress = Progress(max(trainer.train_loss_dict, default=trainer.start_epoch - 1) + 1)
        state.stage = 2
        if state.search is None and trainer.settings.repairs_at:
            trainer.logger.warning(trainer.settings.repairs_at)
        repair(trainer)
        trainer.set_best(*trainer._valid_epoch(arguments.valid_data, show_progress=arguments.show_progress))
        if arguments.saved:
            trainer._save_checkpoint(state.progress.start_epoch - 1, arguments.verbose)


def wanted(trainer: Any) -> bool:
    """Tell whether the model is to be repaired, and can be: it is no plain one that a search came back to."""
    gave_up = trainer.state.search is not None and trainer.state.search.gave_up
    return bool(trainer.fine_tuning.rounds and trainer.perturbable and not trainer.pretraining and not gave_up)


def load_best(trainer: Any) -> None:
    """Load stage 1's best weights, and keep its checkpoint beside the one to come."""
    file = Path(trainer.saved_model_file)
    if trainer.arguments.saved and not file.exists():
        trainer.logger.warning(f"{type(trainer).__name__}: its fit saved no model. Stage 2 takes the one it left.")
    elif trainer.arguments.saved:
        checkpoint.load_into(trainer.model, checkpoint.read(file, trainer.device))
        files.copy(file, file.with_stem(f"{file.stem}-stage1"))
    elif trainer.state.best_weights is not None:
        checkpoint.load_into(trainer.model, {"state_dict": trainer.state.best_weights})
        trainer.state.best_weights = None


def repair(trainer: Any) -> None:
    """Repair the weakest modules of the trainer's model, in place, and note in its `progress` what was seen.

    Each round ranks the modules, tunes the weakest and interpolates. Only their parameters are changed, and what the
    model itself derives from them; alpha = 0, no gain, leaves them bit-equal. The trainer's `_train_epoch` runs the
    epochs, so that its own passes, phases and clipping stay. Before each epoch the state is saved.

    Args:
        trainer: a `RAWPFTTrainer` whose model holds stage 1's best weights; a `progress` that has begun goes on.
    """
    progress, settings, arguments = trainer.state.progress, trainer.fine_tuning, trainer.arguments
    weights = perturbed_weights(trainer.model, settings.target)
    with progress.timed():
        scores = ValidScores(trainer, arguments.train_data, arguments.valid_data, weights, settings)
        if not progress.started:
            progress.clean, progress.robust, progress.started = scores.clean(), scores.robust(), True
    while progress.round < settings.rounds:
        with progress.timed():
            if not progress.chosen and not choose(trainer, weights):
                break
            trainer.log(f"Stage 2, round {progress.round + 1}: repairing {', '.join(progress.chosen)}.")
        parameters = {name: trainer.model.get_parameter(name) for name in progress.chosen}
        tuning.tune(trainer, weights, parameters, scores)
        with progress.timed():
            shown = trainer.config["show_progress"]
            interpolation.interpolate(trainer.model, list(parameters), scores, progress, shown=shown)
        progress.end_round()
        trainer.log(summary(progress, trainer.valid_metric)[-1])


def choose(trainer: Any, weights: Weights) -> bool:
    """Rank the modules and note the weakest that were not repaired yet; return False when none is left."""
    progress, settings, arguments = trainer.state.progress, trainer.fine_tuning, trainer.arguments
    model, units = trainer.model, modules(trainer.model, weights)
    done = {row.module for row in progress.ranking if row.repaired}
    if done == units.keys():
        return False
    data, how = (arguments.train_data, arguments.valid_data), settings.criticality
    rows = criticality.rank(trainer, *data, weights=weights, settings=how)
    targets = [row.module for row in rows if row.module not in done][: settings.modules]
    progress.ranking += [replace(row, round=progress.round, repaired=row.module in targets) for row in rows]
    progress.chosen = [name for target in targets for name in parameters_of(model, target, units[target])]
    progress.before = interpolation.values(model, progress.chosen)
    progress.original = {**progress.before, **progress.original}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    progress.derived = {name: value.clone() for name, value in model.state_dict().items() if name not in trained}
    return True


def parameters_of(model: nn.Module, module: str, weights: list[str]) -> list[str]:
    """Return the names of all trained parameters of a module, its bias too; of a raw parameter, its own name."""
    if module in weights:
        return [module]
    own = model.get_submodule(module).named_parameters(recurse=False)
    return [f"{module}.{leaf}" for leaf, parameter in own if parameter.requires_grad]
