"""Does the perturbation reach the loss, and its gradient the weights, in bf16 and fp16?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from recbole_rawp import attack_checkpoint
from recbole_rawp.core import gradients, objective
from recbole_rawp.core.objective import Objective, Recipe
from recbole_rawp.core.selection import select
from tests.training import QUICK, run, same, stage_1


def matmul_dtype(device):
    one = torch.ones(1, 1, device=device)
    return (one @ one).dtype


@pytest.fixture
def passes(monkeypatch):
    """The passes of the objective: (dtype of a product, whether at w + delta, the loss)."""
    seen, shifted_loss = [], objective.shifted_loss

    def spy(model, loss_function, batch, weights, delta):
        loss = shifted_loss(model, loss_function, batch, weights, delta)
        seen.append(
            (matmul_dtype(next(model.parameters()).device), delta is not None, float(objective.total(loss).detach()))
        )
        return loss

    monkeypatch.setattr(objective, "shifted_loss", spy)
    return seen


def test_the_perturbation_reaches_the_loss_inside_autocast(settings, passes):
    _, single = stage_1(settings, defense="none")
    _, mixed = stage_1(settings, defense="none", enable_amp=True)
    assert not same(single, mixed)  # it is on
    stage_1(settings, defense="awp", rawp_clean_weight=0.0, rawp_radius=0.5, enable_amp=True)
    assert {dtype for dtype, _, _ in passes} == {torch.bfloat16}
    assert [moved for _, moved, _ in passes] == [False, True] * (len(passes) // 2)
    for (_, _, clean), (_, _, adversarial) in zip(passes[::2], passes[1::2]):
        assert adversarial > clean


def hardened_layer(layer):
    return Objective(layer, select(layer, ["weight"]), Recipe(0.5), omega={"weight": 1.0}, generator=torch.Generator())


def test_a_change_in_place_would_be_lost_inside_autocast_and_ours_is_not():
    layer, rows = nn.Linear(4, 4), torch.randn(8, 4)
    with torch.autocast("cpu"):
        at_w = layer(rows)
        layer.weight.data.mul_(2)
        assert torch.equal(layer(rows), at_w)  # the cast of before is still cached
        layer.weight.data.div_(2)
        loss = hardened_layer(layer)(lambda batch: layer(batch).square().mean(), rows)
        assert loss > 1.1 * at_w.square().mean()


def test_a_weight_that_is_used_several_times_differs_from_plain_by_autocasts_cache_alone(settings, zero, monkeypatch):
    """Of a parameter, not of w + delta, autocast keeps one cast, in which the gradients of all uses add up in bf16."""
    mixed = {"enable_amp": True, "rawp_clean_weight": 0.0, "epochs": 1}
    _, cached = stage_1(settings, "GRU4Rec", defense="none", **mixed)
    monkeypatch.setattr(torch, "autocast", partial(torch.autocast, cache_enabled=False))
    _, plain = stage_1(settings, "GRU4Rec", defense="none", **mixed)
    norms = zero()
    _, zeroed = stage_1(settings, "GRU4Rec", defense="awp", **mixed)
    assert min(norms) > 0 and same(plain, zeroed) and not same(plain, cached)


def test_losses_in_bf16_are_summed_in_float32():
    layer = nn.Linear(1, 1)
    hardened = hardened_layer(layer)
    for _ in range(600):  # a sum in bf16 ends at 256: 256 + 1 = 256
        hardened(lambda batch: (layer.weight * 0 + 1).sum().bfloat16(), None)
    assert float(hardened.losses) == hardened.perturbed == 600


def test_mixed_precision_trains_ranks_repairs_and_attacks_and_measures_in_float32(settings):
    result = run(settings, enable_amp=True)
    assert len(result["repair"]) == 1
    single = attack_checkpoint("out/model.pth", config_dict={"enable_amp": False, "rawp_output_dir": "again", **QUICK})
    final = [r.value for r in result["records"] if r.stage == 2]
    assert final and [r.value for r in single["records"]] == final


@pytest.mark.parametrize(("size", "lost"), [(1e-8, "vanish"), (1e3, "overflow")])
def test_in_fp16_the_ascent_scales_the_loss_against_underflow_and_overflow(size, lost, monkeypatch):
    torch.manual_seed(0)
    model, rows = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), torch.randn(64, 8)
    weights = select(model, "hidden")

    def loss():
        return size * model(rows).float().square().sum(1).mean()

    exact = objective.gradients(loss(), weights)
    with torch.autocast("cpu", dtype=torch.float16):
        with torch.autograd.set_detect_anomaly(False):
            naive = torch.autograd.grad(
                loss() * (gradients.SCALES[0] if lost == "overflow" else 1), [*weights.values()]
            )
        monkeypatch.setattr(gradients, "low_precision", lambda: True)
        with torch.autograd.set_detect_anomaly(True):  # as RecBole's SINE leaves it, and the sequential models with it
            found = objective.gradients(loss(), weights)
    assert not all(g.isfinite().all() and g.any() for g in naive)
    for name, gradient in exact.items():
        torch.testing.assert_close(found[name], gradient, rtol=0.02, atol=0.02 * float(gradient.abs().max()))


def test_fp16_with_a_scaler_of_the_gradients(settings, zero, passes, monkeypatch):
    """RecBole's loop with CUDA's precision and scaler, on the CPU."""
    if not hasattr(torch, "amp") or not hasattr(torch.amp, "GradScaler"):
        pytest.skip("this torch has no scaler for the CPU")
    scales = []

    class Scaler(torch.amp.GradScaler):
        def __init__(self, enabled):
            super().__init__("cpu", enabled=True)

        def step(self, optimizer):
            scales.append(self.get_scale())
            return super().step(optimizer)

    monkeypatch.setattr("recbole.trainer.trainer.amp.GradScaler", Scaler)
    monkeypatch.setattr(gradients, "low_precision", lambda: True)
    fast = {"enable_amp": True, "rawp_radius": 0.5, "rawp_clean_weight": 0.0}
    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    try:
        _, plain = stage_1(settings, defense="none", **fast)
        _, hardened = stage_1(settings, defense="awp", **fast)
        norms = zero()
        _, zeroed = stage_1(settings, defense="awp", **fast)
    finally:
        torch.set_autocast_dtype("cpu", before)
    assert {dtype for dtype, _, _ in passes} == {torch.float16} and set(scales) == {2.0**16}
    assert all(passes[i + 1][2] > passes[i][2] for i in range(0, len(passes) // 2, 2))
    assert min(norms) > 0 and same(plain, zeroed) and not same(plain, hardened)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 with CUDA's scaler needs a GPU")
def test_fp16_with_a_scaler_on_a_gpu(settings, passes):
    amp = {"enable_amp": True, "enable_scaler": True, "use_gpu": True, "gpu_id": "0"}
    trainer, weights = stage_1(settings, defense="awp", rawp_clean_weight=0.0, rawp_radius=0.5, **amp)
    assert trainer.enable_scaler and trainer.device.type == "cuda"
    assert {dtype for dtype, _, _ in passes} == {torch.float16}
    assert all(passes[i + 1][2] > passes[i][2] for i in range(0, len(passes), 2))
    assert all(value.isfinite().all() for value in weights.values())
    assert len(run(settings, **amp)["repair"]) == 1
