"""Measures what an attack costs.

    python benchmarks/attack_cost.py                # NeuMF, a nine-layer MLP and ConvNCF on ml-100k, one thread
    python benchmarks/attack_cost.py --dataset=ml-1m --data_path=dataset --load_col="{inter: [user_id, item_id]}" \\
        --eval_args="{split: {LS: valid_and_test}, order: RO, group_by: user, mode: full}"  # no timestamps there

Options are RecBole's, values as in YAML. The MLP is the published backbone (DeepCF's CFNet-ml), once with dense rows
and once with sparse ones; the copies are dense in both cases, as published.

Per user: users attacked per second by FGSM on every row of every weight, embeddings included, against the published
way, one user at a time with a copied model for each radius. Both score the same 100 candidates of the same users and
return the attacked scores, which are compared. The two ways take turns, batch by batch; the ratio is the median over
batches.

Universal: a curve of ten radii by FGSM, control and self-check included, against one plain full-ranking evaluation by
RecBole, taking turns; goal at most 10.5.

Peak memory is what the attack adds to the resident set at its peak (Linux).
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import yaml
from recbole.model.general_recommender import ConvNCF
from recbole.utils import get_trainer
from step_cost import resident
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional

from recbole_rawp.config.settings import Attack
from recbole_rawp.core.selection import matrices
from recbole_rawp.evaluation import robustness
from recbole_rawp.evaluation.user_rows import Rows, take
from recbole_rawp.host import environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data, prepare
from recbole_rawp.host.ranking import candidates
from recbole_rawp.host.ranking.ranking_batches import rectangle
from recbole_rawp.model.mlp import HIDDEN, MLP
from recbole_rawp.threats.adversarial.per_user.batch import grouped
from recbole_rawp.threats.adversarial.per_user.engine import UserBatch
from recbole_rawp.threats.adversarial.per_user.engine_selection import SelectedEngine, select_engine
from recbole_rawp.threats.adversarial.perturbation import Perturbation
from recbole_rawp.training.registration import robustify

RADII = (0.002, 0.004, 0.005, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)
SLOW_USERS = 8  # of each batch go the slow way, too
BATCHES, CURVES = 12, 5
CONVNCF = {  # RecBole's defaults
    "embedding_size": 64,
    "cnn_channels": [1, 32, 32, 32, 32],
    "cnn_kernels": [4, 4, 2, 2],
    "cnn_strides": [4, 4, 2, 2],
    "dropout_prob": 0.2,
    "reg_weights": [0.1, 0.1],
    "train_method": "no_pretrain",
    "pre_model_path": "",
}
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}


class DenseMLP(nn.Module):
    """The published network with dense rows, and the names of `MLP`'s weights."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = lambda: rows  # [users, items], 0 and 1; a function, so that copies of the model share them
        users, items = rows.shape
        self.pair = nn.ModuleDict({"user": nn.Linear(items, 512), "item": nn.Linear(users, 512)})
        self.pair["merge"] = nn.Linear(1024, 512)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(HIDDEN, HIDDEN[1:]))
        self.predict_layer = nn.Linear(16, 1)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [P]."""
        x = torch.cat([self.pair["user"](self.rows()[users]), self.pair["item"](self.rows().T[items])], dim=1)
        x = self.pair["merge"](x)
        for layer in self.hidden:
            x = layer(functional.relu(x))
        return self.predict_layer(functional.relu(x)).squeeze(1)


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
                w, g = weight.view(len(weight), -1), weight.grad.flatten(1)
                norms = g.norm(dim=1, keepdim=True)
                w += torch.where(norms > 0, radius * w.norm(dim=1, keepdim=True) * g / norms, 0.0)
        return twin(users, items)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that some work takes, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


class Race:
    """Our engine and the published way on the same users, batch after batch.

    Args:
        model: attacked by our engine.
        twin: copied for each user, with the same weights.
        radii: of the attack, each of which the published way runs anew.
    """

    def __init__(self, model: nn.Module, twin: nn.Module, radii: tuple[float, ...]) -> None:
        self.model, self.twin, self.radii = model.eval(), twin.eval(), radii
        self.weights = {weight: parameter for weight, (_, parameter) in matrices(model).items()}
        self.choice: SelectedEngine | None = None
        self.fast: list[float] = []  # users per second
        self.slow: list[float] = []
        self.worst = 0.0

    def run(self, number: int, interaction: Any, owner: Tensor) -> None:
        """Let both attack a batch; with the first one, the engine is chosen."""
        index, mask = rectangle(owner)
        rows = Rows(interaction.interaction)[index.flatten()]
        batch = UserBatch(self.model, self._score, self.weights, rows, mask)
        if self.choice is None:
            self.choice = select_engine(batch, rows=take, rebuild=Rows)
            return
        few = [rows[torch.arange(u * index.shape[1], (u + 1) * index.shape[1])] for u in range(SLOW_USERS)]
        works = (partial(self._ours, batch), partial(self._theirs, few))
        times, results = zip(*(timed(work) for work in (works if number % 2 else works[::-1])))
        (fast, slow), (ours, theirs) = (pair if number % 2 else pair[::-1] for pair in (times, results))
        self.fast.append(len(mask) / fast)
        self.slow.append(len(few) / slow)
        off = [float((a[: len(b)] - torch.stack(b)).abs().max() / a.abs().max()) for a, b in zip(ours, theirs)]
        self.worst = max(self.worst, *off)

    def _score(self, rows: Rows) -> Tensor:
        return self.model(rows.columns["user_id"], rows.columns["item_id"])

    def _ours(self, batch: UserBatch) -> list[Tensor]:
        assert self.choice is not None
        found = []
        for part in grouped(batch, self.choice.rows):
            engine = self.choice.make(part)
            found.append([engine.logits(engine.steepest(engine.ball(radius))) for radius in self.radii])
        return [torch.cat(each) for each in zip(*found)]

    def _theirs(self, few: list[Rows]) -> list[list[Tensor]]:
        return [[published(self.twin, own, radius) for own in few] for radius in self.radii]


def per_user(name: str, race: Race, loader: Any) -> list[str]:
    """Return a row of the table: users per second each way, their ratio, peak memory, the largest difference."""
    before = reset_peak()
    for number, (interaction, owner, _, _) in zip(range(BATCHES + 1), loader):
        race.run(number, interaction, owner)
    low, middle, high = statistics.quantiles([a / b for a, b in zip(race.fast, race.slow)], n=4)
    memory = resident(Path("/proc/self/status"))[1] - before
    assert race.choice is not None
    return [
        name,
        race.choice.name,
        str(len(race.radii)),
        f"{statistics.median(race.slow):.3g}",
        f"{statistics.median(race.fast):.3g}",
        f"{middle:.1f}",
        f"{low:.1f}-{high:.1f}",
        f"{memory:.0f}",
        f"{race.worst:.0e}",
    ]


def reset_peak() -> float:
    """Let the peak of the resident set start anew; return the resident set, MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident(Path("/proc/self/status"))[0]


