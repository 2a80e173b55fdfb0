"""The weakest module is found, and its criticality is the number that the definition says."""

from __future__ import annotations

import math

import pytest
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from torch import nn

from recbole_rawp.config.settings import Criticality
from recbole_rawp.core import restoring
from recbole_rawp.core.selection import modules
from recbole_rawp.host.batches import fixed_batches, loader_generators
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.training.stage2 import criticality
from recbole_rawp.training.trainer import RAWPTrainer


class TwoLinear(GeneralRecommender):
    """L = w2 . W1 x for one fixed x: linear in each of its two modules, so that the worst rise has a closed form."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.first = nn.Linear(3, 2, bias=False)
        self.second = nn.Linear(2, 1, bias=False)
        self.x = torch.tensor([1.0, -2.0, 0.5])
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]]))
            self.second.weight.copy_(torch.tensor([[2.0, -1.0]]))

    def calculate_loss(self, interaction):
        return self.second(self.first(self.x)).sum()


@pytest.fixture
def linear(settings):
    config = RAWPConfig(config_dict=settings("NeuMF", defense="none"))
    data, _ = prepare(config)
    return RAWPTrainer(config, TwoLinear(config, data.train._dataset)), data


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_value_and_order_on_two_linear_layers_are_the_closed_form(linear, granularity, steps):
    trainer, data = linear
    model, radius = trainer.model, 0.1
    W1, w2, x = model.first.weight.detach(), model.second.weight.detach(), model.x
    if granularity == "tensor":
        first = radius * W1.norm() * w2.norm() * x.norm()
    else:
        first = radius * (W1.norm(dim=1) * w2[0].abs()).sum() * x.norm()
    second = radius * w2.norm() * (W1 @ x).norm()  # one row: the same in both
    rows = criticality.rank(
        trainer,
        data.train,
        None,
        weights=perturbed_weights(model, "hidden"),
        settings=Criticality(radius, granularity, steps, batches=2),
    )
    expected = sorted([("first", float(first)), ("second", float(second))], key=lambda pair: -pair[1])
    assert [row.module for row in rows] == [name for name, _ in expected]
    loss = float(w2 @ W1 @ x)
    for row, (_, rise) in zip(rows, expected):
        assert row.rise == pytest.approx(rise, rel=1e-5) and row.loss == pytest.approx(loss)
        assert row.relative_rise == pytest.approx(rise / abs(loss), rel=1e-5) and "drop" not in row.columns()


def test_omega_is_the_one_step_rise_of_each_tensor_with_mean_1(linear):
    trainer, data = linear
    W1, w2, x = trainer.model.first.weight.detach(), trainer.model.second.weight.detach(), trainer.model.x
    rises = torch.stack([W1.norm() * w2.norm() * x.norm(), w2.norm() * (W1 @ x).norm()])
    weights = perturbed_weights(trainer.model, "hidden")
    omega = criticality.omega(trainer, data.train, weights=weights, settings=Criticality(0.1, "tensor", 10, 2))
    assert list(omega.values()) == pytest.approx((rises / rises.mean()).tolist(), rel=1e-4)


class ManyLinear(TwoLinear):
    """L = sum of the sums of weights whose worst rises are known; one of them is NaN once it moves."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        del self.first, self.second
        self.parts = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(4))
        with torch.no_grad():
            for size, part in zip((1.0, 3.0, 2.0, 4.0), self.parts):
                part.weight.fill_(size)

    def calculate_loss(self, interaction):
        broken = self.parts[2].weight.sum()
        return sum(part.weight.sum() for part in self.parts) + broken + torch.where(broken > 8, math.nan, 0.0)


def test_a_rise_that_is_not_a_number_ranks_last_and_is_said(settings, caplog):
    """Sorting by NaN leaves any order, so that another module than the weakest would be repaired."""
    config = RAWPConfig(config_dict=settings("NeuMF", defense="none"))
    data, _ = prepare(config)
    trainer = RAWPTrainer(config, ManyLinear(config, data.train._dataset))
    weights = perturbed_weights(trainer.model, "hidden")
    how = Criticality(0.1, "tensor", 1, batches=1)
    rows = criticality.rank(trainer, data.train, None, weights=weights, settings=how)
    assert [row.module for row in rows] == ["parts.3", "parts.1", "parts.0", "parts.2"] and math.isnan(rows[-1].rise)
    (said,) = [record.message for record in caplog.records if "criticality" in record.message]
    assert "worst change of parts.2 is not a number" in said
    omega = criticality.omega(trainer, data.train, weights=weights, settings=how)
    assert list(omega.values()) == pytest.approx([0.5, 1.5, 0.0, 2.0], rel=1e-4)


def trained(settings, name="NeuMF", **overrides):
    config = RAWPConfig(config_dict=settings(name, defense="none", **overrides))
    data, model = prepare(config)
    trainer = RAWPTrainer(config, model)
    trainer.fit(data.train, data.valid, saved=False)
    return trainer, data


