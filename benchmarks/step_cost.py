"""What does a hardened training step cost, as a multiple of a plain one?

    python benchmarks/step_cost.py                                          # NeuMF, ml-100k
    python benchmarks/step_cost.py --dataset=ml-1m --data_path=FOLDER       # FOLDER holds ml-1m/ml-1m.inter

RecBole's own `_train_epoch` trains one model per variant, in one process, on the same batches, the variants taking
turns every BLOCK batches; the ratio is the median over blocks of hardened time / plain time, with its quartiles. Peak
memory is what training adds to the peak resident set of a process of its own (Linux), or CUDA's peak allocation.
All options of RecBole and of ours are accepted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from recbole.utils import get_model, get_trainer, init_seed
from tabulate import tabulate

from recbole_rawp import command_line, environment
from recbole_rawp.config import RAWPConfig
from recbole_rawp.prepare import prepare
from recbole_rawp.trainer import robustify

BLOCK, BLOCKS, WARM_UP = 10, 15, 1
VARIANTS = {
    "plain": {"defense": "none"},
    "plain, again (noise of the measurement)": {"defense": "none"},
    "noise": {"defense": "noise", "rawp_clean_weight": 0.0},
    "awp, L(w + delta) alone": {"defense": "awp", "rawp_clean_weight": 0.0},
    "awp, quarter-batch ascent": {"defense": "awp", "rawp_clean_weight": 0.0, "rawp_ascent_fraction": 0.25},
    "awp, L(w) + L(w + delta)": {"defense": "awp", "rawp_clean_weight": 1.0},
}


class Batches(list):
    """A loader of batches that are there already."""

    shuffle = False


def configure(variant: dict[str, Any]) -> RAWPConfig:
    """Return the settings of a variant; the command line may choose model, data and sizes."""
    given = {"model": "NeuMF", "dataset": "ml-100k", "state": "error", "show_progress": False}
    options, _ = command_line.read(sys.argv[1:])
    options.pop("memory_of", None)
    sys.argv = sys.argv[:1]
    return RAWPConfig(config_dict={**given, **options, **variant})


def trainers(names: list[str]) -> tuple[dict[str, Any], Batches]:
    """Return a trainer per variant, each with a model of its own from the same seed, and the batches."""
    arguments = sys.argv[:]
    configs = {}
    for name in names:
        sys.argv = arguments[:]
        configs[name] = configure(VARIANTS[name])
    data, _ = prepare(next(iter(configs.values())))
    batches = Batches(batch for batch, _ in zip(data.train, range(BLOCK * (BLOCKS + WARM_UP))))
    built = {}
    for name, config in configs.items():
        init_seed(config["seed"], True)
        model = get_model(config["model"])(config, data.train._dataset).to(config["device"])
        built[name] = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    return built, batches


def seconds(trainer: Any, batches: Batches) -> float:
    """Return the time of RecBole's training loop on these batches."""
    synchronize = torch.cuda.synchronize if trainer.device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    trainer._train_epoch(batches, 0)
    synchronize()
    return time.perf_counter() - start


def peak_memory(name: str) -> float:
    """Return what training the variant adds to this process's memory at its peak, MiB; NaN where it cannot be told."""
    built, batches = trainers([name])
    trainer = built[name]
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer._train_epoch(batches, 0)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear.exists():
        return float("nan")
    clear.write_text("5")  # the peak starts anew
    before, _ = resident(status)
    trainer._train_epoch(batches, 0)
    return resident(status)[1] - before


def resident(status: Path) -> tuple[float, float]:
    """Return the resident set now and at its peak, MiB."""
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    now, peak = (float(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak


def main() -> None:
    """Print the table; or, with --memory_of=VARIANT, that variant's peak memory."""
    options, _ = command_line.read(sys.argv[1:])
    if "memory_of" in options:
        print(peak_memory(options["memory_of"]))
        return
    arguments = sys.argv[:]
    built, batches = trainers(list(VARIANTS))
    times: dict[str, list[float]] = {name: [] for name in built}
    blocks = [Batches(batches[start : start + BLOCK]) for start in range(0, len(batches), BLOCK)]
    for number, block in enumerate(blocks):
        for name in list(built) if number % 2 else list(reversed(built)):
            elapsed = seconds(built[name], block) / len(block)
            if number >= WARM_UP:
                times[name].append(elapsed)
    rows = []
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times["plain"])]
        low, middle, high = statistics.quantiles(ratios, n=4)
        done = subprocess.run(
            [sys.executable, *arguments, f"--memory_of={name}"], capture_output=True, text=True, check=True
        )
        memory = float(done.stdout.strip().splitlines()[-1])
        milliseconds = 1e3 * statistics.median(own)
        rows.append((name, f"{milliseconds:.1f}", f"{middle:.2f}", f"{low:.2f}-{high:.2f}", f"{memory:.0f}"))
    first = next(iter(built.values()))
    sizes = f"{len(batches[0])} rows a batch, {BLOCKS} blocks of {BLOCK} batches"
    print(f"{first.config['model']}, {first.config['dataset']}, {sizes}\n")
    headers = ["step", "ms", "ratio to plain", "quartiles", "added at peak, MiB"]
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    sys.argv = arguments
    print(f"\n{environment.describe(first.device)}")


if __name__ == "__main__":
    main()
