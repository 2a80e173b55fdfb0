"""Writes what users read about the options, from the schema: `python -m recbole_rawp.config.reference`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_rawp.config.schema import SECTIONS, Option

ROOT = Path(__file__).parent.parent.parent  # of the source tree
YAML = """\
# Every option of recbole_rawp: default, (type and range), meaning. Set them like RecBole's own: in a YAML file,
# in config_dict, or on the command line (--rawp_radius=0.3). Order of priority: this file < properties/defense <
# your files < config_dict < command line. Made by `python -m recbole_rawp.config.reference`.
"""
PAGE = """\
# Options

Set them like RecBole's own: in a YAML file, in `config_dict`, or on the command line (`--rawp_radius=0.3`). Order of
priority: the defaults below < the defense < your files < `config_dict` < command line. `null` is
YAML's `~`. The same list stands in `properties/rawp.yaml`, and `recbole-rawp list options` prints it.
"""
HEAD = "| option | default | values | unit | meaning |\n| --- | --- | --- | --- | --- |\n"


def as_yaml() -> str:
    """Return the schema as `properties/rawp.yaml`: a line for each option."""
    parts = [f"# {section.title}\n" + "".join(map(_line, section.options)) for section in SECTIONS]
    return "\n".join([YAML, *parts])


def as_page() -> str:
    """Return the schema as `docs/options.md`: a table for each section."""
    parts = [f"## {section.title}\n\n{HEAD}" + "".join(map(_row, section.options)) for section in SECTIONS]
    return "\n".join([PAGE, *parts])


def _line(option: Option) -> str:
    return f"{f'{option.name}: {literal(option.default)}':<32}# ({option.expected}) {option.meaning}\n"


def _row(option: Option) -> str:
    unit = f"`{option.unit}`" if option.unit.endswith("_unit") else option.unit
    cells = (f"`{option.name}`", f"`{literal(option.default)}`", option.expected, unit, option.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |\n"


def literal(value: Any) -> str:
    """Return a default as YAML."""
    return "~" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def write() -> None:
    """Write both files into the source tree."""
    (ROOT / "properties" / "rawp.yaml").write_text(as_yaml(), encoding="utf-8")
    (ROOT / "docs" / "options.md").write_text(as_page(), encoding="utf-8")


if __name__ == "__main__":
    write()
