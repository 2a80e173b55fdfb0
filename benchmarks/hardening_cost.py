"""Measures what hardening costs beside the plain training, from the first step to the final weights.

    python benchmarks/hardening_cost.py FILE... [--times=3] [--KEY=VALUE...]

For each settings file (results/families/*.yaml), in one process and in turns, with a new seed each time: RecBole's own
training of the plain model, early stopping included; then what `recbole-rawp harden` does to its model, stages 1 and 2.
Reports are left out. A row of the table is the mean over the turns, with the range of the ratio; the ratio of a run
that trains both (`train`, `compare`) is 1 more. Processor time, of one thread unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from recbole.utils import init_seed
from tabulate import tabulate

from recbole_rawp.config import command_line
from recbole_rawp.host import checkpoint, environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.jobs.checkpoints import settings_of
from recbole_rawp.jobs.trainers import make_trainer

QUIET = {"state": "error", "show_progress": False}


def timed(action: Callable[[], Any]) -> float:
    """Return the processor time of an action, in seconds."""
    start = time.process_time()
    action()
    return time.process_time() - start


def turn(file: str, folder: Path, given: dict[str, Any]) -> dict[str, float]:
    """Train the plain model, harden it, and return what each took: seconds and epochs."""
    config = RAWPConfig(config_file_list=[file], config_dict=QUIET | given | {"defense": "none"}, argv=[])
    init_seed(config["seed"], True)
    data, model = prepare(config)
    plain = make_trainer(config, model, folder, data)
    seconds = timed(lambda: plain.fit(data.train, data.valid, saved=True, verbose=False))
    content = checkpoint.read(Path(plain.saved_model_file))
    config = settings_of(content, None, QUIET | {"defense": "rawp_ft"}, ours={}, argv=[])
    data, model = prepare(config)
    checkpoint.load_into(model, content)
    hardened = make_trainer(config, model, folder / "hardened", data)
    hardened.take_plain_model(content)
    more = timed(lambda: hardened.fit(data.train, data.valid, saved=False, verbose=False))
    torch.autograd.set_detect_anomaly(False)  # importing some models of RecBole switches it on
    progress = hardened.state.progress
    return {
        "plain": seconds,
        "plain epochs": len(plain.train_loss_dict),
        "hardening": more,
        "hardened epochs": len(hardened.state.search.path),
        "stage 2": progress.seconds if progress else 0.0,
        "ratio": more / seconds,
    }


def row(file: str, times: int, given: dict[str, Any]) -> list[str]:
    """Return the table's row of a settings file."""
    turns = []
    for number in range(times):
        with tempfile.TemporaryDirectory() as folder:
            turns.append(turn(file, Path(folder), given | {"seed": 2020 + number}))
            print(file, turns[-1], file=sys.stderr, flush=True)
    mean = {name: statistics.mean(one[name] for one in turns) for name in turns[0]}
    ratios = [one["ratio"] for one in turns]
    columns = ("plain", "plain epochs", "hardening", "hardened epochs", "stage 2")
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return [Path(file).stem, *(f"{mean[name]:.0f}" for name in columns), f"{mean['ratio']:.2f}", spread]


def main() -> None:
    """Print the table."""
    options, files = command_line.read(sys.argv[1:])
    times = int(options.pop("times", 3))
    torch.autograd.set_detect_anomaly(False)
    heads = [
        "settings",
        "plain, s",
        "epochs",
        "hardening, s",
        "epochs",
        "of it stage 2, s",
        "hardening / plain",
        "range",
    ]
    rows = [row(file, times, options) for file in files]
    print(tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True))
    print(f"\n{environment.describe(torch.device('cpu'))}")


if __name__ == "__main__":
    main()
