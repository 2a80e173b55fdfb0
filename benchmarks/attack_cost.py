"""What does an attack cost?

    python benchmarks/attack_cost.py                # NeuMF and a nine-layer MLP on ml-100k, one thread

Per user: users attacked per second by FGSM on every row of every weight, embeddings included, against the published way,
one user at a time with a copied model for each radius. Both score the same 100 candidates of the same users and return
the attacked scores, which are compared. The two ways take turns, batch by batch; the ratio is the median over batches.

Global: a curve of ten radii by FGSM, control and self-check included, against one plain full-ranking evaluation by
RecBole, taking turns; goal at most 10.5.

Peak memory is what the attack adds to the resident set at its peak (Linux).
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from recbole.utils import get_trainer
from step_cost import resident
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional

from recbole_rawp import candidates, environment, evaluation
from recbole_rawp.config import RAWPConfig
from recbole_rawp.per_user.choice import choose
from recbole_rawp.per_user.engine import UserBatch
from recbole_rawp.per_user.scope import Rows, rectangle
from recbole_rawp.prepare import prepare
from recbole_rawp.selection import matrices
from recbole_rawp.suites import Threat
from recbole_rawp.trainer import robustify

RADII = (0.002, 0.004, 0.005, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)
SLOW_USERS = 8  # of each batch go the slow way, too
BATCHES, CURVES = 12, 5
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}


class MLP(nn.Module):
    """The published backbone (DeepCF's CFNet-ml): interaction rows of user and item, two wide inputs, seven more."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows  # [users, items], 0 and 1
        users, items = rows.shape
        self.user, self.item = nn.Linear(items, 512), nn.Linear(users, 512)
        sizes = (1024, 512, 256, 128, 64, 32, 16)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.last = nn.Linear(16, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [P]."""
        x = torch.cat([self.user(self.rows[users]), self.item(self.rows.T[items])], dim=1)
        for layer in self.hidden:
            x = functional.relu(layer(x))
        return self.last(x).squeeze(1)


def published(model: nn.Module, rows: Rows, radius: float) -> Tensor:
    """Return one user's attacked logits [n]: a copy of the model, its gradient, every row moved in place."""
    twin = copy.deepcopy(model)
    users, items = rows.columns["user_id"], rows.columns["item_id"]
    logits = twin(users, items)
    labels = (logits.detach() > 0).to(logits.dtype)
    functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum").backward()
    with torch.no_grad():
        for _, weight in matrices(twin).values():
            if weight.grad is not None:
                norms = weight.grad.norm(dim=1, keepdim=True)
                step = radius * weight.norm(dim=1, keepdim=True) * weight.grad / norms
                weight += torch.where(norms > 0, step, 0.0)
        return twin(users, items)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that some work takes, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def per_user(name: str, model: nn.Module, loader: Any, radii: tuple[float, ...]) -> list[str]:
    """Return a row of the table: users per second each way, their ratio, peak memory, the largest difference."""
    model.eval()
    weights = {weight: parameter for weight, (_, parameter) in matrices(model).items()}
    ratios, speeds, slow_speeds, worst, make = [], [], [], 0.0, None
    before = reset_peak()
    for number, (interaction, owner, _, _) in zip(range(BATCHES + 1), loader):
        index, mask = rectangle(owner)
        rows = Rows(interaction.interaction)[index.flatten()]
        batch = UserBatch(model, lambda r: model(r.columns["user_id"], r.columns["item_id"]), weights, rows, mask)
        if make is None:
            choice = choose(batch, rows=lambda r, i: r[i].columns, rebuild=Rows)
            make = choice.make
            continue

        def ours(batch: UserBatch = batch) -> list[Tensor]:
            engine = make(batch)
            return [engine.logits(engine.steepest(engine.ball(radius))) for radius in radii]

        def theirs(rows: Rows = rows, index: Tensor = index) -> list[list[Tensor]]:
            few = [rows[torch.arange(u * index.shape[1], (u + 1) * index.shape[1])] for u in range(SLOW_USERS)]
            return [[published(model, own, radius) for own in few] for radius in radii]

        fast, slow = (timed(work) for work in (ours, theirs)) if number % 2 else reversed([timed(theirs), timed(ours)])
        for many, few in zip(fast[1], slow[1]):
            worst = max(worst, float((many[:SLOW_USERS] - torch.stack(few)).abs().max() / many.abs().max()))
        speeds.append(len(mask) / fast[0])
        slow_speeds.append(SLOW_USERS / slow[0])
        ratios.append(speeds[-1] / slow_speeds[-1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    memory = resident(Path("/proc/self/status"))[1] - before
    return [
        name,
        choice.name,
        str(len(radii)),
        f"{statistics.median(slow_speeds):.0f}",
        f"{statistics.median(speeds):.0f}",
        f"{middle:.1f}",
        f"{low:.1f}-{high:.1f}",
        f"{memory:.0f}",
        f"{worst:.0e}",
    ]


def reset_peak() -> float:
    """Let the peak of the resident set start anew; return the resident set, MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident(Path("/proc/self/status"))[0]


def curve(trainer: Any, data: Any, methods: tuple[str, ...]) -> list[float]:
    """Return, for each repetition, the time of a curve of ten radii in plain evaluations."""
    threat = Threat(methods, "hidden", "tensor", "relative", "global", "", 1, 1, (0.0, *RADII))

    def attacked() -> Any:
        return evaluation.under_attack(trainer, data.train, data.test, threats=(threat,), batches=10, defense="none")

    def plain() -> Any:
        return trainer.evaluate(data.test, load_best_model=False)

    plain()
    ratios = []
    for number in range(CURVES):
        (whole, _), (one, _) = (timed(w) for w in ((attacked, plain) if number % 2 else (plain, attacked))[::1])
        ratios.append(whole / one if number % 2 else one / whole)
    return ratios


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]
    options = {"model": "NeuMF", "dataset": "ml-100k", "state": "error", "defense": "none", "show_progress": False}
    config = RAWPConfig(config_dict={**options, "eval_args": LEAVE_ONE_OUT})
    data, model = prepare(config)
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.eval_collector.data_collect(data.train)
    loader = candidates.sampled_loader(config, data.test, 99)
    interactions = data.train._dataset.inter_matrix(form="coo").toarray()
    mlp = MLP(torch.tensor(interactions, dtype=torch.float32))
    with candidates.frozen(loader, candidates.draw(loader, 2020)):
        rows = [
            per_user(name, network, loader, radii)
            for name, network in (("NeuMF", model), ("MLP, nine layers", mlp))
            for radii in (RADII[3:4], RADII)
        ]
    headers = ["model", "way", "radii", "copies: users/s", "ours: users/s", "ratio", "quartiles", "MiB", "difference"]
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    for methods in (("fgsm",), ("random", "fgsm")):
        low, middle, high = statistics.quantiles(curve(trainer, data, methods), n=4)
        print(f"\n{' and '.join(methods)}: ten radii cost {middle:.2f} plain evaluations ({low:.2f}-{high:.2f})")
    print(f"\n{environment.describe(config['device'])}")


if __name__ == "__main__":
    main()
