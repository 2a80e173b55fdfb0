"""Every model of RecBole trains hardened, holds still under attack, and lets itself be repaired.

One case per model, minutes in all: `pytest -m zoo`. Each model's variants, too: `pytest -m "zoo or variants"`.
In parts, `ZOO_SHARD=1/2 pytest -m zoo`; and with `--support-table=docs/models.md` what was found is written there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import recbole.model
import torch
from recbole.utils import get_trainer

from recbole_rawp.config.settings import Attack
from recbole_rawp.core import objective, restoring
from recbole_rawp.core.overlay import CACHES, clear_caches
from recbole_rawp.core.selection import modules
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import robustness, self_checks
from recbole_rawp.evaluation.records import LOSS
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.models.recboles import CLASS, NO_GRADIENT
from recbole_rawp.host.preparation import Data
from recbole_rawp.host.ranking.candidates import draw, frozen, sampled_loader
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.threats.adversarial.perturbation import Perturbation
from recbole_rawp.training.radius import rule
from recbole_rawp.training.stage2 import repair, tuning
from recbole_rawp.training.trainer import RAWPFTTrainer
from tests import zoo
from tests.training import made

EVERY = zoo.cases()
CASES = {label: case for label, case in EVERY.items() if case.model not in NO_GRADIENT}
ALWAYS = {"rawp_mask_probability": 1.0, "rawp_radius_jitter": 0.0, "attack_batches": 2, "criticality_steps": 2}
State = dict[str, torch.Tensor]


def test_every_model_of_recbole_is_in_the_zoo_or_refused():
    files = Path(recbole.model.__file__).parent.glob("*_recommender/*.py")
    known = {name for file in files for name in CLASS.findall(file.read_text()) if name.lower() == file.stem}
    assert {case.model for case in EVERY.values()} == known
    assert (len({case.model for case in CASES.values()}), len(NO_GRADIENT)) == (84, 10)
    assert (len(CASES), len(EVERY)) == (136, 148)


def shard(cases: dict[str, zoo.Case]) -> list[Any]:
    """Return this run's part of the cases; variants carry a mark of their own."""
    marks = {True: pytest.mark.variants, False: pytest.mark.zoo}
    return [pytest.param(label, marks=marks[cases[label].variant]) for label in zoo.shard(list(cases))]


@pytest.mark.parametrize("label", shard({label: case for label, case in EVERY.items() if label not in CASES}))
def test_a_model_without_gradient_is_refused_by_name_and_reason(label, support):
    config = EVERY[label].config
    with pytest.raises(InputError) as caught:
        RAWPConfig(config_dict=config)
    assert config["model"] in str(caught.value) and NO_GRADIENT[config["model"]] in str(caught.value)
    support(label, result=f"refused: {NO_GRADIENT[config['model']]}")


