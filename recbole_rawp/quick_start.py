"""In what order does it happen?"""

import copy
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.utils import get_flops, get_model, get_trainer, init_logger, init_seed, set_color
from torch import nn

from recbole_rawp import checks, environment, evaluation, preserve, report
from recbole_rawp import config as options
from recbole_rawp.config import RAWPConfig
from recbole_rawp.errors import InputError
from recbole_rawp.trainer import RAWPTrainer, chosen_weights, perturbed_weights, robustify

logger = logging.getLogger()
_handlers: list[logging.Handler] = []  # those that RecBole added for our run before


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
        InputError: if RecBole cannot load the data or build the model with these settings.
    """
    with recboles("seeds"):
        init_seed(config["seed"], config["reproducibility"])
    start_log(config)
    dataset = load_dataset(config)
    logger.info(dataset)
    with recboles("data loaders"):
        data = Data(*data_preparation(config, dataset))
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    with recboles("model"):
        model = get_model(config["model"])(config, data.train._dataset).to(config["device"])
    logger.info(model)
    count_flops(config, model, dataset)
    return data, model


def check_weights(config: Config, model: nn.Module) -> None:
    """Raise InputError, naming the option, if there is no weight to perturb or attack."""
    settings = options.training(config)
    if settings.defense != "none":
        chosen_weights(model, settings)
    with options.naming("attack_target"):
        perturbed_weights(model, options.attack(config).target)


@contextmanager
def recboles(what: str) -> Iterator[None]:
    """Turn RecBole's refusal of some settings, which it only notices while building, into an InputError."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"RecBole cannot make its {what} with these settings: {type(error).__name__}: {reason}"
        ) from error


def start_log(config: Config) -> None:
    """Start RecBole's log of this run in a file of its own: the handlers of our run before are taken off first."""
    for handler in _handlers:
        logger.removeHandler(handler)
        handler.close()
    others = logger.handlers[:]
    init_logger(config)
    _handlers[:] = [handler for handler in logger.handlers if handler not in others]
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


def train(
    config: Config, model: nn.Module, data: Data, folder: Path, saved: bool
) -> tuple[RAWPTrainer, dict[str, Any]]:
    """Train with the configured defense and test, as `run_recbole` does; return the trainer and that result."""
    folder.mkdir(exist_ok=True)
    config["checkpoint_dir"] = str(folder)
    report.whole(folder / "settings.yaml", lambda path: path.write_text(settings_yaml(config), encoding="utf-8"))
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


def settings_yaml(config: Config) -> str:
    """Return the settings of the run, RecBole's too, as YAML that repeats it when read as a config file.

    Options of ours at their default are comments: another --defense brings its own.
    """
    ours = options.defaults(config["model"], config["defense"])
    settings = {**config.internal_config_dict, **config.external_config_dict}
    settings |= {"model": config["model"], "dataset": config["dataset"], "defense": config["defense"]}
    for key in ("MODEL_TYPE", "config_files", "rawp_output_dir"):  # derived, or the place of this run alone
        settings.pop(key, None)
    at_default = {
        key: settings.pop(key) for key in list(settings) if key != "defense" and settings[key] == ours.get(key, ...)
    }
    comments = "".join(f"# {line}\n" for line in as_yaml(at_default).splitlines())
    return as_yaml(settings) + "\n# Options at their default:\n" + comments


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Return settings as YAML; numpy numbers and paths, which YAML does not know, as plain numbers and strings."""
    return yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
