"""What does a hardened training step cost, as a multiple of a plain one?

    python benchmarks/step_cost.py                                          # NeuMF, ml-100k
    python benchmarks/step_cost.py --dataset=ml-1m --data_path=FOLDER       # FOLDER holds ml-1m/ml-1m.inter

RecBole's own `_train_epoch` trains one model per variant, in one process, on the same batches, the variants taking
turns batch by batch; the ratio is the median over batches of hardened time / plain time, and its quartiles. Peak
memory is the largest resident set of a process of its own per variant, less that before training (CPU), or CUDA's
peak allocation. All options of RecBole and of ours are accepted.
"""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from recbole.utils import get_trainer, init_seed
from tabulate import tabulate

from recbole_rawp import environment, quick_start
from recbole_rawp.config import RAWPConfig, command_line
from recbole_rawp.trainer import robustify

BATCHES, WARM_UP = 60, 5
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
    options, _ = command_line(sys.argv[1:])
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
    data, _ = quick_start.prepare(next(iter(configs.values())))
    batches = Batches(batch for batch, _ in zip(data.train, range(BATCHES + WARM_UP)))
    built = {}
    for name, config in configs.items():
        init_seed(config["seed"], True)
        model = quick_start.get_model(config["model"])(config, data.train._dataset).to(config["device"])
        built[name] = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    return built, batches


def seconds(trainer: Any, batch: Any) -> float:
    """Return the time of RecBole's training step on one batch."""
    one = Batches([batch])
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    trainer._train_epoch(one, 0)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(name: str) -> float:
    """Return the growth of this process's memory, MiB, while the variant trains."""
    built, batches = trainers([name])
    trainer = built[name]
    seconds(trainer, batches[0])
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        trainer._train_epoch(batches, 0)
        return torch.cuda.max_memory_allocated() / 2**20
    trainer._train_epoch(batches, 0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table; or, with --memory_of=VARIANT, that variant's peak memory."""
    options, _ = command_line(sys.argv[1:])
    if "memory_of" in options:
        print(peak_memory(options["memory_of"]))
        return
    arguments = sys.argv[:]
    built, batches = trainers(list(VARIANTS))
    times: dict[str, list[float]] = {name: [] for name in built}
    for number, batch in enumerate(batches):
        order = list(built) if number % 2 else list(reversed(built))
        for name in order:
            elapsed = seconds(built[name], batch)
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
    print(f"{first.config['model']}, {first.config['dataset']}, {len(batches[0])} rows a batch, {BATCHES} batches\n")
    headers = ["step", "ms", "ratio to plain", "quartiles", "peak memory, MiB"]
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    print(f"\n{environment.describe(first.device)}")


if __name__ == "__main__":
    main()
