"""Measures what a hardened training step costs, as a multiple of a plain one.

    python benchmarks/step_cost.py                                          # NeuMF, ml-100k
    python benchmarks/step_cost.py --dataset=ml-1m --data_path=FOLDER       # FOLDER holds ml-1m/ml-1m.inter
    python benchmarks/step_cost.py results/families/neumf.yaml FILE...      # a row per settings file, without memory

RecBole's own `_train_epoch` trains one model per variant, in one process, on the same batches, the variants taking
turns every BLOCK batches; the ratio is the median over blocks of hardened time / plain time, with its quartiles. Peak
memory is what training adds to the peak resident set of a process of its own (Linux), or CUDA's peak allocation.
All options of RecBole and of ours are accepted. RecBole's sequential models switch autograd's search for NaN on when
they are imported (SINE does), for all models from then on; here it is off.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from recbole.utils import get_model, get_trainer, init_seed
from tabulate import tabulate

from recbole_rawp.config import command_line
from recbole_rawp.host import environment
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.training.registration import robustify

BLOCK, BLOCKS, WARM_UP = 10, 15, 1
VARIANTS = {
    "plain": {"defense": "none"},
    "plain, again (noise of the measurement)": {"defense": "none"},
    "noise": {"defense": "noise", "rawp_clean_weight": 0.0},
    "rawp, the default's step": {"defense": "rawp", "rawp_radius": 0.1},
    "awp, L(w + delta) alone": {"defense": "awp", "rawp_clean_weight": 0.0},
    "awp, quarter-batch ascent": {"defense": "awp", "rawp_clean_weight": 0.0, "rawp_ascent_fraction": 0.25},
    "awp, L(w) + L(w + delta)": {"defense": "awp", "rawp_clean_weight": 1.0},
}
EACH_BATCH = {"rawp_mask_every": "batch", "rawp_clean_weight": 0.0}  # an epoch here is ten batches, under one mask
FAMILIES = {  # a column each
    "plain": {"defense": "none"},
    "plain, again": {"defense": "none"},
    "noise": {"defense": "noise", **EACH_BATCH},
    "rawp (default)": {"defense": "rawp", "rawp_radius": 0.1},
    "rawp_reference": {"defense": "rawp_reference", **EACH_BATCH},
    "rawp_reference, quarter-batch ascent": {"defense": "rawp_reference", "rawp_ascent_fraction": 0.25, **EACH_BATCH},
    "awp (no masks)": {"defense": "awp", **EACH_BATCH},
}


class Batches(list):
    """A loader of batches that are there already."""

    shuffle = False

    def set_mode(self, mode: Any) -> None:
        """Take the mode of a knowledge graph's loader: the batches hold the fields of all."""


def configure(variant: dict[str, Any], file: str | None) -> RAWPConfig:
    """Return the settings of a variant; a file and the command line may choose model, data and sizes."""
    given = {"state": "error", "show_progress": False} | ({} if file else {"model": "NeuMF", "dataset": "ml-100k"})
    options, _ = command_line.read(sys.argv[1:])
    options.pop("memory_of", None)
    sys.argv = sys.argv[:1]
    return RAWPConfig(config_file_list=[file] if file else None, config_dict={**given, **options, **variant})


def trainers(variants: dict[str, dict[str, Any]], file: str | None = None) -> tuple[dict[str, Any], Batches]:
    """Return a trainer per variant, each with a model of its own from the same seed, and the batches."""
    arguments = sys.argv[:]
    configs = {}
    for name, variant in variants.items():
        sys.argv = arguments[:]
        configs[name] = configure(variant, file)
    sys.argv = arguments
    data, _ = prepare(next(iter(configs.values())))
    count = BLOCK * (BLOCKS + WARM_UP)
    epoch = fixed_batches(data.train, count, torch.device("cpu"))
    batches = Batches(islice(cycle(epoch), count))
    torch.autograd.set_detect_anomaly(False)
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
    built, batches = trainers({name: VARIANTS[name]})
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


def take_turns(built: dict[str, Any], batches: Batches) -> dict[str, list[float]]:
    """Return the seconds a batch of each trainer, block by block."""
    times: dict[str, list[float]] = {name: [] for name in built}
    blocks = [Batches(batches[start : start + BLOCK]) for start in range(0, len(batches), BLOCK)]
    for number, block in enumerate(blocks):
        for name in list(built) if number % 2 else list(reversed(built)):
            elapsed = seconds(built[name], block) / len(block)
            if number >= WARM_UP:
                times[name].append(elapsed)
    return times


def ratio(own: list[float], plain: list[float]) -> tuple[str, str]:
    """Return the median of own / plain over blocks, and the quartiles."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(own, plain)], n=4)
    return f"{middle:.2f}", f"{low:.2f}-{high:.2f}"


def families(files: list[str]) -> None:
    """Print a table with a row for each settings file and a column for each variant."""
    rows = []
    for file in files:
        built, batches = trainers(FAMILIES, file)
        times = take_turns(built, batches)
        cells = ["{} ({})".format(*ratio(times[name], times["plain"])) for name in list(FAMILIES)[1:]]
        first = built["plain"]
        hidden = perturbed_weights(first.model, "hidden")
        milliseconds = 1e3 * statistics.median(times["plain"])
        rows.append((first.config["model"], len(hidden), len(batches[0]), f"{milliseconds:.1f}", *cells))
        print(*rows[-1], file=sys.stderr, flush=True)
    headers = ["model", "hidden weights", "rows a batch", "plain, ms", *list(FAMILIES)[1:]]
    print(f"{BLOCKS} blocks of {BLOCK} batches\n")
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    print(f"\n{environment.describe(first.device)}")


def main() -> None:
    """Print the table; or, with --memory_of=VARIANT, that variant's peak memory."""
    options, files = command_line.read(sys.argv[1:])
    if "memory_of" in options:
        print(peak_memory(options["memory_of"]))
        return
    if files:
        families(files)
        return
    arguments = sys.argv[:]
    built, batches = trainers(VARIANTS)
    times = take_turns(built, batches)
    rows = []
    for name, own in times.items():
        done = subprocess.run(
            [sys.executable, *arguments, f"--memory_of={name}"], capture_output=True, text=True, check=True
        )
        memory = float(done.stdout.strip().splitlines()[-1])
        milliseconds = 1e3 * statistics.median(own)
        rows.append((name, f"{milliseconds:.1f}", *ratio(own, times["plain"]), f"{memory:.0f}"))
    first = next(iter(built.values()))
    sizes = f"{len(batches[0])} rows a batch, {BLOCKS} blocks of {BLOCK} batches"
    print(f"{first.config['model']}, {first.config['dataset']}, {sizes}\n")
    headers = ["step", "ms", "ratio to plain", "quartiles", "added at peak, MiB"]
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    print(f"\n{environment.describe(first.device)}")


if __name__ == "__main__":
    main()
