"""Measures what the ranking loss costs: time of a gradient beside the training loss's, and memory with many items.

    python benchmarks/ranking_cost.py [MODEL] [ITEMS]    # defaults: BPR, 100000

Generates 2,000 users with twenty interactions each over ITEMS items in a temporary folder, builds the model without
training it, and takes the gradient of both losses by all weights, alternating, the least of five. One thread.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from recbole_rawp.core.losses.attack_loss import AttackLoss, Source
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.quirks import training_loss
from recbole_rawp.host.ranking.measurement import measuring
from recbole_rawp.host.ranking.ranking_loss import ranking_source
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.jobs.trainers import make_trainer

USERS, EACH, REPEATS = 2000, 20, 5


def write(folder: Path, items: int) -> None:
    """Write interactions of which every item has at least one."""
    rng = np.random.default_rng(2020)
    pairs = {(int(u), int(i)) for u in range(USERS) for i in rng.integers(0, items, EACH)}
    pairs |= {(int(rng.integers(USERS)), item) for item in range(items)}
    lines = ["user_id:token\titem_id:token", *(f"{u}\t{i}" for u, i in sorted(pairs))]
    (folder / "many").mkdir()
    (folder / "many" / "many.inter").write_text("\n".join(lines), encoding="utf-8")


def megabytes() -> float:
    """Return the most memory that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(model: str = "BPR", items: str = "100000") -> None:
    """Print times and memory."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), int(items))
        own = {"data_path": folder, "state": "error", "defense": "none", "show_progress": False}
        own |= {"load_col": {"inter": ["user_id", "item_id"]}, "metrics": ["NDCG"], "valid_metric": "NDCG@10"}
        config = RAWPConfig(model, "many", config_dict=own, argv=[])
        data, network = prepare(config)
        trainer = make_trainer(config, network, Path(folder) / "out", data)
        before = megabytes()
        with measuring(trainer, *data):
            weights = perturbed_weights(network, "all")
            batches = fixed_batches(data.train, 10, trainer.device)
            ranking = ranking_source(trainer, data.train, data.valid, users=512, negatives=99)
            sources = {"training": Source("training", (training_loss(network),), batches), "ranking": ranking}
            least = dict.fromkeys(sources, float("inf"))
            for _ in range(REPEATS):
                for name, source in sources.items():
                    start = time.perf_counter()
                    AttackLoss(network, source, weights).climb(None)
                    least[name] = min(least[name], time.perf_counter() - start)
    print(f"{model}, {items} items: a gradient of the training loss, ten batches: {least['training']:.2f} s;")
    print(f"of the ranking loss, 512 users: {least['ranking']:.2f} s;")
    print(f"memory {before:.0f} MB before, {megabytes():.0f} MB at most")


if __name__ == "__main__":
    main(*sys.argv[1:])