@pytest.mark.parametrize("label", shard(CASES))
def test_model(label, zoo_path, support, tmp_path):
    case = CASES[label]
    if case.needs:
        support(label, result=f"skipped: needs {case.needs}")
        pytest.importorskip(case.needs)
    runs = Runs(case, zoo_path, tmp_path)
    broken = {}
    for claim in PRETRAINING if case.pretraining else CLAIMS:
        try:
            claim(runs)
        except (AssertionError, InputError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            broken[claim.__name__] = error
    support(label, **runs.found, result="fails: " + ", ".join(broken) if broken else "passed")
    if broken:
        text = "\n".join(f"{key}: {type(error).__name__}: {error}" for key, error in broken.items())
        raise AssertionError(text) from next(iter(broken.values()))


@dataclass
class Runs:
    """The runs of one case, each made when it is first asked for, and what they showed."""

    case: zoo.Case
    data_path: str
    folder: Path
    notes: list[str] = field(default_factory=list)
    pretrained: str = ""
    per_user: str = ""

    def start(self, **options: Any) -> tuple[RAWPFTTrainer, Data]:
        """Return a trainer of the model before its first epoch, and the data."""
        settings = {**self.case.config, "data_path": self.data_path, "rawp_target": self.case.target, **ALWAYS}
        if self.case.before:
            settings[self.case.file] = self.pretrained = self.pretrained or self.pretrain(settings)
        return start(settings | options)

    def pretrain(self, settings: dict[str, Any]) -> str:
        """Run the stages before this one in order, and return the last one's checkpoint."""
        file = ""
        for stage in self.case.before:
            trainer, data = start(
                {**settings, **stage, "defense": "none", self.case.file: file, "checkpoint_dir": "pre"}
            )
            trainer.fit(data.train, data.valid)
            file = trainer.saved_model_file
        return file

    def plain(self) -> State:
        """Train without defense; return the weights."""
        trainer, data = self.start(defense="none")
        trainer.fit(data.train, data.valid, saved=False)
        return weights_of(trainer.model)

    @cached_property
    def first(self) -> State:
        """Plain weights."""
        return self.plain()

    @cached_property
    def repaired(self) -> Repaired:
        """A run of both stages, watched."""
        with pytest.MonkeyPatch.context() as patch:
            return Repaired(self, patch)

    @property
    def found(self) -> dict[str, str]:
        """What the table says of this case."""
        if "repaired" not in vars(self):
            return {"note": self.case.note}
        model, config = self.repaired.trainer.model, self.repaired.trainer.config
        selected = perturbed_weights(model, "hidden") if self.case.hidden else {}
        share = sum(w.numel() for w in selected.values()) / sum(p.numel() for p in model.parameters())
        notes = [f"with {self.case.needs}" if self.case.needs else "", self.case.note, *self.notes]
        return {
            "trainer": get_trainer(config["MODEL_TYPE"], config["model"]).__name__,
            "hidden": f"{len(selected)} ({share:.0%})" if selected else "none",
            "per user": self.per_user,
            "note": "; ".join(filter(None, notes)),
        }


def start(settings: dict[str, Any]) -> tuple[RAWPFTTrainer, Data]:
    """Return a hardened trainer before its first epoch, and the data."""
    return made(RAWPConfig(config_dict=settings))


def weights_of(model: torch.nn.Module) -> State:
    """Return a copy of the model's state."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def different(a: State, b: State) -> set[str]:
    """Return the names under which two states differ in any bit; NaN equals itself."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name].nan_to_num(7e7), b[name].nan_to_num(7e7))}


def with_delta_times_zero(runs: Runs) -> None:
    """A hardened run whose delta is multiplied by 0 equals the plain one, with the whole ascent executed."""
    assert all(value.isfinite().all() for value in runs.first.values())
    noise = different(runs.first, runs.plain())
    ascend, calls = objective.ascend, []

    def zero(*args: Any, **kwargs: Any) -> State:
        delta = ascend(*args, **kwargs)
        calls.append(sum(bool(d.any()) for d in delta.values()))
        return {name: d * 0 for name, d in delta.items()}

    trainer, data = runs.start(defense="rawp_reference", rawp_clean_weight=0.0, rawp_pretraining=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "ascend", zero)
        trainer.fit(data.train, data.valid, saved=False)
    assert len(calls) > 0 and max(calls) > 0, "no ascent found a gradient"
    if noise:
        runs.notes.append("a plain run does not equal itself")
        return
    assert not different(runs.first, weights_of(trainer.model))


def the_default_finds_its_radius(runs: Runs) -> None:
    """Stage 1 of the default goes on from the plain model, in the direction of the training steps themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule, "FIRST", 1)
        patch.setattr(rule, "FEWEST", 2)
        trainer, data = runs.start(defense="rawp")
        trainer.fit(data.train, data.valid, saved=False)
    search = trainer.state.search
    assert search is not None and trainer.settings.training.recipe.start == "free"
    assert len(search.path) == search.total == 3 and search.chosen is not None and search.kept is not None
    assert different(search.kept["weights"], weights_of(trainer.model)) or search.chosen.passed


class Repaired:
    """A run of both stages with checkpoints; in it, what delta moved and what stage 2 changed is written down."""

    def __init__(self, runs: Runs, patch: pytest.MonkeyPatch) -> None:
        self.trainer, self.data = runs.start(
            defense="rawp_ft_reference",
            ft_epochs=1,
            ft_modules=1,
            checkpoint_dir=str(runs.folder / "saved"),
        )
        self.selected = perturbed_weights(self.trainer.model, runs.case.target)
        self.moved: list[SimpleNamespace] = []
        self.tuned: list[SimpleNamespace] = []
        self.stage_1: State = {}
        patch.setattr(objective, "shifted_loss", self.watch_shift(objective.shifted_loss))
        patch.setattr(tuning, "tune", self.watch_tune(tuning.tune))
        patch.setattr(repair, "load_best", self.watch_end(repair.load_best))
        self.trainer.fit(self.data.train, self.data.valid)

    def watch_shift(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Note which parameters the loss sees changed in the first perturbed passes."""

        def shifted_loss(model: Any, loss_function: Any, batch: Any, weights: State, delta: State | None) -> Any:
            if delta is None or len(self.moved) >= 3 or self.stage_1:
                return original(model, loss_function, batch, weights, delta)
            before = places(model)

            def looking(batch: Any) -> Any:
                seen = {name for name, weight in places(model).items() if not torch.equal(weight, before[name])}
                self.moved.append(SimpleNamespace(seen=seen, due={n for n, d in delta.items() if d.any()}))
                return loss_function(batch)

            return original(model, looking, batch, weights, delta)

        return shifted_loss

    def watch_tune(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Note the weights before and after tuning, which interpolation then mixes."""

        def tune(trainer: Any, weights: State, parameters: State, scores: Any) -> None:
            before = weights_of(trainer.model)
            original(trainer, weights, parameters, scores)
            changed = different(before, weights_of(trainer.model))
            self.tuned.append(SimpleNamespace(names=set(parameters), changed=changed))

        return tune

    def watch_end(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Note the weights at the end of stage 1."""

        def load_best(trainer: Any) -> None:
            self.stage_1 = weights_of(trainer.model)
            original(trainer)

        return load_best


def places(model: torch.nn.Module) -> State:
    """Return every tensor that stands where a parameter does: path -> tensor; a tied one under each of its paths.

    Of a recurrent layer these are the tensors that it computes with, which it holds in a list of their own.
    """
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        own = dict(module._parameters)
        if isinstance(module, torch.nn.RNNBase):
            own |= zip(module._flat_weights_names, module._flat_weights)
        found |= {f"{path}.{leaf}".lstrip("."): weight for leaf, weight in own.items() if weight is not None}
    return found


def paths(model: torch.nn.Module) -> dict[str, set[str]]:
    """Return the paths of each parameter: one, or several if it is tied."""
    every = places(model)
    return {name: {path for path, other in every.items() if other is weight} for name, weight in every.items()}


def a_real_delta_changes_training(runs: Runs) -> None:
    """A real delta gives other weights than the plain run."""
    assert runs.repaired.trainer.settings.training.defense == "rawp_ft_reference" and runs.repaired.stage_1
    assert different(runs.first, runs.repaired.stage_1)


def delta_moves_exactly_what_is_selected(runs: Runs) -> None:
    """The overlay shows the loss the selected weights changed, each that has a gradient, and no other."""
    model, selected = runs.repaired.trainer.model, runs.repaired.selected
    assert runs.repaired.moved and all(weight.dim() >= 2 for weight in selected.values())
    tables = [name for name in selected if isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.Embedding)]
    assert not (runs.case.hidden and tables)
    if not runs.case.hidden:
        with pytest.raises(InputError, match="has no hidden weight"):
            perturbed_weights(model, "hidden")
    for moved in runs.repaired.moved:
        assert moved.due and moved.due <= selected.keys()
        assert moved.seen == {path for name in moved.due for path in paths(model)[name]}
    still = selected.keys() - runs.repaired.moved[0].due
    if still:
        runs.notes.append(f"no gradient by {len(still)} of {len(selected)} weights")


def stage_2_changes_the_weakest_module_only(runs: Runs) -> None:
    """One round ranks every module, tunes the weakest, and leaves all other weights and buffers as they were."""
    run = runs.repaired
    progress = run.trainer.state.progress
    assert progress is not None and progress.round == 1
    rises = [row.rise for row in progress.ranking]
    assert {row.module for row in progress.ranking} == modules(run.trainer.model, run.selected).keys()
    assert all(map(math.isfinite, rises)) and rises == sorted(rises, reverse=True)
    (repaired,) = (row.module for row in progress.ranking if row.repaired)
    (tuned,) = run.tuned
    assert repaired == progress.ranking[0].module
    model = run.trainer.model
    other = tuned.changed - {path for name in tuned.names for path in paths(model)[name]}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert tuned.changed & tuned.names and other - frozen == set()
    if other:
        runs.notes.append(f"stage 2 also moves {len(other)} frozen weights that the model derives")


def the_optimizer_holds_every_weight_after_a_load(runs: Runs) -> None:
    """After the best checkpoint is loaded, by an evaluation or to go on, every trained weight is still trained."""
    trainer = runs.repaired.trainer
    every = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    loads = {
        "evaluate": lambda: trainer.evaluate(runs.repaired.data.test, load_best_model=True),
        "resume_checkpoint": lambda: trainer.resume_checkpoint(trainer.saved_model_file),
    }
    for name, load in loads.items():
        load()
        held = {id(p) for opt in trainer.optimizers().values() for group in opt.param_groups for p in group["params"]}
        now = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
        assert not {n for n, p in now.items() if id(p) not in held}, f"{name}: the optimizer lost weights"
        assert {id(p) for p in every} == {id(p) for p in now.values()}, name


def attributes(model: torch.nn.Module) -> dict[str, Any]:
    """Return the numbers, and the sums of small tensors, that modules hold outside their state; caches left out."""
    found = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, (bool, int, float)):
                found[f"{path}.{name}"] = value
            elif isinstance(value, torch.Tensor) and value.layout is torch.strided and not name.startswith(CACHES):
                found[f"{path}.{name}"] = str(value.double().nan_to_num().sum().item())
    return found