def curve(trainer: Any, data: Any, methods: tuple[str, ...]) -> list[float]:
    """Return, for each repetition, the time of a curve of ten radii in plain evaluations."""
    threat = Perturbation(methods, "hidden", (0.0, *RADII), iterations=1)

    def attacked() -> Any:
        return robustness.under_attack(trainer, Data(data.train, None, data.test), Attack((threat,)), defense="none")

    def plain() -> Any:
        return trainer.evaluate(data.test, load_best_model=False)

    plain()
    ratios = []
    for number in range(CURVES):
        (whole, _), (one, _) = (timed(w) for w in ((attacked, plain) if number % 2 else (plain, attacked)))
        ratios.append(whole / one if number % 2 else one / whole)
    return ratios


def networks(config: Any, neumf: nn.Module, dataset: Any) -> list[tuple[str, nn.Module, nn.Module]]:
    """Return name, model and the twin that is copied; all with random weights."""
    seen = dataset.inter_matrix(form="coo").toarray() > 0
    config["mlp_hidden_size"] = None  # NeuMF's until here
    dense, sparse = DenseMLP(torch.tensor(seen, dtype=torch.float32)), MLP(config, dataset)
    sparse.load_state_dict(dense.state_dict())
    for key, value in CONVNCF.items():
        config[key] = value
    convolutions = ConvNCF(config, dataset)
    return [
        ("NeuMF", neumf, neumf),
        ("MLP, nine layers", dense, dense),
        ("MLP, nine layers, sparse rows", sparse, dense),
        ("ConvNCF", convolutions, convolutions),
    ]


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    options = {"model": "NeuMF", "dataset": "ml-100k", "state": "error", "defense": "none", "show_progress": False}
    given = {name: yaml.safe_load(value) for name, value in (o.lstrip("-").split("=", 1) for o in sys.argv[1:])}
    sys.argv = sys.argv[:1]
    config = RAWPConfig(config_dict={**options, "eval_args": LEAVE_ONE_OUT, **given})
    data, model = prepare(config)
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.eval_collector.data_collect(data.train)
    loader = candidates.sampled_loader(config, data.test, 99)
    with candidates.frozen(loader, candidates.draw(loader, 2020)):
        rows = [
            per_user(name, Race(network, twin, radii), loader)
            for name, network, twin in networks(config, model, data.train._dataset)
            for radii in (RADII[3:4], RADII)
        ]
    headers = ["model", "way", "radii", "copies: users/s", "ours: users/s", "ratio", "quartiles", "MiB", "difference"]
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    for methods in (("fgsm",), ("noise", "fgsm")):
        low, middle, high = statistics.quantiles(curve(trainer, data, methods), n=4)
        print(f"\n{' and '.join(methods)}: ten radii cost {middle:.2f} plain evaluations ({low:.2f}-{high:.2f})")
    print(f"\n{environment.describe(config['device'])}")


if __name__ == "__main__":
    main()
