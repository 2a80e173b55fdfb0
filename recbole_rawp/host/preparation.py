"""Makes log, data and model with RecBole, in the order of its `run_recbole`."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import colorama
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.utils import EvaluatorType, get_flops, init_logger, init_seed, set_color
from torch import nn

from recbole_rawp.config.command_line import command
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.core import restoring
from recbole_rawp.errors import InputError
from recbole_rawp.host import vocabulary
from recbole_rawp.host.data.files import check_files
from recbole_rawp.host.data.numbers import check_numbers
from recbole_rawp.host.data.rows import failure
from recbole_rawp.host.quirks import check_built

logger = logging.getLogger()
_handlers: list[logging.Handler] = []  # those that RecBole added for our run before
_new: list[logging.FileHandler] = []  # of logs of which no trainer stands yet


class Data(NamedTuple):
    """RecBole's three loaders."""

    train: Any
    valid: Any
    test: Any


def prepare(config: Config) -> tuple[Data, nn.Module]:
    """Return the data and the initialised model, seeded and logged in the order of RecBole's `run_recbole`.

    Raises:
        InputError: if RecBole cannot load the data or build the model with these settings.
    """
    with recboles("seeds"):
        init_seed(config["seed"], config["reproducibility"])
    start_log(config)
    dataset = load_dataset(config)
    check_numbers(config, dataset)
    logger.info(dataset)
    with recboles("data loaders"):
        data = Data(*data_preparation(config, dataset))
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    check_topk(config, dataset)
    with recboles("model"):
        model = config.model_class(config, data.train._dataset).to(config["device"])
    check_built(model)
    vocabulary.note(model, config, data.train._dataset)
    logger.info(model)
    count_flops(config, model, dataset)
    return data, model


@contextmanager
def recboles(what: str) -> Iterator[None]:
    """Turn RecBole's refusal of some settings, which it only notices while building, into an InputError."""
    try:
        yield
    except InputError:
        raise
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
    if sys.stdout is colorama.initialise.wrapped_stdout:  # else RecBole wraps it once more on each run
        colorama.deinit()
    try:
        init_logger(config)
    except OSError as error:
        raise InputError(
            f"log: RecBole writes its log into '{Path.cwd() / 'log'}', and cannot ({error.strerror}: "
            f"'{error.filename}'). Run where it can."
        ) from error
    except AttributeError as error:  # a state that is no word
        raise InputError(
            f"state: {config['state']!r} is not valid; expected info, warning or another level."
        ) from error
    _handlers[:] = [handler for handler in logger.handlers if handler not in others]
    opened = [handler for handler in _handlers if isinstance(handler, logging.FileHandler)]
    _new.extend(handler for handler in opened if handler.stream and not handler.stream.tell())
    logger.info(command(getattr(config, "argv", None)))
    if config["device"].type == "cpu":
        logger.info(f"torch threads: {torch.get_num_threads()} (the environment variable OMP_NUM_THREADS sets them)")


def log_settings(config: Config, like: Config | None = None) -> None:
    """Log every setting, as RecBole does; of a run `like` one before, those that differ."""
    if like is None:
        logger.info(config)
        return
    before, now = like.final_config_dict, config.final_config_dict
    differing = [f"{key} = {value}" for key, value in now.items() if key in OPTIONS and before.get(key) != value]
    logger.info(f"The same settings, but {', '.join(differing)}.")


def keep_log() -> None:
    """Let the log stay, whatever comes: the trainer stands."""
    _new.clear()


def withdraw_log() -> None:
    """Leave no log behind of what was refused before a trainer stood."""
    for handler in _new:
        logger.removeHandler(handler)
        handler.close()
        file = Path(handler.baseFilename)
        with suppress(OSError):
            file.unlink()
            file.parent.rmdir()
            file.parent.parent.rmdir()
    _new.clear()


def load_dataset(config: Config) -> Any:
    """Return RecBole's dataset; RecBole downloads it where it knows the name and finds no folder.

    Raises:
        InputError: saying where the file belongs.
    """
    folder = Path(config["data_path"])
    absent = not folder.exists()
    if not absent and not is_saved(config):
        try:
            check_files(config)
        except OSError as error:
            raise InputError(f"dataset: cannot read '{error.filename}': {error.strerror}.") from error
    try:
        try:
            return create_dataset(config)
        except (ValueError, RuntimeError):  # RecBole 1.2.1 ends a download with a barrier that needs a process group
            if not (absent and (folder / f"{config['dataset']}.inter").exists()):
                raise
            return create_dataset(config)
    except (Exception, SystemExit) as error:
        if not absent:
            raise failure(config, error) from error
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        fetch = f" `recbole-rawp fetch ml-1m --data_path={folder.parent}` gets it from GroupLens."
        raise InputError(
            f"dataset: there is no folder '{folder}', and RecBole could not download '{config['dataset']}' "
            f"({' '.join(str(error).split())}). Put {config['dataset']}.inter into it, or set --data_path to the "
            f"folder that holds it.{fetch * (config['dataset'] == 'ml-1m')}"
        ) from error


def check_topk(config: Config, dataset: Any) -> None:
    """Raise InputError if lists are to be longer than there are items, one of which is RecBole's padding.

    GAUC alone looks at no list.
    """
    lists = any(metric.lower() != "gauc" for metric in config["metrics"])
    longest, items = max(config["topk"]), dataset.item_num if dataset.iid_field else math.inf
    if config["eval_type"] == EvaluatorType.RANKING and lists and longest > items:
        raise InputError(f"topk: {longest} is more than the {items - 1} items of '{config['dataset']}'. Lower it.")


def is_saved(config: Config) -> bool:
    """Tell whether RecBole takes, in place of the files, a data set that it saved."""
    name = config["dataset_save_path"] or Path(config["checkpoint_dir"], f"{config['dataset']}-*Dataset.pth")
    return any(Path(name).parent.glob(Path(name).name))


def count_flops(config: Config, model: nn.Module, dataset: Any) -> None:
    """Log the model's FLOPs as `run_recbole` does: the count draws random numbers, which the training then misses.

    Where RecBole cannot count them, the generators are put back and the run goes on.
    """
    before = restoring.rng_state()
    try:
        flops = get_flops(model, dataset, config["device"], logger, construct_transform(config))
    except Exception as error:
        restoring.set_rng_state(before)
        logger.warning(f"FLOPs could not be counted ({error}).")
    else:
        logger.info(set_color("FLOPs", "blue") + f": {flops}")
