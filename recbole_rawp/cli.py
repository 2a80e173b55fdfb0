"""What can I type?"""

import sys
import warnings
from collections.abc import Sequence

import recbole_rawp
from recbole_rawp.errors import InputError, suggestion

USAGE = """\
recbole-rawp trains a RecBole model whose ranking survives small changes of its weights, and measures it.

    recbole-rawp train --model=NeuMF --dataset=ml-100k --baseline
    python run_recbole_rawp.py -m NeuMF -d ml-100k --defense=awp --epochs=50 --config_files="my.yaml other.yaml"

train (the default) trains with a defense, attacks the result on test data, and writes model.pth, records.csv,
report.md, robustness.png, settings.yaml and environment.txt into one new folder.

  --model, -m NAME      a RecBole model trained by gradient descent
  --dataset, -d NAME    a RecBole dataset: ml-100k ships with RecBole, others belong into --data_path (dataset/)
  --config_files FILES  YAML files, separated by spaces; later ones win
  --baseline            also train the plain model; both in one table and one picture
  --KEY=VALUE           any option of RecBole, or of ours as listed below
  --help, --version

A .pth file is a pickle, which can run code when loaded: load only files that you trust.
"""
COMMANDS = ("train",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 with one line on stderr for input that cannot work."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")  # nothing a user can mend
    if "--help" in arguments or "-h" in arguments:
        print(USAGE + "\n" + option_reference())
        return 0
    if "--version" in arguments:
        print(f"recbole-rawp {recbole_rawp.__version__}")
        return 0
    try:
        return train(arguments)
    except InputError as error:
        print(f"recbole-rawp: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:  # some of RecBole's models import what they need only while training
        print(f"recbole-rawp: the package '{error.name}' is needed and not installed. Install it.", file=sys.stderr)
        return 2


def train(arguments: list[str]) -> int:
    """Train, attack and report; see `USAGE`."""
    from recbole_rawp import command_line, quick_start

    options, rest = command_line.read(arguments)
    if rest and rest[0] in COMMANDS:
        rest = rest[1:]
    if rest and rest[0].startswith("-"):
        raise InputError(f"{rest[0]}: no value given. Write {rest[0]}=VALUE.")
    if rest:
        hint = " Quote several config files: --config_files='a.yaml b.yaml'." * ("config_files" in options)
        raise InputError(f"'{rest[0]}': not a command or option.{suggestion(rest[0], COMMANDS)}{hint} Try --help.")
    if not isinstance(options.get("baseline", True), bool):
        raise InputError(f"--baseline: {options['baseline']!r} is neither true nor false. Leave the value out.")
    for key in ("model", "dataset"):
        if key not in options and "config_files" not in options:
            raise InputError(f"--{key}: missing. Name it, as in --model=NeuMF --dataset=ml-100k.")
    if any(options.get(key, 1) not in (1, -1) for key in ("nproc", "world_size")):
        raise InputError("nproc: robustness is measured in one process. Leave nproc and world_size out.")
    files = options.get("config_files")
    argv, sys.argv = sys.argv, [sys.argv[0], *arguments]  # RAWPConfig reads the options there, as RecBole's does
    try:
        result = quick_start.run_recbole_rawp(
            config_file_list=files.split() if files else None, baseline=options.get("baseline", False)
        )
    finally:
        sys.argv = argv
    print(f"\n{result['table']}\n")
    for check in result["checks"]:
        if check.status == "failed":
            print(f"SELF-CHECK FAILED ({check.defense}): {check.name}; not at {check.detail}")
    print(f"report:  {result['output_dir']}/report.md\npicture: {result['output_dir']}/robustness.png")
    return 0


def option_reference() -> str:
    """Return properties/rawp.yaml, the reference of our options."""
    from recbole_rawp import defaults

    return (defaults.properties() / "rawp.yaml").read_text(encoding="utf-8")
