"""In what order does it happen?"""

import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import colorlog
import yaml
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.trainer.trainer import Trainer
from recbole.utils import get_flops, get_model, get_trainer, init_logger, init_seed, set_color
from torch import nn

from recbole_rawp import checks, environment, evaluation, preserve, report
from recbole_rawp import config as options
from recbole_rawp.config import RAWPConfig
from recbole_rawp.errors import InputError
from recbole_rawp.trainer import perturbed_weights, robustify

logger = logging.getLogger()


class Data(NamedTuple):
    """RecBole's three loaders."""

    train: Any
    valid: Any
    test: Any


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
    for current in with_baseline(config) if baseline else [config]:
        data, network = prepare(current)
        folder = folder or report.reserve(
            config["rawp_output_dir"], *(config[k] for k in ("model", "dataset", "defense"))
        )
        trainer, result = train(current, network, data, folder / "baseline" if current is not config else folder, saved)
        found = attack(trainer, data)
        records += found
        verdicts += checks.verify(found, comparable(current, result["test_result"]))
    assert folder is not None
    place = environment.describe(config["device"])
    report.whole(folder / "environment.txt", lambda path: path.write_text(place + "\n", encoding="utf-8"))
    table = report.write(
        folder,
        records,
        verdicts,
        metric=config["valid_metric"].lower(),
        settings={key: config[key] for key in options.RULES},
        environment=place,
    )
    return result | {"records": records, "checks": verdicts, "table": table, "output_dir": str(folder)}


def with_baseline(config: RAWPConfig) -> list[Config]:
    """Return the settings of the plain model, then those of the hardened one; one of them if they are the same."""
    plain = copy.deepcopy(config)
    plain["defense"] = "none"
    return [config] if config["defense"] == "none" else [plain, config]


def prepare(config: Config) -> tuple[Data, nn.Module]:
    """Return the data and the initialised model, seeded and logged in the order of RecBole's `run_recbole`.

    Raises:
        InputError: if the data cannot be loaded, or the model has no weight to perturb or attack.
    """
    init_seed(config["seed"], config["reproducibility"])
    start_log(config)
    dataset = load_dataset(config)
    logger.info(dataset)
    data = Data(*data_preparation(config, dataset))
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = get_model(config["model"])(config, data.train._dataset).to(config["device"])
    logger.info(model)
    if config["defense"] != "none":
        perturbed_weights(model, config["rawp_target"])
    perturbed_weights(model, options.attack(config).target)
    count_flops(config, model, dataset)
    return data, model


def start_log(config: Config) -> None:
    """Start RecBole's log of this run, in a file of its own: an earlier run's handlers are taken off first."""
    for handler in logger.handlers[:]:
        if isinstance(getattr(handler, "formatter", None), colorlog.ColoredFormatter) or "/log/" in getattr(
            handler, "baseFilename", ""
        ):
            logger.removeHandler(handler)
    init_logger(config)
    logger.info(sys.argv)
    logger.info(config)


def load_dataset(config: Config) -> Any:
    """Return RecBole's dataset; RecBole downloads it where it knows the name and finds no folder.

    Raises:
        InputError: saying where the file belongs.
    """
    folder = Path(config["data_path"])
    absent = not folder.exists()
    try:
        try:
            return create_dataset(config)
        except (ValueError, RuntimeError):  # RecBole 1.2.1 ends a download with a barrier that needs a process group
            if not (absent and (folder / f"{config['dataset']}.inter").exists()):
                raise
            return create_dataset(config)
    except (Exception, SystemExit) as error:
        if not absent:
            raise InputError(
                f"dataset: RecBole cannot load '{config['dataset']}': {' '.join(str(error).split())}"
            ) from error
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise InputError(
            f"dataset: there is no folder '{folder}', and RecBole could not download '{config['dataset']}' "
            f"({' '.join(str(error).split())}). Put {config['dataset']}.inter into it, or set --data_path to the "
            "folder that holds it."
        ) from error


def count_flops(config: Config, model: nn.Module, dataset: Any) -> None:
    """Log the model's FLOPs as `run_recbole` does: the count draws random numbers, which the training then misses.

    Where RecBole cannot count them, the generators are put back and the run goes on.
    """
    before = preserve.rng_state()
    try:
        flops = get_flops(model, dataset, config["device"], logger, construct_transform(config))
    except Exception as error:
        preserve.set_rng_state(before)
        logger.warning(f"FLOPs could not be counted ({error}).")
    else:
        logger.info(set_color("FLOPs", "blue") + f": {flops}")


def train(config: Config, model: nn.Module, data: Data, folder: Path, saved: bool) -> tuple[Trainer, dict[str, Any]]:
    """Train with the configured defense and test, as `run_recbole` does; return the trainer and that result."""
    folder.mkdir(parents=True, exist_ok=True)
    config["checkpoint_dir"] = str(folder)
    report.whole(folder / "settings.yaml", lambda path: path.write_text(settings_yaml(config), encoding="utf-8"))
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


def attack(trainer: Trainer, data: Data) -> list[evaluation.Record]:
    """Measure the trained model on test data at each radius of the configured attack."""
    settings = options.attack(trainer.config)
    return evaluation.under_attack(
        trainer,
        data.train,
        data.test,
        weights=perturbed_weights(trainer.model, settings.target),
        radii=settings.radii,
        attacks=settings.names,
        steps=settings.steps,
        granularity=settings.granularity,
        batches=settings.batches,
        target=settings.target,
        show_progress=trainer.config["show_progress"],
    )


def comparable(config: Config, test_result: Mapping[str, float]) -> Mapping[str, float] | None:
    """Return RecBole's own result where it ranks fixed candidates; sampled ones are drawn anew each time."""
    return test_result if config["eval_args"]["mode"]["test"] in ("full", "labeled") else None


def settings_yaml(config: Config) -> str:
    """Return every setting of the run, RecBole's too, as YAML that repeats it when read as a config file."""
    settings = {**config.internal_config_dict, **config.external_config_dict, "defense": config["defense"]}
    settings |= {"model": config["model"], "dataset": config["dataset"]}
    for key in ("MODEL_TYPE", "config_files", "rawp_output_dir"):  # derived, or the place of this run alone
        settings.pop(key, None)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
