"""The parts of the report on why it can be trusted, and how it is repeated."""

from __future__ import annotations

from recbole_rawp.report.sections.section import Material, section
from recbole_rawp.report.tables import check_table


@section(90)
def foundations(material: Material) -> list[str]:
    """Return self-checks, notes, settings, command and environment."""
    run = material.run
    notes, settings = run.facts["notes"], run.facts["settings"]
    return [
        "## Self-checks",
        check_table(run.checks),
        *(["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Settings",
        "```yaml\n" + "\n".join(f"{k}: {'null' if v is None else v}" for k, v in settings.items()) + "\n```",
        f"Repeat with: {material.command}.",
        "## Environment",
        f"```\n{run.facts['environment']}\n```",
    ]
