"""Is the hardened loss, and its gradient, the one that the slow way gives?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_rawp.core.gradients import combine, total
from recbole_rawp.core.objective import Objective, Recipe
from recbole_rawp.core.selection import select
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import perturbed_weights
from tests import oracle


class TiedToy(nn.Module):
    """Two layers that share one weight, with dropout and BatchNorm between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.between = nn.Sequential(nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3))
        self.apply(lambda m: nn.init.normal_(m.weight) if isinstance(m, nn.Linear) else None)

    def calculate_loss(self, batch):
        return self.second(self.between(self.first(batch))).square().mean()


def objective(model, weights, **recipe):
    return Objective(
        model,
        weights,
        Recipe(**{"radius": 0.3, **recipe}),
        omega=dict.fromkeys(weights, 1.0),
        generator=torch.Generator().manual_seed(0),
    )


def model_and_batch(name, settings, dtype):
    torch.manual_seed(0)
    if name == "tied toy":
        model = TiedToy().to(dtype)
        return model, torch.randn(32, 4, dtype=dtype), select(model, "hidden")
    data, model = prepare(RAWPConfig(config_dict=settings(name)))
    batch = fixed_batches(data.train, 1, torch.device("cpu"))[0]
    for field in batch.interaction:
        if batch[field].is_floating_point():
            batch[field] = batch[field].to(dtype)
    model = model.to(dtype)
    return model, batch, perturbed_weights(model, "hidden")


@pytest.mark.parametrize("clean_weight", [0.0, 1.0])
@pytest.mark.parametrize("autocast", [False, True], ids=["float64", "bf16"])
@pytest.mark.parametrize("name", ["NeuMF", "ConvNCF", "GRU4Rec", "DCN", "tied toy"])
def test_loss_gradient_and_statistics_equal_the_in_place_oracle(name, autocast, clean_weight, settings):
    model, batch, weights = model_and_batch(name, settings, torch.float32 if autocast else torch.float64)
    model.train()
    torch.manual_seed(1)
    loss, gradients, buffers = oracle.hardened_gradient(
        model, lambda m, b: m.calculate_loss(b), batch, weights, 0.3, autocast=autocast, clean_weight=clean_weight
    )
    torch.manual_seed(1)
    hardened = objective(model, weights, clean_weight=clean_weight)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        fast = total(hardened(model.calculate_loss, batch))
    fast.backward()

    tolerance = {"rtol": 2e-2, "atol": 1e-3} if autocast else {"rtol": 1e-9, "atol": 1e-12}
    assert float(fast) == pytest.approx(loss, rel=tolerance["rtol"])
    # A bias before BatchNorm has a gradient of 0 but for rounding, which depends on the processor.
    rounding = 1e-2 * torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()
    for parameter_name, parameter in model.named_parameters():
        expected = gradients[parameter_name]
        if expected is None:
            assert parameter.grad is None, parameter_name
        elif autocast:  # bf16 rounds each entry; the whole gradient must agree
            error, size = (parameter.grad - expected).norm(), expected.norm()
            assert error < (tolerance["rtol"] * size if size > rounding else rounding), (parameter_name, float(error))
        else:
            torch.testing.assert_close(
                parameter.grad, expected, msg=lambda m, n=parameter_name: f"{n}: {m}", **tolerance
            )
    if clean_weight == 0:  # else the statistics are those of the pass at w
        for buffer_name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer, buffers[buffer_name], **(tolerance if autocast else {}))


def test_batchnorm_moves_once_and_generators_advance_as_in_one_plain_pass():
    plain, hardened = TiedToy(), TiedToy()
    hardened.load_state_dict(plain.state_dict())
    batch = torch.randn(32, 4)
    torch.manual_seed(3)
    plain.calculate_loss(batch)
    expected = torch.rand(1)
    for clean_weight in (0.0, 1.0):
        for steps in (1, 3):
            hardened.load_state_dict(TiedToy().state_dict() | {"between.0.num_batches_tracked": torch.tensor(0)})
            torch.manual_seed(3)
            loss = objective(hardened, select(hardened, "hidden"), clean_weight=clean_weight, steps=steps)
            loss(hardened.calculate_loss, batch)
            assert torch.equal(torch.rand(1), expected)
            assert hardened.between[0].num_batches_tracked == 1


