"""Looks at the headers of a data set's files before RecBole loads them: is there what the settings ask for?"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import recbole.data.dataset as datasets
from recbole.config import Config
from recbole.utils import ModelType

from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.host.data import headers
from recbole_rawp.host.data.headers import Header, Layout
from recbole_rawp.host.data.settings import wrong

logger = logging.getLogger()
NUMBERS, IDS = ("float",), ("token",)
ANYWHERE = (
    *("val_interval", "normalize_field", "discretization", "preload_weight", "numerical_features"),
    *("alias_of_user_id", "alias_of_item_id"),
)
IN_GRAPHS = ("alias_of_entity_id", "alias_of_relation_id")


def check_files(config: Config) -> None:
    """Read the headers of the files that RecBole will load, where they lie in the folder of the data set.

    What RecBole passes over, a column of `load_col` that no file has, is warned of.

    Raises:
        InputError: for a file that cannot be read, or a column that is needed and not loaded.
    """
    found = {end: read(config, end, path) for end, path in paths(config).items()}
    loaded = {end: header for end, header in found.items() if header.columns}
    inter = next((header for end, header in loaded.items() if end.endswith("inter")), None)
    if inter is None:
        raise InputError("load_col: names no column of the .inter file. Say {inter: [user_id, item_id]}, or null.")
    check_ids(config, loaded)
    check_times(config, inter)
    for name in config["threshold"] or ():
        need(inter, name, NUMBERS, "threshold")
    check_named(config, loaded)


def layout_of(config: Config) -> Layout:
    """Return how the files are read; InputError for a separator that is none."""
    separator = config["field_separator"]
    if not isinstance(separator, str) or not separator:
        raise wrong("field_separator", separator, "what parts the columns, as ','; left out, a tab")
    return Layout(separator, config["encoding"] or "utf-8")


def knowledge(config: Config) -> bool:
    """Tell whether RecBole loads a knowledge graph for the model."""
    own = getattr(datasets, f"{config['model']}Dataset", None)
    return issubclass(own, datasets.KnowledgeBasedDataset) if own else config["MODEL_TYPE"] == ModelType.KNOWLEDGE


def paths(config: Config) -> dict[str, Path]:
    """Return the files to be loaded, by the end of their name; InputError for one that has to be there and is not."""
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = [f"{part}.inter" for part in config["benchmark_filename"] or ()]
    more = config["additional_feat_suffix"] or ()
    needed = [*(parts or ["inter"]), *(("kg", "link") if knowledge(config) else ()), *more]
    for end in needed:
        if not (folder / f"{name}.{end}").is_file():
            there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise InputError(
                f"dataset: there is no file '{folder / f'{name}.{end}'}'; the folder holds {there}. A file is named "
                "DATASET.inter; --data_path names the folder above DATASET."
            )
    ends = [*needed, *(end for end in ("user", "item") if (folder / f"{name}.{end}").is_file())]
    return {end: folder / f"{name}.{end}" for end in ends}


def read(config: Config, end: str, path: Path) -> Header:
    """Return those columns of a file that are loaded, by `load_col` and `unload_col`."""
    source = end.rpartition(".")[2]
    only, without = config["load_col"], (config["unload_col"] or {}).get(source)
    if only is not None and source not in only:
        return Header(path, {})
    header = headers.read(path, layout_of(config))
    wanted = None if only is None or only[source] == "*" else only[source]
    if wanted and without:
        raise InputError(f"unload_col: goes with load_col null, which here lists columns of .{source}. Keep one.")
    missing = [name for name in wanted or without or () if name not in header.columns]
    if missing:
        logger.warning(f"{'load_col' if wanted else 'unload_col'}: '{path}' has no {told(missing, header.columns)}")
    keep = set(header.columns if wanted is None else wanted) - set(without or ())
    return Header(path, {name: kind for name, kind in header.columns.items() if name in keep})


def told(missing: Iterable[str], known: Iterable[str]) -> str:
    """Return missing names, the first with what may have been meant."""
    first, *rest = missing
    return ", ".join([f"column '{first}'", *(f"'{name}'" for name in rest)]) + f".{suggestion(first, known)}"


def need(header: Header, name: str, kinds: tuple[str, ...], why: str) -> None:
    """Raise InputError if a column is not loaded, or not of the type that its use asks for."""
    if name not in header.columns:
        raise InputError(
            f"{why}: no column '{name}' is loaded from '{header.path}'.{suggestion(name, header.columns)} Loaded: "
            f"{', '.join(header.columns)}. Name it in load_col, add it to the file, or set {why.partition(':')[0]}."
        )
    if (kind := header.columns[name]) not in kinds:
        raise headers.broken(
            header.path, f"line 1: '{name}:{kind}', but {why} wants {' or '.join(kinds)}", f"Write {name}:{kinds[0]}."
        )


def check_ids(config: Config, loaded: Mapping[str, Header]) -> None:
    """Raise InputError if a column that identifies rows is missing or no token."""
    user, item = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
    graph = ("HEAD_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD")
    both = ("USER_ID_FIELD", "ITEM_ID_FIELD") if user and item else ()
    wanted = {"inter": both, "user": both[:1], "item": both[1:], "kg": graph}
    wanted["link"] = ("ITEM_ID_FIELD", "ENTITY_ID_FIELD")
    for end, header in loaded.items():
        for key in wanted.get(end.rpartition(".")[2], ()):
            need(header, config[key], IDS, key)
    for end in ("kg", "link"):
        if knowledge(config) and end not in loaded:
            raise InputError(f"load_col: {config['model']} needs the columns of .{end}, of which it names none.")


def check_times(config: Config, inter: Header) -> None:
    """Raise InputError if interactions are to be put into their order in time, and have none."""
    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if not config["benchmark_filename"] and (sequential or config["eval_args"]["order"] == "TO"):
        need(inter, config["TIME_FIELD"], NUMBERS, "TIME_FIELD" if sequential else "eval_args: order TO")


def check_named(config: Config, loaded: Mapping[str, Header]) -> None:
    """Raise InputError for a setting that names a column which is not loaded."""
    known = {config["LABEL_FIELD"], *(name for header in loaded.values() for name in header.columns)}
    keys = (*ANYWHERE, *(IN_GRAPHS if knowledge(config) else ()))
    named = [(key, name) for key in keys for name in config[key] or ()]
    named += [("preload_weight", name) for name in (config["preload_weight"] or {}).values()]
    for key, name in named:
        if name not in known:
            hint = suggestion(str(name), known)
            raise InputError(f"{key}: no file's column '{name}' is loaded.{hint} Name it in load_col, or leave it out.")
