"""What can I type?"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import recbole_rawp
from recbole_rawp.config.checks import check_values
from recbole_rawp.config.command_line import GRID
from recbole_rawp.errors import InputError, suggestion

USAGE = """\
recbole-rawp trains a RecBole model whose ranking survives small changes of its weights, and measures it.

    recbole-rawp train --model=NeuMF --dataset=ml-100k --baseline
    recbole-rawp train --resume=runs/NeuMF-ml-100k-rawp_ft-20261124-120000
    recbole-rawp rank saved/NeuMF.pth
    recbole-rawp harden saved/NeuMF.pth --ft_epochs=5
    recbole-rawp attack saved/NeuMF.pth --attack=standard
    recbole-rawp compare --model=NeuMF --dataset=ml-100k --defenses=none,apr,rat,awp,rawp,rawp_ft --seeds=3
    recbole-rawp report runs/NeuMF-ml-100k-none-20261124-120000 runs/NeuMF-ml-100k-rawp_ft-20261124-130000
    recbole-rawp convert Data/yelp --dataset=yelp-loo --data_path=data
    python run_recbole_rawp.py -m NeuMF -d ml-100k --defense=awp --epochs=50 --config_files="my.yaml other.yaml"

train (the default)  trains with a defense, repairs the least robust module, attacks the result on test data, and
                     writes model.pth, records.csv, report.md, robustness.png and more into one new folder
rank CHECKPOINT      ranks the modules of any model that RecBole saved, least robust first
harden CHECKPOINT    repairs its least robust module, without training it first; the checkpoint is not touched
attack CHECKPOINT    attacks any model that RecBole saved: --attack=quick, standard, published, or a YAML file
report FOLDER...     puts what runs found side by side in one report
compare              trains every defense on every model and data set from every seed, attacks all alike, and reports
                     means, intervals, tests and what robustness costs; after a kill the same command with
                     --rawp_output_dir=FOLDER, or --resume=FOLDER alone, goes on
convert PREFIX       makes RecBole's files, in DATA_PATH/DATASET, of a split published as PREFIX.train.rating,
                     .test.rating and .test.negative; --seed draws a training interaction of each user for validation

  --model, -m NAME      a RecBole model trained by gradient descent
  --dataset, -d NAME    a RecBole dataset: ml-100k ships with RecBole, others belong into --data_path (dataset/)
  --config_files FILES  YAML files, separated by spaces; later ones win
  --baseline            also train the plain model; both in one table and one picture
  --resume FOLDER       go on with the run, or the comparison, in this folder, which was killed
  --defenses, --models, --datasets NAMES
                        compare: names with commas between them, each defense a file of properties/defense
  --seeds N | LIST      compare: how many seeds, from `seed` on (3), or the seeds themselves from 1000 up: 2020,2021
                        compare also takes config files for some runs: "all.yaml NeuMF:deep.yaml sam:small.yaml"
  --KEY=VALUE           any option of RecBole, or of ours as listed below
  --help, --version

