"""An ascent that goes on from the last batch's perturbation: against the recursion written out, in float64."""

from __future__ import annotations

import pytest
import torch

from recbole_rawp.config import schema
from recbole_rawp.config.settings import read
from recbole_rawp.core import ascent
from recbole_rawp.core.objective import Objective, Recipe
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from tests.test_defenses import Toy, batch
from tests.training import made

RADIUS = 0.3


def objective_of(start, **recipe):
    """Return the toy, and its objective, which perturbs both layers; no jitter."""
    model = Toy().double()
    weights = {name: model.get_parameter(name) for name in ("first.weight", "last.weight")}
    recipe = Recipe(RADIUS, start=start, **recipe)
    omega = dict.fromkeys(weights, 1.0)
    return model, weights, Objective(model, weights, recipe, omega=omega, generator=torch.Generator())


def unit(direction, weights):
    return {name: RADIUS * weights[name].detach().norm() * direction[name] / direction[name].norm() for name in weights}


def within(delta, weights):
    """Return delta, shortened where it is longer than RADIUS times its weight."""
    bound = {name: RADIUS * weights[name].detach().norm() for name in weights}
    return {name: delta[name] * (bound[name] / delta[name].norm()).clamp(max=1.0) for name in weights}


def rows(number):
    """Return another batch for each number."""
    return batch().roll(number, dims=1) if number % 2 else batch().flip(0)[: 6 + number]


def stepped(model, objective, number):
    """Call the objective on a batch, go backward, and take a step of plain gradient descent; return the gradients."""
    model.zero_grad()
    objective(lambda given: loss(model, given), rows(number)).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad, alpha=0.1)
    return found


def loss(model, given):
    user, better, worse = given[:, 0] % 11, given[:, 1] % 13, given[:, 2] % 13
    return torch.nn.functional.softplus(model.score(user, worse) - model.score(user, better)).mean()


def shifted_gradients(model, delta, number):
    """Return the gradients at w + delta, of a twin whose weights are written."""
    twin = Toy().double()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, change in delta.items():
            twin.get_parameter(name).add_(change)
    value = loss(twin, rows(number))
    return dict(zip(dict(twin.named_parameters()), torch.autograd.grad(value, list(twin.parameters()))))


def assert_close(found, wanted):
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], msg=name)


def test_last_takes_its_gradient_where_the_batch_before_ended():
    model, weights, objective = objective_of("last")
    delta = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for number in range(5):
        uphill = shifted_gradients(model, within(delta, weights), number)
        begun = within(delta, weights)
        delta = within({name: begun[name] + step for name, step in unit(uphill, weights).items()}, weights)
        wanted = shifted_gradients(model, delta, number)
        assert_close(stepped(model, objective, number), wanted)
        assert_close(objective.memory.delta, delta)


def test_free_moves_along_the_gradient_of_the_training_and_calls_the_loss_once_per_batch():
    model, weights, objective = objective_of("free")
    delta, calls = {name: torch.zeros_like(w) for name, w in weights.items()}, []
    uphill = shifted_gradients(model, {}, 0)  # the first batch has a pass of its own
    forward = model.score
    model.score = lambda *args: calls.append(1) or forward(*args)
    for number in range(5):
        delta = within({name: delta[name] + step for name, step in unit(uphill, weights).items()}, weights)
        uphill = shifted_gradients(model, delta, number)  # that of w at w + delta is that of delta
        assert_close(stepped(model, objective, number), uphill)
        assert_close(objective.memory.delta, delta)
    assert len(calls) == 2 * (1 + 5)  # the worse and the better item of each batch


def test_last_climbs_to_the_worst_delta_that_many_steps_find():
    """On one batch, with weights that stay, batches are steps."""
    model, weights, objective = objective_of("last")
    for _ in range(200):
        objective(lambda given: loss(model, given), rows(0))
    many = ascent.ascend(
        lambda delta: {name: shifted_gradients(model, delta or {}, 0)[name] for name in weights},
        weights,
        objective.bound(weights, RADIUS),
        steps=200,
        generator=torch.Generator(),
    )

    def height(delta):
        twin = Toy().double()
        twin.load_state_dict(model.state_dict())
        with torch.no_grad():
            for name, change in delta.items():
                twin.get_parameter(name).add_(change)
        return float(loss(twin, rows(0)).detach())

    one = unit(shifted_gradients(model, {}, 0), weights)
    assert height(objective.memory.delta) > height(one)
    assert height(objective.memory.delta) == pytest.approx(height(many), rel=1e-3)


def test_what_a_mask_leaves_out_keeps_its_delta():
    model, _, objective = objective_of("free")
    for number in (0, 1):
        stepped(model, objective, number)
    before = objective.memory.delta["last.weight"].clone()
    objective.mask = {"first.weight": True, "last.weight": False}
    stepped(model, objective, 2)
    assert torch.equal(objective.memory.delta["last.weight"], before)


def test_the_words_are_those_of_the_code():
    assert ascent.STARTS == schema.STARTS


def test_free_has_no_ascent_to_take_a_part_of_the_batch_for_and_says_so(settings, caplog):
    for start, told in (("free", True), ("last", False)):
        caplog.clear()
        trainer, data = made(
            RAWPConfig(config_dict=settings("NeuMF", epochs=1, rawp_start=start, rawp_ascent_fraction=0.5, ft_rounds=0))
        )
        trainer.fit(data.train, data.valid, saved=False)
        assert ("rawp_ascent_fraction: 0.5 has no effect with rawp_start=free" in caplog.text) == told


@pytest.mark.parametrize("option", [{"rawp_direction": "adam"}, {"rawp_direction": "noise"}, {"rawp_steps": 2}])
def test_free_takes_no_step_of_its_own(option, settings):
    with pytest.raises(InputError, match="^rawp_start: 'free', as rawp_ft has it, takes no step of its own"):
        RAWPConfig(config_dict=settings("NeuMF", rawp_start="free", **option))


def test_stage_2_takes_the_steps_that_it_was_given(settings):
    given = settings("NeuMF", defense="rawp_ft_reference", rawp_start="free", ft_steps=3)
    tuned = read(RAWPConfig(config_dict=given)).fine_tuning.recipe
    assert (tuned.start, tuned.steps) == ("weights", 3)


@pytest.mark.parametrize("start", ["weights", "last", "free"])
def test_no_graph_of_a_batch_outlives_its_step(start):
    model, _, objective = objective_of(start)
    for number in range(3):
        stepped(model, objective, number)
    assert objective.perturbed and not any(norm.requires_grad for norm, _ in objective.norms.values())