def test_each_row_is_projected_ascent_on_that_module_alone_written_in_place(settings):
    """The oracle: for one module, step, project row by row, evaluate, copy back; the others never move."""
    trainer, data = trained(settings, epochs=8)
    model, how = trainer.model, Criticality(0.2, "row", 3, batches=2)
    rows = criticality.rank(trainer, data.train, data.valid, weights=perturbed_weights(model, "hidden"), settings=how)
    assert [row.rise for row in rows] == sorted((row.rise for row in rows), reverse=True)
    model.eval()
    batches = fixed_batches(data.train, 2, trainer.device)
    clean = trainer.evaluate(data.valid, load_best_model=False)[trainer.valid_metric]
    for row in rows:
        weight = model.get_parameter(row.weights)
        start = weight.detach().clone()
        bound = how.radius * start.norm(dim=1, keepdim=True)
        for _ in range(how.steps):
            (g,) = torch.autograd.grad(sum(model.calculate_loss(batch) for batch in batches), [weight])
            with torch.no_grad():
                norm = g.norm(dim=1, keepdim=True)
                step = torch.where(norm > 0, 2.5 / how.steps * bound * g / norm, 0.0)
                delta = weight - start + step
                weight.copy_(start + delta * (bound / delta.norm(dim=1, keepdim=True)).nan_to_num(1.0).clamp(max=1.0))
        loss = float(sum(model.calculate_loss(batch) for batch in batches)) / 2
        assert row.worst_loss == pytest.approx(loss, rel=1e-4)
        attacked = trainer.evaluate(data.valid, load_best_model=False)[trainer.valid_metric]
        assert row.drop == pytest.approx(clean - attacked, abs=2e-3)
        with torch.no_grad():
            weight.copy_(start)


@pytest.mark.parametrize("name", ["NeuMF", "DCN", "GRU4Rec", "DiffRec"])
def test_ranking_leaves_weights_generators_and_state_as_they_were(settings, name):
    trainer, data = trained(settings, name)
    trainer.model.train()
    before = {n: value.clone() for n, value in trainer.model.state_dict().items()}
    generators = [g.get_state() for loader in data[:2] for g in loader_generators(loader)]
    rng = restoring.rng_state()
    weights = perturbed_weights(trainer.model, "hidden")
    rows = criticality.rank(trainer, data.train, data.valid, weights=weights, settings=Criticality(0.1, "row", 2, 2))
    assert {n for row in rows for n in row.weights.split(",")} == set(weights)
    assert all(torch.equal(before[n], value) for n, value in trainer.model.state_dict().items())
    after = [g.get_state() for loader in data[:2] for g in loader_generators(loader)]
    assert all(map(torch.equal, generators, after)) and trainer.model.training
    now = restoring.rng_state()
    assert now[0] == rng[0] and torch.equal(now[2], rng[2]) and (now[1][1] == rng[1][1]).all()


def test_where_less_is_better_a_drop_is_a_rise(settings):
    trainer, data = trained(settings, "DCN", valid_metric="LogLoss", epochs=4)
    weights = perturbed_weights(trainer.model, "hidden")
    rows = criticality.rank(trainer, data.train, data.valid, weights=weights, settings=Criticality(0.5, "tensor", 5, 2))
    assert rows[0].drop == pytest.approx(rows[0].attacked - rows[0].clean) and rows[0].drop > 0


def test_a_module_is_the_leaf_that_owns_the_weight_and_a_raw_parameter_is_its_own():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.raw = nn.Parameter(torch.ones(2, 2))
            self.gru = nn.GRU(2, 2)
            self.stack = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    names = [name for name, p in Mixed().named_parameters() if p.dim() > 1]
    assert modules(Mixed(), names) == {
        "raw": ["raw"],
        "gru": ["gru.weight_ih_l0", "gru.weight_hh_l0"],
        "stack.0": ["stack.0.weight"],
    }


def test_stage_1_refreshes_omega_every_k_epochs(settings, monkeypatch):
    calls = []
    measure = criticality.omega

    def spy(trainer, *args, **kwargs):
        calls.append(max(trainer.train_loss_dict, default=-1) + 1)
        return measure(trainer, *args, **kwargs)

    monkeypatch.setattr(criticality, "omega", spy)
    overrides = {"rawp_layer_weights": "criticality", "criticality_every": 3, "epochs": 8, "rawp_warmup_epochs": 1}
    config = RAWPConfig(config_dict=settings("NeuMF", defense="rawp_reference", **overrides))
    data, model = prepare(config)
    trainer = RAWPTrainer(config, model)
    trainer.fit(data.train, data.valid, saved=False)
    assert calls == [1, 4, 7]
    omega = list(trainer.objective.omega.values())
    assert sum(omega) / len(omega) == pytest.approx(1) and max(omega) > 1.05 and min(omega) >= 0
