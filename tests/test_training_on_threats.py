"""Is a model trained at the weights that a threat makes of its own, and kept within its bound?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_rawp import harden_checkpoint
from recbole_rawp.config import settings as options
from recbole_rawp.core.objective import Objective, Recipe
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.threats.number_formats import BITS, FORMATS, noisy, symmetric_grid
from recbole_rawp.threats.replacement import trainable
from tests.training import fit


def linear():
    """Return a layer, and L(w) = sum of w^2 x, whose gradient at w' is 2 w' x."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    return layer, {"weight": layer.weight}, lambda batch: (layer.weight.square() * batch).sum()


def objective(weights, layer, **recipe):
    given = {"radius": 0.1, **recipe}
    return Objective(layer, weights, Recipe(**given), omega={"weight": 1.0}, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("variant", "level"), [("int4", None), ("pruning", 0.5), ("fp8_e4m3", None)])
@pytest.mark.parametrize("clean", [0.0, 1.0])
def test_the_gradient_is_that_at_the_changed_weights_and_goes_straight_through(variant, level, clean):
    layer, weights, loss = linear()
    change, batch = trainable(variant, level), torch.rand(4, 6)
    before = layer.weight.detach().clone()
    values = change({"weight": before}, torch.Generator())["weight"]
    found = objective(weights, layer, change=change, clean_weight=clean)(loss, batch)
    found.backward()
    assert torch.allclose(layer.weight.grad, 2 * batch * (values + clean * before))
    assert float(found.detach()) == pytest.approx(float((batch * (values**2 + clean * before**2)).sum()), rel=1e-5)
    assert torch.equal(layer.weight, before) and not torch.equal(values, before)


def test_errors_are_drawn_anew_for_each_batch_and_again_from_the_same_generator():
    layer, weights, _ = linear()
    change = trainable("bit_errors_int8", 0.05)
    deltas = [objective(weights, layer, change=change) for _ in range(2)]
    first, again = ([one.perturb(weights, lambda _: {})["weight"] for _ in range(2)] for one in deltas)
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and not torch.equal(*first)
    assert deltas[0].norms["weight"][1] == 2


def test_weights_that_a_step_took_beyond_the_bound_come_back_to_it():
    layer, weights, loss = linear()
    with torch.no_grad():
        layer.weight[0, 0], layer.weight[1, 1] = 5.0, -0.05
    alone = objective(weights, layer, perturbs=False, weight_clip=0.1)
    found = alone(loss, torch.ones(4, 6))
    assert float(layer.weight.detach().abs().max()) == pytest.approx(0.1) and layer.weight[1, 1] == -0.05
    assert float(found) == pytest.approx(float(layer.weight.detach().square().sum())), "the loss is plain otherwise"
    assert alone.perturbed == 0 and alone.batches == 1


@pytest.mark.parametrize("bits", BITS)
def test_noise_stays_within_half_a_step_and_has_its_spread(bits):
    weight = torch.randn(8, 4000, generator=torch.Generator().manual_seed(1))
    _, step = symmetric_grid(weight, True, bits=bits)
    error = (noisy(weight, True, torch.Generator().manual_seed(2), bits=bits) - weight) / step
    assert float(error.abs().max()) <= 0.5001 and float(error.std()) == pytest.approx(12**-0.5, rel=0.02)
    rounding = (FORMATS[f"int{bits}"](weight, True) - weight) / step
    assert bits < 4 or float(rounding.std()) == pytest.approx(float(error.std()), rel=0.1)


@pytest.mark.parametrize(("defense", "bound"), [("randbet", 0.2), ("clipping", 0.2), ("rounding_noise", None)])
def test_each_defense_of_stored_weights_trains_and_is_within_its_bound(defense, bound, settings):
    given = {"defense": defense, "rawp_weight_clip": bound and 0.03, "ft_rounds": int(defense == "randbet")}
    trainer, _ = fit(RAWPConfig(config_dict=settings("NeuMF", **given)))
    largest = max(float(w.detach().abs().max()) for w in trainer.objective.weights.values())
    assert largest <= 0.0300001 if bound else largest > 0.03
    assert trainer.config["defense"] == defense and options.read(trainer.config).values["rawp_target"] == "all"
    assert trainer.state.perturbed


def test_a_bound_that_nothing_reaches_is_plain_training_early_stopping_included(settings):
    given = {"epochs": 12, "stopping_step": 2, "ft_rounds": 0}
    plain, weights = fit(RAWPConfig(config_dict=settings("NeuMF", defense="none", **given)))
    clipped, same = fit(RAWPConfig(config_dict=settings("NeuMF", defense="clipping", rawp_weight_clip=1e9, **given)))
    assert all(torch.equal(weight, same[name]) for name, weight in weights.items())
    assert clipped.best_valid_score == plain.best_valid_score
    assert len(clipped.train_loss_dict) == len(plain.train_loss_dict)


def test_complex_weights_stay_as_they_are():
    layer = nn.Linear(3, 2, bias=False)
    wave = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    weights = {"weight": layer.weight, "wave": wave}
    recipe = Recipe(radius=0.1, change=trainable("int4", None), weight_clip=0.1)
    made = Objective(layer, weights, recipe, omega={}, generator=torch.Generator().manual_seed(0))
    made.clip()
    assert set(made.perturb(weights, lambda _: {})) == {"weight"} and wave.abs().eq(1).all()


def test_harden_does_not_call_a_plain_model_by_a_defense_that_it_never_had(plain):
    with pytest.raises(InputError, match="^defense: randbet trains from the start, and what harden adds"):
        harden_checkpoint(str(plain), config_dict={"defense": "randbet", "rawp_output_dir": "out"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"defense": "rawp_ft", "rawp_perturbation": "int4"},
            "^rawp_perturbation: 'int4' does not go with rawp_radius=auto",
        ),
        ({"rawp_perturbation": "int44"}, "^rawp_perturbation: 'int44' is not valid; expected ball, none, or .*'int4'"),
        ({"rawp_perturbation": "apgd"}, "^rawp_perturbation: 'apgd' is not valid"),
        ({"rawp_perturbation": "bit_errors_float32", "rawp_perturbation_level": 0.1}, "^rawp_perturbation: 'bit_err"),
        ({"rawp_perturbation": "pruning"}, "^rawp_perturbation_level: None, but pruning has shares: set it"),
        (
            {"rawp_perturbation": "int4", "rawp_perturbation_level": 0.1},
            "^rawp_perturbation_level: 0.1, but int4 has no",
        ),
        ({"rawp_perturbation_level": 0.1}, "^rawp_perturbation_level: 0.1, but rawp_perturbation is 'ball'"),
        (
            {"defense": "rat", "rawp_perturbation": "int4"},
            "^rawp_perturbation: 'int4' does not go with rawp_target=act",
        ),
        (
            {"defense": "randbet", "rawp_radius": 0.5},
            "^rawp_radius: 0.5 has no effect with rawp_perturbation=bit_errors",
        ),
        ({"defense": "randbet", "rawp_steps": 3}, "^rawp_steps: 3 has no effect with rawp_perturbation=bit_errors"),
        ({"defense": "rawp_ft", "rawp_weight_clip": 0.1}, "^rawp_weight_clip: 0.1 does not go with rawp_radius=auto"),
        ({"rawp_weight_clip": 0}, "^rawp_weight_clip: 0 is not valid"),
    ],
)
def test_what_nothing_can_be_trained_under_is_refused_in_one_line(given, message, settings):
    with pytest.raises(InputError, match=message):
        RAWPConfig(config_dict=settings("NeuMF", **given))
