"""Is what an attack on activations adds what the slow way adds to the layers' outputs?"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recbole_rawp.core.ascent import ascend
from recbole_rawp.threats.adversarial.per_user.copies import OneByOne
from recbole_rawp.threats.adversarial.per_user.engine import NotSupported
from recbole_rawp.threats.adversarial.per_user.hooked import Hooked
from recbole_rawp.threats.adversarial.per_user.hooked_activations import HookedActivations
from tests.per_user_models import USERS, N, Twice, TwoTower, attack_on, near, seeded


def with_hooks(model, names, change, run):
    """Return run() while the outputs of these layers go through `change`, call by call."""
    hooks = [model.get_submodule(name).register_forward_hook(lambda m, i, y: change(y)) for name in names]
    try:
        return run()
    finally:
        for hook in hooks:
            hook.remove()


def slow_activations(c, names, radius, *, sign):
    """Return logits after adding radius * size * direction to each output of these layers, user by user."""
    result = []
    for user in range(USERS):
        one, outputs = c.subset(torch.tensor([user])), []
        logits = with_hooks(c.model, names, outputs.append, one.logits)  # append returns None: no change
        losses = functional.binary_cross_entropy_with_logits(logits, one.labels, reduction="none")
        slopes = torch.autograd.grad(losses[one.mask].sum(), outputs)
        deltas = iter([radius * y.detach().norm(dim=-1, keepdim=True) * unit(g, sign) for y, g in zip(outputs, slopes)])
        result.append(with_hooks(c.model, names, lambda y, deltas=deltas: y + next(deltas), one.logits).detach())
    return torch.cat(result)


def unit(g, sign):
    """Return vectors of length 1, or 0, along g or along its signs."""
    length = g.norm(dim=-1, keepdim=True)
    return g.sign() / g.shape[-1] ** 0.5 if sign else torch.where(length > 0, g / length, 0.0)


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize(
    "build, names", [(lambda: TwoTower(depth=4), ["mlp.0", "mlp.2"]), (Twice, ["same"])], ids=["hidden", "sequences"]
)
def test_an_attack_on_activations_equals_adding_to_the_outputs(build, names, sign):
    c = attack_on(seeded(build))
    engine = HookedActivations(c, names)
    ball = engine.ball(0.1, granularity="sign" if sign else "row")
    near(engine.logits(engine.steepest(ball)), slow_activations(c, names, 0.1, sign=sign), 1e-9)
    if names == ["mlp.0", "mlp.2"]:
        assert engine.weights["mlp.0"].shape == (USERS, N, 8)


def test_several_steps_on_activations_stay_in_the_ball_and_raise_the_loss():
    engine = HookedActivations(attack_on(seeded(TwoTower)), ["mlp.0"])
    ball = engine.ball(0.05, relative=False)
    delta = ascend(engine.gradient, engine.weights, ball, steps=4, generator=torch.Generator())
    assert (ball.norms(delta)["mlp.0"] <= 0.05 * (1 + 1e-12)).all()
    assert (engine.loss(engine.logits(delta)) > engine.loss(engine.logits(None))).all()


def test_activations_of_something_else_are_refused():
    with pytest.raises(NotSupported, match="item: is a Embedding"):
        HookedActivations(attack_on(seeded(TwoTower)), ["item"])


def test_a_ball_of_another_granularity_is_refused():
    c = attack_on(seeded(TwoTower))
    for engine in (Hooked(c), OneByOne(c), HookedActivations(c, ["mlp.0"])):
        with pytest.raises(ValueError, match="not by 'tensor'"):
            engine.ball(0.1, granularity="tensor")


def test_a_layer_whose_forward_is_somebodys_own_is_refused():
    c = attack_on(seeded(TwoTower))
    c.model.mlp[0].forward = lambda x: functional.linear(x, c.model.mlp[0].weight) * 2
    with pytest.raises(NotSupported, match="mlp.0: is a Linear"):
        HookedActivations(c, ["mlp.0"])


def test_layers_that_are_not_called_or_not_row_by_row_are_refused():
    c = attack_on(seeded(TwoTower), score=lambda m, b: (m.user(b[:, 0]) * m.item(b[:, 1])).sum(1))
    with pytest.raises(NotSupported, match="mlp.0: is never called"):
        HookedActivations(c, ["mlp.0"]).gradient(None)
    c = attack_on(seeded(Twice), score=lambda m, b: m.same(m.item(b).flatten(0, 1)).view(len(b), -1).sum(1))
    with pytest.raises(NotSupported, match=r"same: got \(120, 5\) where the batch has 24 rows"):
        HookedActivations(c, ["same"]).gradient(None)