A .pth file is a pickle, which can run code when loaded: load only files that you trust.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 with one line on stderr for input that cannot work.

    1: some runs of a comparison failed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")  # nothing a user can mend
    try:
        if "--help" in arguments or "-h" in arguments:
            print(USAGE + "\n" + option_reference(), flush=True)
            return 0
        if "--version" in arguments:
            print(f"recbole-rawp {recbole_rawp.__version__}")
            return 0
        return run(arguments)
    except BrokenPipeError:  # who reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except InputError as error:
        print(f"recbole-rawp: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # some of RecBole's models import what they need only while training
        print(f"recbole-rawp: the package '{error.name}' is needed and not installed. Install it.", file=sys.stderr)
        return 2


def run(arguments: list[str]) -> int:
    """Find the command among the words, and run it."""
    from recbole_rawp.config import command_line

    options, rest = command_line.read(arguments)
    command = rest.pop(0) if rest and rest[0] in COMMANDS else "train"
    wanted = {"train": 0, "compare": 0, "report": len(rest)}.get(command, 1)
    for word in rest[wanted:] + [word for word in rest[:wanted] if word.startswith("-")]:
        if word.startswith("-"):
            raise InputError(f"{word}: no value given. Write {word}=VALUE.")
        hint = " Quote several config files: --config_files='a.yaml b.yaml'." * ("config_files" in options)
        raise InputError(f"'{word}': not a command or option.{suggestion(word, COMMANDS)}{hint} Try --help.")
    if len(rest) < wanted or (command == "report" and not rest):
        what, example = TAKES.get(command, ("the checkpoint", "saved/NeuMF.pth"))
        raise InputError(f"{command}: name {what}, as in `recbole-rawp {command} {example}`.")
    for key, commands in BELONGS.items():
        if key in options and command not in commands:
            raise InputError(f"--{key}: goes with {' and '.join(commands)}, not with {command}. Leave it out.")
    if "baseline" in options and "resume" in options:
        raise InputError("--baseline: a run that goes on knows whether it has one. Leave it out.")
    if any(options.get(key, 1) not in (1, -1) for key in ("nproc", "world_size")):
        raise InputError("nproc: robustness is measured in one process. Leave nproc and world_size out.")
    check_values({key: options[key] for key in ("rawp_output_dir",) if key in options})  # report reads no settings
    return COMMANDS[command](options, *rest, argv=arguments)


def train(options: dict[str, Any], *, argv: Sequence[str]) -> int:
    """Train or go on, attack and report; see `USAGE`."""
    from recbole_rawp.jobs import pipeline

    if not isinstance(options.get("baseline", True), bool):
        raise InputError(f"--baseline: {options['baseline']!r} is neither true nor false. Leave the value out.")
    if "resume" in options:
        return show(pipeline.continue_run(str(options["resume"]), argv=argv))
    for key in ("model", "dataset"):
        if key not in options and "config_files" not in options:
            raise InputError(f"--{key}: missing. Name it, as in --model=NeuMF --dataset=ml-100k.")
    baseline = options.get("baseline", False)
    return show(pipeline.run_recbole_rawp(config_file_list=files(options), baseline=baseline, argv=argv))


def harden(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Repair the model in a checkpoint, attack it before and after, and report."""
    from recbole_rawp.jobs import pipeline

    return show(pipeline.harden_checkpoint(checkpoint, config_file_list=files(options), argv=argv))


def rank(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Print the modules of the model in a checkpoint, least robust first."""
    from recbole_rawp.jobs import pipeline

    result = pipeline.rank_checkpoint(checkpoint, config_file_list=files(options), argv=argv)
    folder = result["output_dir"]
    print(f"\n{result['table']}\n\nrows:    {folder}/criticality.csv\npicture: {folder}/criticality.png")
    return 0


def attack(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Attack the model in a checkpoint, and report."""
    from recbole_rawp.jobs import pipeline

    return show(pipeline.attack_checkpoint(checkpoint, config_file_list=files(options), argv=argv))


def report(options: dict[str, Any], *folders: str, argv: Sequence[str]) -> int:
    """Put what runs found side by side."""
    from recbole_rawp.jobs import report as reports

    for key in options.keys() - {"rawp_output_dir"}:
        raise InputError(f"--{key}: report takes folders and --rawp_output_dir alone. Leave it out.")
    return show(reports.combine(folders, options.get("rawp_output_dir")))


def compare(options: dict[str, Any], *, argv: Sequence[str]) -> int:
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
        files(options),
        folder=folder,
        argv=argv,
    )
    folder = result["output_dir"]
    print(f"\n{result['table']}\n\n{result['verdict']}\n\nreport:  {folder}/report.md, {folder}/report.html")
    if result["failed"]:
        print(f"recbole-rawp: {len(result['failed'])} runs failed: {', '.join(result['failed'])}", file=sys.stderr)
    return 1 if result["failed"] else 0


def convert(options: dict[str, Any], prefix: str, *, argv: Sequence[str]) -> int:
    """Make RecBole's files of a published split, and say what they hold."""
    from recbole_rawp.jobs.convert import SEED
    from recbole_rawp.jobs.convert import convert as converted

    for key in options.keys() - {"dataset", "data_path", "seed"}:
        raise InputError(f"--{key}: convert takes --dataset, --data_path and --seed alone. Leave it out.")
    if "dataset" not in options:
        raise InputError("--dataset: missing. Name the data set that is written, as in --dataset=yelp-loo.")
    name, place, seed = options["dataset"], str(options.get("data_path", "dataset")), options.get("seed", SEED)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed: {seed!r} is not valid; expected int >= 0.")
    found = converted(prefix, name, data_path=place, seed=seed)
    print("{folder}: {users} users, {items} items; {train} interactions to train, ".format(**found), end="")
    print("{valid} to validate and {test} to test on, each of these with {negatives} negatives".format(**found))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "train": train,
    "rank": rank,
    "harden": harden,
    "attack": attack,
    "report": report,
    "compare": compare,
    "convert": convert,
}
TAKES = {"report": ("a run's folder", "runs/NeuMF"), "convert": ("the beginning of the files' names", "Data/yelp")}
BELONGS = {"baseline": ("train",), "resume": ("train", "compare"), **dict.fromkeys(GRID, ("compare",))}


def files(options: dict[str, Any]) -> list[str] | None:
    """Return the config files that were named."""
    return options["config_files"].split() if options.get("config_files") else None


def show(result: dict[str, Any]) -> int:
    """Print what a run found and where it lies."""
    from recbole_rawp.report.scores import label

    folder = result["output_dir"]
    print(f"\n{result['table']}\n")
    if result.get("overview"):
        print(f"{result['overview']}\n")
    for line in filter(None, [result.get("search"), *result.get("repair", [])]):
        print(line + "\n")
    for check in result.get("checks", []):
        if check.status == "failed":
            print(f"SELF-CHECK FAILED ({label(check.defense)}): {check.name}; not at {check.detail}")
    print(f"report:  {folder}/report.md, {folder}/report.html\npicture: {folder}/robustness.png")
    return 0


def option_reference() -> str:
    """Return properties/rawp.yaml, the reference of our options."""
    from recbole_rawp.config import properties

    return (properties.properties() / "rawp.yaml").read_text(encoding="utf-8")
