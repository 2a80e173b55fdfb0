"""`recbole-rawp train`: trains with a defense, repairs, attacks and reports; or goes on with a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import EVERY, TRUST, Command, config_files, trusts
from recbole_rawp.cli.printing import show
from recbole_rawp.errors import InputError


def run(options: dict[str, Any], *, argv: Sequence[str]) -> int:
    """Train or go on, attack and report."""
    from recbole_rawp.jobs.train import continue_run, run_recbole_rawp

    if "resume" in options:
        return show(continue_run(str(options["resume"]), argv=argv, trust_checkpoint=trusts(options)))
    for key in ("model", "dataset"):
        if key not in options and "config_files" not in options:
            raise InputError(f"--{key}: missing. Name it, as in --model=NeuMF --dataset=ml-100k.")
    baseline = options.get("baseline", False)
    return show(run_recbole_rawp(config_file_list=config_files(options), baseline=baseline, argv=argv))


COMMAND = Command(
    run,
    help="trains with a defense, repairs the least robust module, attacks the result on test data, and reports",
    examples=(
        "train --model=NeuMF --dataset=ml-100k --baseline",
        'train -m NeuMF -d ml-100k --defense=awp --epochs=50 --config_files="my.yaml other.yaml"',
        "train --resume=runs/NeuMF-ml-100k-rawp_ft-20261124-120000",
    ),
    more="It writes model.pth, records.csv, report.md, robustness.png and more into one new folder.",
    general=("model", "dataset", "config_files"),
    own={
        "baseline": ("", "also train the plain model; both in one table and one picture"),
        "resume": ("FOLDER", "go on with the run in this folder, which was killed"),
        **TRUST,
    },
    sections=EVERY,
)
