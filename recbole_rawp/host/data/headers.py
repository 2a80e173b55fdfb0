"""Reads RecBole's atomic files: headers, saying in one line what is wrong with them, and rows."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from recbole_rawp.errors import InputError, suggestion

TYPES = ("token", "token_seq", "float", "float_seq")
SEPARATORS = ("\t", ",", ";", "|", "::", " ")
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
FLOATS = ("rating", "timestamp", "label", "score", "time")  # columns that are likely numbers


@dataclass(frozen=True)
class Layout:
    """How the text of atomic files is read: RecBole's `field_separator` and `encoding`."""

    separator: str
    encoding: str

    def cells(self, line: str) -> list[str]:
        """Return the cells of a line."""
        return line.rstrip("\r\n").split(self.separator)


@dataclass(frozen=True)
class Header:
    """The columns of an atomic file: name -> type."""

    path: Path
    columns: dict[str, str]


def read(path: Path, layout: Layout) -> Header:
    """Return the columns of an atomic file.

    Raises:
        InputError: with file, line, value and remedy, if RecBole could not read it, or would read it wrongly.
    """
    check_mark(path, layout.encoding)
    first, *rows = lines(path, layout.encoding)[:2] or [""]
    if not first.strip():
        raise broken(path, "is empty" if not rows else "line 1 is empty", "It begins with a header: user_id:token ...")
    check_separator(path, first, layout)
    columns = dict[str, str]()
    for cell in layout.cells(first):
        name, kind = column(path, cell)
        if name in columns:
            raise broken(path, f"line 1: there are two columns '{name}'", "Leave one out.")
        columns[name] = kind
    if not rows:
        raise broken(path, "has a header and no rows", "Fill it, or remove it if the model does without.")
    check_row(path, rows[0], len(columns), layout)
    return Header(path, columns)


def broken(path: Path, what: str, remedy: str) -> InputError:
    """Return the error for a file."""
    return InputError(f"dataset: '{path}': {what}. {remedy}")


def check_mark(path: Path, encoding: str) -> None:
    """Raise InputError for a byte-order mark that would become part of the first column's name."""
    with open(path, "rb") as file:
        begin = file.read(4)
    for mark, name in MARKS.items():
        if begin.startswith(mark) and not encoding.lower().replace("_", "-").startswith(name):
            remedy = f"Save the file without it, as UTF-8, or say --encoding={name}."
            raise broken(path, f"line 1 begins with a byte-order mark ({mark.hex(' ')})", remedy)


def lines(path: Path, encoding: str) -> list[str]:
    """Return the first lines that say something, up to three."""
    try:
        with open(path, encoding=encoding) as file:
            first = file.readline()
            return [first, *islice((line for line in file if line.strip()), 2)] if first else []
    except LookupError as error:
        raise InputError(f"encoding: '{encoding}' is not known. Use utf-8, or latin-1.") from error
    except UnicodeDecodeError as error:
        raise undecodable(path, encoding) from error


def undecodable(path: Path, encoding: str) -> InputError:
    """Return the error for a file that is written in another encoding; it names the first line that is."""
    number, line = next(misread(path, encoding), (1, b""))
    what = f"line {number} is not {encoding}: {line.strip()[:40]!r}"
    return broken(path, what, "Save it as UTF-8, or name its encoding, as --encoding=latin-1.")


def misread(path: Path, encoding: str) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the lines that are not of this encoding."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                yield number, line


def rows_of(header: Header, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield line and cells of each row; none where a separator has several letters, which csv does not read.

    Raises:
        InputError: for a line that cannot be read.
    """
    if len(layout.separator) != 1:
        return
    try:
        with open(header.path, encoding=layout.encoding, newline="") as file:
            rows = csv.reader(file, delimiter=layout.separator)
            next(rows)
            for row in rows:
                yield rows.line_num, row
    except UnicodeDecodeError as error:
        raise undecodable(header.path, layout.encoding) from error
    except csv.Error as error:
        raise broken(header.path, f"line {rows.line_num}: {error}", "Mend the line.") from error


def check_separator(path: Path, first: str, layout: Layout) -> None:
    """Raise InputError for a header of another separator."""
    if layout.separator in first or first.count(":") < 2:
        return
    for other in SEPARATORS:
        found = first.strip().split(other)
        if len(found) > 1 and all(cell.count(":") == 1 for cell in found):
            remedy = "Leave field_separator out." if other == "\t" else f"Say --field_separator='{other}'."
            what = f"line 1 is parted by {other!r}, not by field_separator {layout.separator!r}: '{first.strip()[:60]}'"
            raise broken(path, what, remedy)


def column(path: Path, cell: str) -> tuple[str, str]:
    """Return name and type of a header's cell; InputError if it does not say them."""
    name, _, kind = cell.partition(":")
    if cell.count(":") != 1 or not name:
        likely = cell.strip().replace(":", "_") or "user_id"
        float_like = likely.lower() in FLOATS
        remedy = f"The first line names each column and its type, as {likely}:{'float' if float_like else 'token'}."
        raise broken(path, f"line 1: '{cell}' is not NAME:TYPE", remedy)
    if kind not in TYPES:
        hint = suggestion(kind, TYPES) or f" Use one of {', '.join(TYPES)}."
        raise broken(path, f"line 1: '{cell}': there is no type '{kind}'", hint.strip())
    return name, kind


def check_row(path: Path, line: str, wanted: int, layout: Layout) -> None:
    """Raise InputError for a first row with more cells than the header, of which pandas would make an index.

    One with fewer lacks values, but for one whose cells another separator parts.
    """
    found = len(layout.cells(line))
    otherwise = found == 1 < wanted and any(len(line.split(other)) == wanted for other in SEPARATORS)
    if '"' not in line and (found > wanted or otherwise):
        what = f"the first row has {found} cells and the header {wanted}: '{line.strip()[:60]}'"
        raise broken(path, what, f"Part rows and header alike, by {layout.separator!r}.")
