"""What may I set?

Our options join RecBole's Config as flat keys. `properties/rawp.yaml` is their reference; here are their types and
ranges, and the frozen settings that the rest of the package reads.
"""

import ast
import copyreg
import difflib
import logging
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recbole.model
import yaml
from recbole.config import Config
from recbole.utils import EvaluatorType, get_model
from recbole.utils.argument_list import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

from recbole_rawp import ball, perturbation, selection
from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.evaluation import ATTACKS
from recbole_rawp.objective import Recipe

PREFIXES = ("rawp_", "attack_", "ft_", "criticality_")
ALIASES = {"defence": "defense"}
COMMAND_LINE_ONLY = {"baseline"}
NAMES = {"model", "dataset", "config_files"}  # never numbers
# Keys that RecBole reads without giving them a default or listing them.
UNLISTED = {"model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "offset", "local_rank"}

CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
NO_GRADIENT = {
    **dict.fromkeys(("Pop", "Random"), "it has no trained weights"),
    **dict.fromkeys(("ItemKNN", "AsymKNN"), "it is a neighbourhood method without trained weights"),
    **dict.fromkeys(("EASE", "ADMMSLIM", "NCEPLRec"), "its weights have a closed form"),
    "SLIMElastic": "its weights come from coordinate descent",
    **dict.fromkeys(("XGBoost", "LightGBM"), "it is an ensemble of decision trees"),
}

logger = logging.getLogger()


# --- types and ranges


@dataclass(frozen=True)
class Rule:
    """What a key accepts: `text` as it stands in rawp.yaml, `accepts` as a test."""

    text: str
    accepts: Callable[[Any], bool]


def number(kind: type, text: str, accepts: Callable[[float], bool]) -> Rule:
    """Return the rule for a finite number of `kind` (an int passes for a float, a bool for neither)."""
    kinds = (int, float) if kind is float else (int,)
    return Rule(
        text, lambda v: isinstance(v, kinds) and not isinstance(v, bool) and math.isfinite(v) and accepts(float(v))
    )


def choice(options: Iterable[str]) -> Rule:
    """Return the rule for one of some words."""
    options = tuple(options)
    return Rule(" | ".join(options), lambda v: v in options)


def patterns(text: str, *, optional: bool = False) -> Rule:
    """Return the rule for a target: a word or pattern, or a list of them."""

    def accepts(value: Any) -> bool:
        return is_word(value) or is_list_of(is_word)(value) or (optional and value is None)

    return Rule(text, accepts)


def is_word(value: Any) -> bool:
    """Tell whether `value` is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())


def is_list_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return the test for a list, not empty, whose entries all pass."""
    return lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(accepts, value))


NOT_NEGATIVE = number(float, "float >= 0", lambda v: v >= 0)
POSITIVE = number(float, "float > 0", lambda v: v > 0)
SHARE = number(float, "float in (0, 1]", lambda v: 0 < v <= 1)
COUNT = number(int, "int >= 1", lambda v: v >= 1)

RULES: dict[str, Rule] = {
    "defense": Rule("name", is_word),
    "rawp_radius": POSITIVE,
    "rawp_radius_unit": choice(("relative", "absolute")),
    "rawp_radius_jitter": number(float, "float in [0, 1)", lambda v: 0 <= v < 1),
    "rawp_mask_probability": SHARE,
    "rawp_mask_every": choice(("epoch", "batch")),
    "rawp_target": patterns("hidden | embeddings | all | patterns"),
    "rawp_layer_weights": Rule(
        "uniform | norm | mapping",
        lambda v: (
            v in selection.LAYER_WEIGHTS
            if isinstance(v, str)
            else isinstance(v, Mapping)
            and any(v.values())
            and all(is_word(k) and NOT_NEGATIVE.accepts(w) for k, w in v.items())
        ),
    ),
    "rawp_granularity": choice(ball.GRANULARITIES),
    "rawp_direction": choice(perturbation.DIRECTIONS),
    "rawp_steps": COUNT,
    "rawp_ascent_fraction": SHARE,
    "rawp_clean_weight": NOT_NEGATIVE,
    "rawp_adversarial_weight": POSITIVE,
    "rawp_warmup_epochs": number(int, "int >= 0", lambda v: v >= 0),
    "attack": Rule(
        "list of random | fgsm | bim",
        lambda v: is_list_of(lambda name: name in ATTACKS)(v) and len(set(v)) == len(v),
    ),
    "attack_steps": COUNT,
    "attack_radii": Rule("list of floats >= 0", is_list_of(NOT_NEGATIVE.accepts)),
    "attack_target": patterns("hidden | embeddings | all | patterns | null", optional=True),
    "attack_granularity": choice(ball.GRANULARITIES),
    "attack_batches": COUNT,
    "rawp_output_dir": Rule("path or null", lambda v: v is None or is_word(v)),
}


