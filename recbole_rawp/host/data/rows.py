"""Looks through all rows of a data set's files for what RecBole could not load; only after it failed."""

from __future__ import annotations

from typing import Any

from recbole.config import Config

from recbole_rawp.errors import InputError
from recbole_rawp.host.data import files, headers
from recbole_rawp.host.data.headers import Header, Layout

FILTERS = (
    *("val_interval", "rm_dup_inter", "user_inter_num_interval", "item_inter_num_interval"),
    *("entity_kg_num_interval", "relation_kg_num_interval"),
)
MISSING = ("", "na", "n/a", "#n/a", "nan", "<na>", "null", "none")
EMPTY = ("feat is empty", "at least one array", "empty sequence", "zero-size")  # RecBole's words for no rows


def failure(config: Config, error: BaseException) -> InputError:
    """Return what to tell where RecBole could not load its data set: file, line and value where a row is at fault."""
    layout = files.layout_of(config)
    try:
        for path in files.paths(config).values():
            check_rows(headers.read(path, layout), layout, str(config["seq_separator"]))
    except InputError as found:
        return found
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
    filters = ", ".join(f"{key}: {config[key]}" for key in FILTERS if config[key] not in (None, "[0,inf)"))
    if filters and any(words in reason for words in EMPTY):
        return InputError(f"dataset: the filters leave nothing of '{config['dataset']}' ({filters}). Set wider ones.")
    return InputError(f"dataset: RecBole cannot load '{config['dataset']}' ({reason}).")


def check_rows(header: Header, layout: Layout, inner: str) -> None:
    """Raise InputError for a row that pandas or RecBole cannot read; separators of several letters are left alone.

    Args:
        inner: RecBole's `seq_separator`, which parts the numbers in a cell.
    """
    numbers = {place: name for place, (name, kind) in enumerate(header.columns.items()) if kind.startswith("float")}
    for number, row in headers.rows_of(header, layout):
        check_quotes(header, number, row)
        for place, name in numbers.items():
            check_cell(header, number, name, row[place : place + 1], inner)


def check_quotes(header: Header, number: int, row: list[str]) -> None:
    """Raise InputError for a cell that goes on in the next line; cells beyond the header's are passed over."""
    if any("\n" in cell for cell in row):
        what = f"a quotation mark opens before line {number} and takes whole lines into one cell: {shown(row)}"
        raise headers.broken(header.path, what, 'Leave out ", or close it in its cell.')


def check_cell(header: Header, number: int, name: str, cells: list[str], inner: str) -> None:
    """Raise InputError for a cell, if the row has it, in which a number belongs and stands none."""
    kind = header.columns[name]
    for part in cells if kind == "float" else [part for cell in cells for part in cell.split(inner) if part]:
        if not is_float(part):
            what = f"line {number}: {part!r} in column '{name}:{kind}' is no number"
            raise headers.broken(header.path, what, f"Mend the value, or write {name}:token in the header.")


def is_float(cell: str) -> bool:
    """Tell whether pandas reads a number, or takes the cell for missing."""
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in MISSING
    return True


def shown(row: list[Any]) -> str:
    """Return the beginning of a row."""
    return repr(" ".join(map(str, row)))[:60]