def test_with_a_clean_pass_the_statistics_are_those_at_w():
    plain, hardened = TiedToy(), TiedToy()
    hardened.load_state_dict(plain.state_dict())
    batch = torch.randn(32, 4)
    plain.calculate_loss(batch)
    objective(hardened, select(hardened, "hidden"), clean_weight=0.5)(hardened.calculate_loss, batch)
    assert torch.equal(plain.between[0].running_mean, hardened.between[0].running_mean)


@pytest.mark.parametrize(
    ("recipe", "calls"),
    [
        ({}, 2),
        ({"direction": "noise"}, 1),
        ({"steps": 3}, 4),
        ({"clean_weight": 1.0}, 2),
        ({"clean_weight": 1.0, "steps": 3}, 4),
        ({"clean_weight": 1.0, "ascent_fraction": 0.5}, 3),
        ({"direction": "adam"}, 2),
    ],
)
def test_no_pass_is_wasted(recipe, calls):
    model, seen = TiedToy(), []

    def loss_function(batch):
        seen.append(len(batch))
        return model.calculate_loss(batch)

    loss = objective(model, select(model, "hidden"), **recipe)(loss_function, torch.randn(32, 4))
    total(loss).backward()
    assert len(seen) == calls
    assert model.first.weight.grad is not None


def test_the_ascent_sees_every_kth_row():
    model, seen = TiedToy(), []

    def loss_function(batch):
        seen.append(batch)
        return model.calculate_loss(batch)

    batch = torch.randn(32, 4)
    objective(model, select(model, "hidden"), ascent_fraction=0.25)(loss_function, batch)
    assert torch.equal(seen[0], batch[::4]) and torch.equal(seen[1], batch)


def test_a_masked_tensor_is_not_touched_and_an_empty_mask_is_the_plain_loss():
    model, batch = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(8, 4)
    weights = select(model, "hidden")
    seen = []

    def loss_function(rows):
        seen.append({name: model.get_parameter(name) for name in weights})
        return model(rows).square().mean()

    hardened = objective(model, weights)
    hardened.mask = {"0.weight": False, "1.weight": True}
    hardened(loss_function, batch)
    assert seen[1]["0.weight"] is weights["0.weight"] and seen[1]["1.weight"] is not weights["1.weight"]
    change = (seen[1]["1.weight"] - weights["1.weight"]).norm() / weights["1.weight"].norm()
    assert float(change) == pytest.approx(0.3, rel=1e-5)
    assert float(hardened.norms["1.weight"][0]) == pytest.approx(0.3 * float(weights["1.weight"].norm()), rel=1e-5)

    seen.clear()
    hardened.mask = dict.fromkeys(weights, False)
    hardened(loss_function, batch)
    assert len(seen) == 1
    assert (hardened.batches, hardened.perturbed, hardened.norms["1.weight"][1]) == (2, 1, 1)


def test_a_small_last_batch_keeps_two_rows_for_batchnorm():
    model, seen = TiedToy(), []
    hardened = objective(model, select(model, "hidden"), ascent_fraction=0.25)
    for rows in (1, 2, 3, 5, 8, 9):
        seen.append(len(torch.zeros(rows)[:: hardened.stride(torch.zeros(rows))]))
    assert seen == [1, 2, 3, 3, 2, 3]


def test_draws_follow_their_ranges_and_batches_redraw():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    hardened = objective(model, select(model, "hidden"), radius_jitter=0.2, mask_probability=0.5, mask_every="batch")
    stretches, masks = set(), set()
    for _ in range(40):
        hardened(lambda rows: model(rows).square().mean(), torch.randn(8, 4))
        stretches.add(hardened.stretch)
        masks.add(tuple(hardened.mask.values()))
    assert 0.8 <= min(stretches) < 0.9 < 1.1 < max(stretches) <= 1.2
    assert len(masks) == 4


def test_tuples_are_combined_part_by_part():
    a, b = torch.tensor(2.0), torch.tensor(3.0)
    assert combine((0.5, (a, b)), (2.0, (b, a))) == (torch.tensor(7.0), torch.tensor(5.5))
    assert combine((1.0, a)) is a


def test_a_loss_that_ignores_a_weight_gives_it_no_delta():
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    hardened = objective(model, select(model, "hidden"))
    hardened(lambda rows: model[0](rows).square().mean(), torch.randn(8, 4))
    assert float(hardened.norms["0.weight"][0]) > 0 and float(hardened.norms["1.weight"][0]) == 0
