"""The parts of the report on why it can be trusted, and how it is repeated."""

from __future__ import annotations

import re
from typing import Any

from recbole_rawp.report.sections.section import Material, section
from recbole_rawp.report.tables import check_table, fenced, listed


@section(90)
def foundations(material: Material) -> list[str]:
    """Return self-checks, notes, settings, command and environment."""
    run = material.run
    notes, settings = run.facts["notes"], run.facts["settings"]
    return [
        "## Self-checks",
        check_table(run.checks),
        *(["## Notes", listed(notes)] if notes else []),
        "## Settings",
        fenced("\n".join(f"{k}: {setting(v)}" for k, v in settings.items()), "yaml"),
        f"Repeat with: {material.command}.",
        "## Environment",
        fenced(run.facts["environment"]),
    ]


def setting(value: Any) -> str:
    """Return a setting's value; further lines of it are indented, so that none looks like another setting."""
    return "null" if value is None else re.sub(r"\n(?! )", "\n  ", str(value))