def next_numbers() -> tuple[float, float, float]:
    """Return what the generators would draw next."""
    with restoring.rng():
        return random.random(), np.random.rand(), float(torch.rand(()))


def the_attack_moves_the_loss_and_leaves_no_trace(runs: Runs) -> None:
    """Under noise and FGSM the loss changes, records are finite or a check says so, and every bit comes back."""
    trainer, data = runs.repaired.trainer, runs.repaired.data
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # not as an earlier measurement might leave them
        seed(7)
    before, loose, numbers = weights_of(trainer.model), attributes(trainer.model), next_numbers()
    both = ("training", "ranking")
    threat = Perturbation(("noise", "fgsm"), runs.case.target, (0.0, 0.1), losses=both, iterations=1)
    outcome = robustness.under_attack(
        trainer, data, Attack((threat,), batches=2, users=20, negatives=20), defense="rawp_ft_reference"
    )
    assert not different(before, weights_of(trainer.model)) and attributes(trainer.model) == loose
    assert next_numbers() == numbers
    loss = {(r.loss, r.threat, r.level): r.value for r in outcome.records if r.metric == LOSS}
    known = [name for name in both if (name, "fgsm", 0.0) in loss]
    for name in known:
        assert loss[name, "fgsm", 0.1] != loss[name, "fgsm", 0.0] == loss[name, "noise", 0.0] or name == "ranking"
    assert known == list(both), outcome.notes
    still = [name for name in outcome.still if name.endswith("ranking")]
    runs.notes += [f"the ranking loss has no gradient ({name})" for name in still]
    verdicts = {check.name: check for check in self_checks.verify(outcome, None, decimals=4)}
    finite = all(math.isfinite(record.value) for record in outcome.records)
    assert (verdicts["all values are finite"].status == self_checks.PASSED) == finite
    if not finite:
        runs.notes.append(f"not finite: {verdicts['all values are finite'].detail}")
    if outcome.unmoved:
        runs.notes.append(f"scores do not depend on {', '.join(outcome.unmoved)}")


