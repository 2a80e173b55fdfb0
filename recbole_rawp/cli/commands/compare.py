"""`recbole-rawp compare`: trains and attacks a grid of defenses, models, data sets and seeds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import EVERY, Command, config_files
from recbole_rawp.errors import InputError


def run(options: dict[str, Any], *, argv: Sequence[str]) -> int:
    """Run a grid of defenses, models, data sets and seeds, or go on with one, and report."""
    from recbole_rawp.jobs.comparison import begun
    from recbole_rawp.jobs.comparison.compare import compare

    if "defense" in options:
        raise InputError(f"--defense: compare takes several. Write --defenses={options['defense']}.")
    if options.keys() >= {"resume", "rawp_output_dir"}:
        raise InputError("--rawp_output_dir: a comparison that goes on has a folder, --resume. Leave one of them out.")
    folder = options.get("resume", options.get("rawp_output_dir"))
    if "resume" in options:
        begun.check_begun(options["resume"])
    workers = count(options)
    result = compare(
        options.get("models", options.get("model")),
        options.get("datasets", options.get("dataset")),
        options.get("defenses"),
        options.get("seeds"),
        config_files(options),
        folder=folder,
        workers=workers,
        argv=argv,
    )
    folder = result["output_dir"]
    if not workers:
        join = f"recbole-rawp compare --resume={shlex.quote(folder)}"
        print(f"\nNothing is trained yet. Any number of processes may: {join}")
        return 0
    print(f"\n{result['table']}\n\n{result['verdict']}\n\nreport:  {folder}/report.md, {folder}/report.html")
    if result["failed"]:
        print(f"recbole-rawp: {len(result['failed'])} runs failed: {', '.join(result['failed'])}", file=sys.stderr)
    return 1 if result["failed"] else 0


def count(options: dict[str, Any]) -> int:
    """Return how many processes were asked for."""
    workers = options.get("workers", 1)
    if type(workers) is not int or workers < 0:
        raise InputError(f"--workers: {workers!r} is not valid; expected how many processes, or 0 for none yet.")
    return workers


COMMAND = Command(
    run,
    help="trains every defense on every model and data set from every seed, and attacks all alike",
    examples=(
        "compare --model=NeuMF --dataset=ml-100k --defenses=none,apr,rat,awp,rawp,rawp_ft --seeds=3",
        'compare --models=NeuMF,DCN --dataset=ml-100k --config_files="all.yaml DCN:deep.yaml"',
    ),
    more="It reports means, intervals, tests and what robustness costs. After a kill the same command with\n"
    "--rawp_output_dir=FOLDER, or --resume=FOLDER alone, goes on.",
    general=("model", "dataset", "config_files"),
    own={
        "models": ("NAMES", "with commas between them"),
        "datasets": ("NAMES", "with commas between them"),
        "defenses": ("NAMES", "with commas between them: recbole-rawp list defenses"),
        "seeds": ("N|LIST", "how many, from `seed` on (3), or the seeds themselves from 1000 up: 2020,2021"),
        "resume": ("FOLDER", "go on with the comparison in this folder, which was killed; or join those at work in it"),
        "workers": ("N", "processes that train and attack on this machine (1); 0 makes the folder ready for --resume"),
    },
    sections=EVERY,
)
