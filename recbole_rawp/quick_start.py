"""In what order does it happen?"""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.utils import get_trainer, set_color
from torch import nn

from recbole_rawp import checks, environment, evaluation, report
from recbole_rawp import config as options
from recbole_rawp.config import RAWPConfig
from recbole_rawp.errors import naming
from recbole_rawp.prepare import Data, prepare, recboles
from recbole_rawp.rules import RULES
from recbole_rawp.trainer import RAWPTrainer, robustify
from recbole_rawp.weights import chosen_weights, perturbed_weights

logger = logging.getLogger()


def run_recbole_rawp(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    baseline: bool = False,
) -> dict[str, Any]:
    """Train a RecBole model with a defense, attack it on test data, and report: a drop-in for `run_recbole`.

    Args:
        model, dataset, config_file_list, config_dict, saved: as RecBole's `run_recbole` takes them. Options of ours
            are flat keys like RecBole's; `properties/rawp.yaml` lists them.
        baseline: also train the plain model, first, and put both in one table and picture.

    Returns:
        What `run_recbole` returns (`best_valid_score`, `valid_score_bigger`, `best_valid_result`, `test_result`), and
        `records` (see `evaluation.SCHEMA`), `checks`, `table` (Markdown) and `output_dir`.

    Raises:
        InputError: for anything in the input that cannot work, before any training.
    """
    config = RAWPConfig(model, dataset, config_file_list, config_dict)
    report.check_free(config["rawp_output_dir"])
    folder: Path | None = None
    records: list[evaluation.Record] = []
    verdicts: list[checks.Check] = []
    result: dict[str, Any] = {}
    place = environment.describe(config["device"])
    for current in with_baseline(config) if baseline else [config]:
        data, network = prepare(current)
        check_weights(config, network)
        if folder is None:  # nothing is written before the input is known to work
            names = [config[key] for key in ("model", "dataset", "defense")]
            folder = report.reserve(config["rawp_output_dir"], *names, environment=place)
        trainer, result = train(current, network, data, folder if current is config else folder / "baseline", saved)
        found = attack(trainer, data)
        records += found
        own = result["test_result"] if ranks_fixed_candidates(config) else None
        verdicts += checks.verify(found, own, decimals=config["metric_decimal_place"])
    assert folder is not None
    table = report.write(
        folder,
        records,
        verdicts,
        metric=config["valid_metric"].lower(),
        bigger=config["valid_metric_bigger"],
        settings={key: config[key] for key in RULES},
        environment=place,
    )
    return result | {"records": records, "checks": verdicts, "table": table, "output_dir": str(folder)}


def with_baseline(config: RAWPConfig) -> list[Config]:
    """Return the settings of the plain model, then those of the hardened one; one of them if they are the same."""
    plain = copy.deepcopy(config)
    plain["defense"] = "none"
    return [config] if config["defense"] == "none" else [plain, config]


def check_weights(config: Config, model: nn.Module) -> None:
    """Raise InputError, naming the option, if there is no weight to perturb or attack."""
    settings = options.training(config)
    if settings.defense != "none":
        chosen_weights(model, settings)
    with naming("attack_target"):
        perturbed_weights(model, options.attack(config).target)


def train(
    config: Config, model: nn.Module, data: Data, folder: Path, saved: bool
) -> tuple[RAWPTrainer, dict[str, Any]]:
    """Train with the configured defense and test, as `run_recbole` does; return the trainer and that result."""
    folder.mkdir(exist_ok=True)
    config["checkpoint_dir"] = str(folder)
    report.whole(
        folder / "settings.yaml", lambda path: path.write_text(environment.settings_yaml(config), encoding="utf-8")
    )
    with recboles("trainer"):
        trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.saved_model_file = str(folder / "model.pth")
    score, valid_result = trainer.fit(data.train, data.valid, saved=saved, show_progress=config["show_progress"])
    test_result = trainer.evaluate(data.test, load_best_model=saved, show_progress=config["show_progress"])
    logger.info(set_color("best valid ", "yellow") + f": {valid_result}")
    logger.info(set_color("test result", "yellow") + f": {test_result}")
    return trainer, {
        "best_valid_score": score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": valid_result,
        "test_result": test_result,
    }


def attack(trainer: RAWPTrainer, data: Data) -> list[evaluation.Record]:
    """Measure the trained model on test data at each radius of the configured attack."""
    settings = options.attack(trainer.config)
    return evaluation.under_attack(
        trainer,
        data.train,
        data.test,
        weights=perturbed_weights(trainer.model, settings.target),
        radii=settings.radii,
        defense=trainer.settings.defense,
        attacks=settings.names,
        steps=settings.steps,
        granularity=settings.granularity,
        batches=settings.batches,
        target=settings.target,
        show_progress=trainer.config["show_progress"],
    )


def ranks_fixed_candidates(config: Config) -> bool:
    """Tell whether RecBole ranks the same candidates at every evaluation; sampled ones are drawn anew."""
    return config["eval_args"]["mode"]["test"] in ("full", "labeled")