def each_user_is_attacked_alone_or_a_reason_given(runs: Runs) -> None:
    """Radius 0 equals RecBole's own evaluation on the same candidates; the attack leaves every bit as it was."""
    trainer, data = runs.repaired.trainer, runs.repaired.data
    before = weights_of(trainer.model)
    threat = Perturbation(
        ("fgsm",), runs.case.target, (0.0, 0.05), granularity="row", scope="per_user", labels="pseudo", iterations=1
    )
    try:
        loader = sampled_loader(trainer.config, data.test, 10)
        drawn = draw(loader, 1)
        outcome = robustness.under_attack(
            trainer,
            Data(data.train, None, loader),
            Attack((threat,), batches=1),
            defense="rawp_ft_reference",
            candidates=drawn,
        )
    except InputError as error:
        assert str(error).startswith("attack_scope: ")
        runs.per_user = "needs candidates" if "labeled" in str(error) else "needs predict"
        return
    assert not different(before, weights_of(trainer.model))
    clear_caches(trainer.model.modules())
    with frozen(loader, drawn):
        own, again = (trainer.evaluate(loader, load_best_model=False) for _ in range(2))
    clean = {record.metric: record.value for record in outcome.records if record.level == 0}
    if own != again:
        runs.notes.append("its scores are drawn anew on each call")
    else:
        assert clean | own == pytest.approx(clean, abs=0.51e-4)
    assert all(math.isfinite(record.value) for record in outcome.records)
    ways = [word for word in ("vmap", "loop") if any(f"went by {word}" in note for note in outcome.notes)]
    runs.per_user = ways[0] if ways else "hooked"


def pretraining_is_plain_unless_asked(runs: Runs) -> None:
    """A stage of pretraining trains as RecBole's, is hardened where `rawp_pretraining` says so, and is not repaired."""
    results = {}
    for asked in (False, True):
        trainer, data = runs.start(defense="rawp_ft_reference", rawp_pretraining=asked)
        trainer.fit(data.train, data.valid, saved=False)
        assert (trainer.objective is not None) == asked and trainer.state.progress is None
        results[asked] = different(runs.first, weights_of(trainer.model))
    assert not results[False] and results[True]


PRETRAINING = [with_delta_times_zero, pretraining_is_plain_unless_asked]
CLAIMS = [
    with_delta_times_zero,
    the_default_finds_its_radius,
    a_real_delta_changes_training,
    delta_moves_exactly_what_is_selected,
    stage_2_changes_the_weakest_module_only,
    the_optimizer_holds_every_weight_after_a_load,
    the_attack_moves_the_loss_and_leaves_no_trace,
    each_user_is_attacked_alone_or_a_reason_given,
]