def check_values(values: Mapping[str, Any]) -> None:
    """Raise InputError for the first of our keys whose value has the wrong type or range."""
    for key, rule in RULES.items():
        if key in values and not rule.accepts(values[key]):
            raise InputError(
                f"{key}: {values[key]!r} is not valid; expected {rule.text}.{_word_hint(rule, values[key])}"
            )
    if values.get("rawp_granularity") in ("global", "element") and values.get("rawp_layer_weights") != "uniform":
        raise InputError(
            f"rawp_layer_weights: {values['rawp_layer_weights']!r} needs one norm per tensor, but rawp_granularity is "
            f"{values['rawp_granularity']!r}. Use rawp_layer_weights=uniform or rawp_granularity=tensor."
        )


def _word_hint(rule: Rule, value: Any) -> str:
    return suggestion(value, rule.text.split(" | ")) if isinstance(value, str) and "|" in rule.text else ""


def check_names(given: Iterable[str], recbole_keys: Iterable[str]) -> None:
    """Raise InputError for a misspelt key of ours; warn about a near miss of a key of RecBole's."""
    known = set(recbole_keys) | UNLISTED
    for key in given:
        if not isinstance(key, str):
            raise InputError(f"{key!r}: option names are words.")
        if key in COMMAND_LINE_ONLY:
            raise InputError(f"{key}: not a setting. Use --{key}, or the argument of run_recbole_rawp.")
        if key in RULES or key in known:
            continue
        ours = difflib.get_close_matches(key, RULES, n=1, cutoff=0.8)
        theirs = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if key.startswith(PREFIXES) or (ours and not theirs):
            raise InputError(f"{key}: no such option.{suggestion(key, RULES)} All options: properties/rawp.yaml")
        if theirs:
            logger.warning(f"{key}: not an option that RecBole knows. Did you mean '{theirs[0]}'?")


# --- where values come from


def defaults(model: str, defense: str) -> dict[str, Any]:
    """Return our options' defaults: rawp.yaml < model/<model>.yaml < defense/<defense>.yaml.

    Raises:
        InputError: if there is no such defense.
    """
    names = defenses()
    if defense not in names:
        raise InputError(
            f"defense: no file properties/defense/{defense}.yaml.{suggestion(str(defense), names)} "
            f"Known: {', '.join(names)}"
        )
    values: dict[str, Any] = {}
    for name in ("rawp.yaml", f"model/{model}.yaml", f"defense/{defense}.yaml"):
        resource = properties() / name
        if resource.is_file():
            values.update(yaml.safe_load(resource.read_text(encoding="utf-8")) or {})
    return values | {"defense": defense}


def defenses() -> list[str]:
    """Return the names of the defenses that ship with the package."""
    return sorted(
        Path(entry.name).stem for entry in (properties() / "defense").iterdir() if entry.name.endswith(".yaml")
    )


def properties() -> Path:
    """Return the folder of our YAML files: inside the installed package, beside it in the source tree."""
    installed = Path(__file__).parent / "properties"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "properties"


def default_defense() -> str:
    """Return the defense where none is named."""
    return yaml.safe_load((properties() / "rawp.yaml").read_text(encoding="utf-8"))["defense"]


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the option's name before an InputError of the code inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


