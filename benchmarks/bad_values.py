"""Tries bad values of every option, and broken files: is each told in one line, with status 2, and nothing written?

    python benchmarks/bad_values.py               # minutes; status 1 if something failed
    python benchmarks/bad_values.py rawp_radius   # those alone whose name has this in it

The command line runs in this process, on a small generated data set; where training would begin the value counts as
accepted, which fails. A value that is legal is none of these (`bad_inputs` holds them).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import bad_inputs
from tabulate import tabulate

from recbole_rawp.cli.main import main
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.training.trainer import RAWPTrainer
from tests import toy_data

BASE = ("--model=NeuMF", "--dataset=toy", "--data_path=data", "--state=error", "--show_progress=False")
BASE += ("--epochs=1", "--train_batch_size=256")
QUICK = ("--defense=none", "--attack=[noise]", "--attack_radii=[0.1]", "--rawp_output_dir=run")


class Accepted(BaseException):
    """Training would have begun."""


@dataclass(frozen=True)
class Case:
    """What is typed, the option or file that the line has to name, and what was bad."""

    name: str
    bad: str
    words: tuple[str, ...]
    told: str


def options() -> Iterator[Case]:
    """Yield cases of each option."""
    for name in OPTIONS:
        of_rank = name == "criticality_threats"
        for value in bad_inputs.values(name):
            rest = ("rank", "run/model.pth", "--state=error") if of_rank else BASE
            yield Case(name, value, (*rest, *bad_inputs.BESIDE.get(name, ()), f"--{name}={value}"), name)
    for name, values in bad_inputs.OF_COMMANDS.items():
        for value in values:
            rest = () if name == "resume" else BASE
            yield Case(name, value, ("train", *rest, f"--{name}={value}"), name)
    for name, values in bad_inputs.OF_GRIDS.items():
        for value in values:
            rest = tuple(word for word in BASE if not word.startswith(("--model=", "--dataset=")))
            grid = {"models": "NeuMF", "datasets": "toy", "defenses": "none", "seeds": "1"} | {name: value}
            typed = (f"--{key}={given}" for key, given in grid.items())
            yield Case(f"compare --{name}", value, ("compare", *rest, *typed), name.removesuffix("s"))


def files(folder: Path) -> Iterator[Case]:
    """Write broken files; yield their cases."""
    folder.mkdir()
    whole = Path("data/toy/toy.inter").read_bytes()
    for number, (bad, edit) in enumerate(bad_inputs.DATA.items()):
        home = folder / f"data{number}/toy"
        home.mkdir(parents=True)
        (home / "toy.inter").write_bytes(edit(whole))
        words = [word for word in BASE if not word.startswith("--data_path=")]
        yield Case(
            "data", bad, (*words, f"--data_path={home.parent}", "--load_col={inter: [user_id, item_id, rating]}"), "toy"
        )
    for kind, texts, option in (
        ("settings", bad_inputs.SETTINGS, "config_files"),
        ("defense", bad_inputs.SETTINGS, "defense"),
        ("suite", bad_inputs.SUITES, "attack"),
        ("modules' suite", bad_inputs.SUITES, "criticality_threats"),
    ):
        for number, (bad, text) in enumerate(texts.items()):
            file = folder / f"{option}{number}.yaml"
            file.write_text(text)
            rest = ("rank", "run/model.pth", "--state=error") if option == "criticality_threats" else BASE
            yield Case(kind, bad, (*rest, f"--{option}={file}"), bad_inputs.NAMED.get(bad, option))
    (folder / "checkpoints").mkdir()
    for bad, file in bad_inputs.checkpoints(Path("run/model.pth"), folder / "checkpoints"):
        for command in ("attack", "rank", "harden"):
            yield Case(f"checkpoint, {command}", bad, (command, str(file), "--state=error"), "checkpoint")
    (folder / "candidates").mkdir()
    for bad, file in bad_inputs.candidates(folder / "candidates"):
        words = (*BASE, *bad_inputs.BESIDE["attack_candidates"], f"--attack_candidates={file}")
        yield Case("candidates", bad, words, "attack_candidates")
    for bad, text in bad_inputs.COMPARISONS.items():
        home = folder / f"compared {bad}"
        home.mkdir()
        (home / "comparison.yaml").write_text(text)
        yield Case("comparison", bad, ("compare", f"--resume={home}", "--state=error"), "")
    for bad, home in bad_inputs.broken(Path("run"), folder / "runs"):
        yield Case("resume", bad, (f"--resume={home}", "--state=error"), home.name)


def failings(case: Case) -> str:
    """Run a case; return what is wrong with the answer, empty if nothing is."""
    before = contents()
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(case.words)
    except Accepted:
        return "accepted"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:100]} ({Path(where.filename).name}:{where.lineno})"
    finally:
        written = sorted(contents() - before)
    return "; ".join(wrong(case, status, err.getvalue(), written))


def wrong(case: Case, status: int, err: str, written: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with status, lines and files."""
    lines = [line for line in err.splitlines() if line.startswith("recbole-rawp:")]
    if status != 2:
        yield f"status {status}"
    if len(lines) != 1 or len(err.splitlines()) != 1:
        yield f"{len(err.splitlines())} lines: {err[:150]!r}"
    if lines and case.told not in lines[0]:
        yield f"{case.told} not named: {lines[0]}"
    if lines and not re.search(r"\. [A-Z]|expected|Did you mean", lines[0]):
        yield f"no remedy: {lines[0]}"
    if written:
        yield f"written: {', '.join(written[:3])}"


def contents() -> set[str]:
    """Return what is in the working folder, but for locks, which are empty."""
    return {str(path) for path in Path().rglob("*") if path.name != ".lock"}


def prepare() -> None:
    """Put data, a run, and what is in the way into the working folder."""
    toy_data.write(Path("data"))
    Path("file.txt").write_text("a file\n")
    Path("full").mkdir()
    Path("full/file.txt").write_text("a file\n")
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*BASE, *QUICK]) == 0


def run(wanted: str = "") -> int:
    """Try all cases whose name has `wanted` in it; print what failed, and return the status."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        cases = [case for case in (*options(), *files(Path("bad"))) if wanted in case.name]
        with mock.patch.object(RAWPTrainer, "fit", side_effect=Accepted):
            failed = [(case.name, case.bad, text) for case in cases if (text := failings(case))]
        os.chdir(ROOT)
    print(tabulate(failed, headers=("option or file", "bad value", "what happened"), maxcolwidths=[24, 30, 110]))
    print(f"{len(cases)} tried, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(run(*sys.argv[1:2]))
