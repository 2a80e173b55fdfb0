"""`recbole-rawp compare`: trains and attacks a grid of defenses, models, data sets and seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import Command, config_files
from recbole_rawp.errors import InputError


def run(options: dict[str, Any], *, argv: Sequence[str]) -> int:
    """Run a grid of defenses, models, data sets and seeds, or go on with one, and report."""
    from recbole_rawp.jobs.comparison import compare as comparisons

    if "defense" in options:
        raise InputError(f"--defense: compare takes several. Write --defenses={options['defense']}.")
    if options.keys() >= {"resume", "rawp_output_dir"}:
        raise InputError("--rawp_output_dir: a comparison that goes on has a folder, --resume. Leave one of them out.")
    folder = options.get("resume", options.get("rawp_output_dir"))
    if "resume" in options:
        comparisons.check_begun(options["resume"])
    result = comparisons.compare(
        options.get("models", options.get("model")),
        options.get("datasets", options.get("dataset")),
        options.get("defenses"),
        options.get("seeds"),
        config_files(options),
        folder=folder,
        argv=argv,
    )
    folder = result["output_dir"]
    print(f"\n{result['table']}\n\n{result['verdict']}\n\nreport:  {folder}/report.md, {folder}/report.html")
    if result["failed"]:
        print(f"recbole-rawp: {len(result['failed'])} runs failed: {', '.join(result['failed'])}", file=sys.stderr)
    return 1 if result["failed"] else 0


COMMAND = Command(run, own=("resume", "models", "datasets", "defenses", "seeds"))