def command_line(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read `--key=value`, `--key value`, `-m MODEL`, `-d DATASET`, `--baseline`; return the options and what is left.

    Left are words that belong to no option, and options without a value.

    Raises:
        InputError: if a key is given twice with different values.
    """
    short = {"-m": "model", "-d": "dataset"}
    options: dict[str, Any] = {}
    rest = []
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        if word not in short and not (word.startswith("--") and len(word) > 2):
            rest.append(word)
            continue
        key, equals, text = short.get(word, word[2:]).partition("=")
        key = ALIASES.get(key, key)
        if not equals and key in COMMAND_LINE_ONLY:
            text = "True"
        elif not equals:
            if not pending or pending[0].startswith("--") or pending[0] in short:
                rest.append(word)
                continue
            text = pending.pop(0)
        value = text if key in NAMES else literal(text)
        if options.setdefault(key, value) != value:
            raise InputError(f"--{key}: given twice, as {options[key]!r} and {value!r}. Keep one.")
    return options, rest


def literal(text: Any) -> Any:
    """Return the Python or YAML value that a string spells, else the string; nothing is ever evaluated."""
    if not isinstance(text, str):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text in ("null", "~"):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if text[:1] in ("[", "{"):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            pass
    return text


def check_gradient(name: str) -> None:
    """Raise InputError for a RecBole model that is not trained by gradient descent."""
    if name in NO_GRADIENT:
        raise InputError(
            f"model: {name} is not trained by gradient descent ({NO_GRADIENT[name]}), so there is nothing to harden "
            "or attack. Choose a model with trained weights, such as NeuMF."
        )


def check_model(name: str) -> None:
    """Raise InputError if RecBole has no gradient-trained model of this name, or what it needs is not installed."""
    check_gradient(name)
    sources = Path(recbole.model.__file__).parent.glob("*_recommender/*.py")
    known = {
        cls for file in sources for cls in CLASS.findall(file.read_text(encoding="utf-8")) if cls.lower() == file.stem
    }
    if name not in known:
        raise InputError(f"model: RecBole has no model '{name}'.{suggestion(name, known)}")
    try:
        get_model(name)
    except ImportError as error:
        raise InputError(f"model: {name} needs a package that is not installed: {error}. Install it.") from error


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

    Raises:
        InputError: for an unknown model, option or defense, a value out of range, or a config file that is missing
            or not YAML.
    """

    def __init__(
        self,
        model: Any = None,
        dataset: str | None = None,
        config_file_list: Sequence[str] | None = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            super().__init__(model, dataset, config_file_list, dict(config_dict or {}))
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
            reason = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise InputError(f"RecBole refuses the settings: {' '.join(str(reason).split())}") from error
        check_names(self.external_config_dict, self._recbole_keys())
        check_values(self.final_config_dict)
        check_metric(self)

    def __reduce__(self) -> tuple:
        return copyreg._reconstructor, (Config, object, None), self.__dict__  # type: ignore[attr-defined]

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        self.parameters["RAWP"] = list(RULES)

    def _load_config_files(self, file_list: Sequence[str] | None) -> dict[str, Any]:
        for file in file_list or ():
            try:
                content = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=self.yaml_loader)
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise InputError(f"config_files: cannot read '{file}': {' '.join(str(error).split())}") from error
            if not isinstance(content, dict):
                raise InputError(f"config_files: '{file}' holds no 'key: value' lines.")
        return super()._load_config_files(file_list)

    def _load_cmd_line(self) -> dict[str, Any]:
        if "ipykernel_launcher" in sys.argv[0]:
            return {}
        options, _ = command_line(sys.argv[1:])
        return {key: value for key, value in options.items() if key not in COMMAND_LINE_ONLY}

    def _convert_config_dict(self, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        return {key: literal(value) for key, value in config_dict.items()}

    def _merge_external_config_dict(self) -> None:
        for source in (self.file_config_dict, self.variable_config_dict, self.cmd_config_dict):
            for alias in ALIASES.keys() & source.keys():
                source[ALIASES[alias]] = source.pop(alias)
        super()._merge_external_config_dict()

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> tuple[str, type, str]:
        name = self.external_config_dict.get("model") if model is None else model
        if isinstance(name, str):
            check_model(name)
        return super()._get_model_and_dataset(model, dataset)

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        ours = defaults(model, self.external_config_dict.get("defense", default_defense()))
        self.internal_config_dict: dict[str, Any] = {**ours, **self.internal_config_dict}  # RecBole's own keys win

    def _recbole_keys(self) -> set[str]:
        listed = general_arguments + training_arguments + evaluation_arguments + dataset_arguments
        return (self.internal_config_dict.keys() - RULES.keys()) | set(listed)


# --- what the package reads


@dataclass(frozen=True)
class Training:
    """Stage 1 as set: which weights, from which epoch on, and the recipe of the loss."""

    defense: str
    target: str | Sequence[str]
    layer_weights: str | Mapping[str, float]
    warmup_epochs: int
    recipe: Recipe


@dataclass(frozen=True)
class Attack:
    """The attack of the evaluation as set; radii are sorted, start at 0 and are fractions of each group's norm."""

    names: tuple[str, ...]
    steps: int
    target: str | Sequence[str]
    granularity: str
    batches: int
    radii: tuple[float, ...]


def values(config: Config) -> dict[str, Any]:
    """Return our options from any RecBole Config; what a plain one lacks is filled in from the properties.

    Raises:
        InputError: for a misspelt option or a value out of range.
    """
    given = {ALIASES.get(key, key): value for key, value in config.final_config_dict.items()}
    check_names((key for key in given if key.startswith(PREFIXES)), config.internal_config_dict.keys() - RULES.keys())
    found = defaults(config["model"], given.get("defense", default_defense()))
    found.update({key: given[key] for key in RULES if key in given})
    check_values(found)
    return found


def training(config: Config) -> Training:
    """Return the settings of stage 1."""
    v = values(config)
    recipe = Recipe(
        radius=v["rawp_radius"],
        radius_jitter=v["rawp_radius_jitter"],
        relative=v["rawp_radius_unit"] == "relative",
        granularity=v["rawp_granularity"],
        mask_probability=v["rawp_mask_probability"],
        mask_every=v["rawp_mask_every"],
        direction=v["rawp_direction"],
        steps=v["rawp_steps"],
        ascent_fraction=v["rawp_ascent_fraction"],
        clean_weight=v["rawp_clean_weight"],
        adversarial_weight=v["rawp_adversarial_weight"],
    )
    return Training(v["defense"], v["rawp_target"], v["rawp_layer_weights"], v["rawp_warmup_epochs"], recipe)


def attack(config: Config) -> Attack:
    """Return the settings of the attack."""
    v = values(config)
    radii = tuple(sorted({0.0, *map(float, v["attack_radii"])}))
    names = tuple(name for name in ATTACKS if name in v["attack"])
    return Attack(
        names,
        v["attack_steps"],
        v["attack_target"] or v["rawp_target"],
        v["attack_granularity"],
        v["attack_batches"],
        radii,
    )
