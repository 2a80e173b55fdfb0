"""Lets our options join RecBole's Config as flat keys: `RAWPConfig` checks them, and holds them as settings."""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.utils import EvaluatorType
from recbole.utils.argument_list import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

from recbole_rawp.config import command_line
from recbole_rawp.config import settings as options
from recbole_rawp.config.checks import check_names
from recbole_rawp.config.command_line import ALIASES, COMMAND_LINE_ONLY
from recbole_rawp.config.properties import defaults
from recbole_rawp.config.recbole_options import check_types
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.config.settings import Settings
from recbole_rawp.config.suites import with_whole_paths
from recbole_rawp.config.yaml_files import read_mapping
from recbole_rawp.errors import InputError
from recbole_rawp.host import compat
from recbole_rawp.host.data.settings import check_data, check_name
from recbole_rawp.host.models import classes
from recbole_rawp.host.quirks import check_settings
from recbole_rawp.host.quirks.earlier_runs import check_run


def check_metric(config: Config) -> None:
    """Raise InputError if RecBole's results will not contain valid_metric, on which early stopping depends."""
    ranking = config["eval_type"] == EvaluatorType.RANKING
    lists = [metric for metric in config["metrics"] if ranking and metric.lower() != "gauc"]
    offered = [m if m not in lists else f"{m}@{k}" for m in config["metrics"] for k in config["topk"]]
    if str(config["valid_metric"]).lower() not in {name.lower() for name in offered}:
        raise InputError(
            f"valid_metric: {config['valid_metric']!r} is not measured; {', '.join(dict.fromkeys(offered))} are. "
            "Change valid_metric, metrics or topk."
        )


class RAWPConfig(Config):
    """RecBole's Config with our options: defaults injected, names and values checked, and no `eval` of any value.

    It pickles as a plain `recbole.config.Config`, so that checkpoints can be read without this package.

    Args:
        model, dataset, config_file_list, config_dict: as RecBole's Config takes them; a model is a name, a class, or
            `package.module:Class`.
        argv: the words that were typed; None, as RecBole, those behind the name of this process's program.
        begun: a file with the settings of a run that was begun, which all others win over.

    Attributes:
        argv: the words that were typed.
        begun: the settings in that file. RecBole has taken them, so they are not asked for their types.

    Raises:
        InputError: for an unknown model, option or defense, a value of the wrong type or out of range, or a config file
            that is missing or not YAML.
    """

    OWN = ("argv", "begun", "_begun", "_settings")  # attributes that the pickle leaves out

    def __init__(
        self,
        model: Any = None,
        dataset: str | None = None,
        config_file_list: Sequence[str] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        *,
        argv: Sequence[str] | None = None,
        begun: Path | None = None,
    ) -> None:
        compat.apply()
        classes.check_not_importing()
        self.argv = command_line.words(argv)
        self._begun = begun
        self.begun: dict[str, Any] = {}
        self._settings: Settings | None = None
        try:
            if begun is not None:
                config_file_list = [str(begun), *(config_file_list or ())]
            super().__init__(model, dataset, config_file_list, dict(config_dict or {}))
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
            reason = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise InputError(f"RecBole refuses the settings: {' '.join(str(reason).split())}") from error
        check_names(self.external_config_dict, self._recbole_keys(), own=classes.is_own(self.model_class))
        self._settings = options.made(self._ours())
        check_metric(self)
        check_run(self)
        check_settings(self)

    @property
    def settings(self) -> Settings:
        """Our options, read once, and again only after one of them was set otherwise."""
        values = self._ours()
        if self._settings is None or self._settings.values != values:
            self._settings = options.made(values)
        return self._settings

    def _ours(self) -> dict[str, Any]:
        return {key: self.final_config_dict[key] for key in OPTIONS}

    def but(self, **changes: Any) -> RAWPConfig:
        """Return a copy in which these options are set otherwise."""
        twin = object.__new__(RAWPConfig)
        twin.__dict__.update(copy.deepcopy(self.__dict__))
        for key, value in changes.items():
            twin[key] = value
        return twin

    def __reduce__(self) -> tuple:
        state = {key: value for key, value in vars(self).items() if key not in self.OWN}
        return copyreg._reconstructor, (Config, object, None), state  # type: ignore[attr-defined]

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        self.parameters["RAWP"] = list(OPTIONS)

    def _load_config_files(self, file_list: Sequence[str] | None) -> dict[str, Any]:
        contents = [read_mapping(file, option="config_files", loader=self.yaml_loader) for file in file_list or ()]
        if self._begun is not None:
            self.begun = contents[0]
        return super()._load_config_files(file_list)

    def _load_cmd_line(self) -> dict[str, Any]:
        typed, _ = command_line.read(self.argv)
        return {key: value for key, value in typed.items() if key not in COMMAND_LINE_ONLY}

    def _convert_config_dict(self, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        return command_line.literals(config_dict)

    def _merge_external_config_dict(self) -> None:
        for source in (self.file_config_dict, self.variable_config_dict, self.cmd_config_dict):
            for alias in ALIASES.keys() & source.keys():
                source[ALIASES[alias]] = source.pop(alias)
        super()._merge_external_config_dict()
        self.external_config_dict.update(with_whole_paths(self.external_config_dict))

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> tuple[str, type, str]:
        found = classes.find(self.external_config_dict.get("model") if model is None else model)
        if (asked := self.external_config_dict.get("dataset") if dataset is None else dataset) is not None:
            check_name(asked)
        if isinstance(found, type):  # a checkpoint names it, too
            self.external_config_dict["model"] = classes.spelled(found)
        return super()._get_model_and_dataset(found, dataset)

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        given = self.external_config_dict
        new = {key: value for key, value in given.items() if key not in self.begun or value != self.begun[key]}
        check_types(new, self.internal_config_dict)
        check_data(new, {**self.internal_config_dict, **given})
        ours = defaults(given.get("defense", OPTIONS["defense"].default), given.keys())
        self.internal_config_dict: dict[str, Any] = {**ours, **self.internal_config_dict}  # RecBole's own keys win

    def _recbole_keys(self) -> set[str]:
        listed = general_arguments + training_arguments + evaluation_arguments + dataset_arguments
        return (self.internal_config_dict.keys() - OPTIONS.keys()) | set(listed)
