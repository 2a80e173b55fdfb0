"""Are the outputs of hidden layers moved as far as asked, and no others?"""

from __future__ import annotations

import pytest
import torch

from recbole_rawp.core.gradients import total
from recbole_rawp.core.losses.attack_loss import Source
from recbole_rawp.errors import InputError
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.quirks import training_loss
from recbole_rawp.host.weights import hidden_layers
from recbole_rawp.threats.adversarial.activations import ActivationLoss
from recbole_rawp.threats.adversarial.method import METHODS
from recbole_rawp.threats.adversarial.search import universal
from tests.test_evaluation import attacked, outcome, threat, trained, values


@pytest.fixture
def neumf(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=5)))
    trainer.model.eval()
    return trainer, data


def loss_of(trainer, data):
    batches = fixed_batches(data.train, 2, trainer.device)
    source = Source("training", (training_loss(trainer.model),), batches)
    return ActivationLoss(trainer.model, source, hidden_layers(trainer.model))


def test_a_shift_of_a_layer_is_a_change_of_its_bias(neumf):
    """The oracle: output + shift = W x + (b + shift), written in place."""
    trainer, data = neumf
    loss, model = loss_of(trainer, data), trainer.model
    gradient = loss.gradient(None)
    batches = fixed_batches(data.train, 2, trainer.device)
    layers = hidden_layers(model)
    assert gradient.keys() == layers.keys() == {"mlp_layers.mlp_layers.1", "mlp_layers.mlp_layers.4", "predict_layer"}
    biases = [layer.bias for layer in layers.values()]
    expected = torch.autograd.grad(sum(total(model.calculate_loss(batch)) for batch in batches), biases)
    for g, name in zip(expected, layers):
        torch.testing.assert_close(gradient[name], g, rtol=1e-5, atol=1e-8)
    delta = {name: 0.3 * torch.ones_like(g) for name, g in gradient.items()}
    shifted = loss.value(delta)
    with torch.no_grad():
        for bias in biases:
            bias += 0.3
        by_bias = sum(float(model.calculate_loss(batch)) for batch in batches) / 2
    assert shifted == pytest.approx(by_bias, rel=1e-6)


def test_a_relative_radius_is_a_share_of_the_root_mean_square_of_the_outputs(neumf):
    trainer, data = neumf
    loss = loss_of(trainer, data)
    outputs = []
    layer = trainer.model.mlp_layers.mlp_layers[1]
    handle = layer.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    for batch in fixed_batches(data.train, 2, trainer.device):
        trainer.model.calculate_loss(batch)
    handle.remove()
    norms = torch.cat(outputs).norm(dim=1)
    name = "mlp_layers.mlp_layers.1"
    expected = 0.1 * norms.square().mean().sqrt()
    torch.testing.assert_close(loss.ball(0.1, granularity="row").radius[name], expected)
    sign = loss.ball(0.1, granularity="sign").radius[name]
    torch.testing.assert_close(sign, expected / layer.out_features**0.5)
    assert float(loss.ball(0.1, granularity="row", relative=False).radius[name]) == pytest.approx(0.1)


@pytest.mark.parametrize("granularity", ["row", "sign"])
def test_the_attack_keeps_its_budget_and_beats_noise(granularity, neumf):
    trainer, data = neumf
    loss = loss_of(trainer, data)
    bound = loss.ball(0.5, granularity=granularity)
    how = {"steps": 5, "generator": torch.Generator().manual_seed(0)}
    found = {n: METHODS[n].search(universal(loss), bound, **how).delta for n in ("noise", "fgsm", "pgd")}
    for delta in found.values():
        for name, norm in bound.norms(delta).items():
            assert (norm <= bound.radius[name] * (1 + 1e-6)).all()
    noise, fgsm, pgd = (loss.value(found[name]) for name in ("noise", "fgsm", "pgd"))
    assert pgd > noise and fgsm > noise > 0


def test_radius_zero_is_clean_and_no_hook_is_left(neumf):
    trainer, data = neumf
    clean = trainer.evaluate(data.test, load_best_model=False)
    records = attacked(trainer, data, target="activations", granularity="row", levels=(0.0, 0.5))
    assert round(values(records, "fgsm", "ndcg@10")[0.0], 4) == clean["ndcg@10"]
    assert values(records, "fgsm", "loss")[0.5] > values(records, "fgsm", "loss")[0.0]
    assert not any(module._forward_hooks for module in trainer.model.modules())
    assert trainer.evaluate(data.test, load_best_model=False) == clean


def test_no_hook_is_left_after_an_error_either(neumf, monkeypatch):
    trainer, data = neumf
    loss = loss_of(trainer, data)
    loss.source = Source("training", (lambda batch: pytest.fail("broken"),), loss.source.batches)
    with pytest.raises(pytest.fail.Exception):
        loss.value({})
    assert not any(module._forward_hooks for module in trainer.model.modules())


def test_a_model_without_hidden_linear_layers_is_refused_or_passed_over(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("GRU4Rec", defense="none")))
    only_linear = {"dense"}
    assert hidden_layers(trainer.model).keys() == only_linear
    trainer, data = trained(RAWPConfig(config_dict=settings("BPR", defense="none")))
    with pytest.raises(InputError, match="no hidden weight"):
        outcome(trainer, data, threat(target="activations", granularity="row"))
