"""Is the fastest engine taken that gives each user the slow way's attack, and no other?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from recbole_rawp.threats.adversarial.per_user.copies import OneByOne, Vectorized
from recbole_rawp.threats.adversarial.per_user.engine import UserBatch
from recbole_rawp.threats.adversarial.per_user.engine_selection import CACHE, disagreement, select_engine
from recbole_rawp.threats.adversarial.per_user.hooked import Hooked
from tests.per_user_models import (
    ITEMS,
    Bypass,
    Convolution,
    Recurrent,
    TiedConvolutions,
    TwoTower,
    attack_on,
    near,
    seeded,
    slow,
)

grouped = partial(Convolution, out=54, groups=2)


class Standardized(nn.Conv2d):
    """Its forward is torch's, but what that calls is not."""

    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight - weight.mean(), bias)


def weighed():
    model = Convolution()
    model.convolution = Standardized(1, 3, 3)
    return model


def test_choose_takes_hooks_where_they_are_right():
    choice = select_engine(attack_on(seeded(TwoTower), dtype=torch.float32))
    assert (choice.name, choice.reason) == ("hooked", "")
    assert isinstance(choice.make(attack_on(seeded(TwoTower))), Hooked)
    assert choice.rows == CACHE // (1 + 5 + 1 + 5 + 10 + 8 + 8 + 1)  # two look-ups, two layers: what they read and give


def test_choose_catches_a_table_used_past_its_module():
    c = attack_on(seeded(Bypass))
    wrong, right = Hooked(c), slow(c, 0.1)[0]
    assert (wrong.logits(wrong.steepest(wrong.ball(0.1))) - right).abs().max() > 1e-3  # silently wrong
    choice = select_engine(c)
    assert choice.name == "vmap" and choice.reason.startswith("hooked: the gradient of item.weight has norms")
    engine = choice.make(c)
    near(engine.logits(engine.steepest(engine.ball(0.1))), right, 1e-9)


def test_choose_catches_it_where_the_model_is_too_sure_to_have_a_gradient():
    c = attack_on(seeded(Bypass), score=lambda model, batch: model(batch) + 1000)
    sure = UserBatch(c.model, c.score, c.weights, c.inputs, c.mask, torch.ones_like(c.labels))
    assert all((found == 0).all() for found in OneByOne(sure).gradient(None).values())
    assert select_engine(sure).name == "vmap"


def test_choose_compares_the_attacked_logits_too():
    class Idle(Hooked):
        """Never moves."""

        def logits(self, delta):
            return super().logits(None)

    c = attack_on(seeded(TwoTower))
    assert disagreement(Hooked(c), OneByOne(c)) == ""
    assert disagreement(Idle(c), OneByOne(c)).startswith("the logits at radius 0.01 differ by up to")


@pytest.mark.parametrize(
    "build", [grouped, weighed, partial(TiedConvolutions, stride=2)], ids=["groups", "own", "tied"]
)
def test_choose_takes_vmap_for_convolutions_that_hooks_do_not_know(build):
    c = attack_on(seeded(build))
    choice = select_engine(c)
    assert choice.name == "vmap" and "belongs to" in choice.reason and "hooks do not know" in choice.reason
    engine = choice.make(c)
    assert isinstance(engine, Vectorized) and choice.rows is None
    near(engine.logits(engine.steepest(engine.ball(0.1))), slow(c, 0.1)[0], 1e-9)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_choose_finds_an_engine_for_a_gru():
    c = attack_on(seeded(Recurrent))
    choice = select_engine(c)
    assert choice.name in ("vmap", "loop") and "belongs to GRU" in choice.reason
    engine = choice.make(c)
    near(engine.logits(engine.steepest(engine.ball(0.1))), slow(c, 0.1)[0], 1e-9)


def test_choose_loops_where_vmap_cannot_follow():
    def asks(model, batch):
        logits = model(batch)
        return logits if float(logits.sum().detach()) > -1e9 else logits * 2

    c = attack_on(seeded(grouped), score=asks)
    choice = select_engine(c)
    assert choice.name == "loop" and "vmap: RuntimeError" in choice.reason


class Flattened(nn.Module):
    """A layer called with [P * L, ...]; `order` says whether the rows of a user stay together."""

    def __init__(self, order):
        super().__init__()
        self.order, self.item, self.same = order, nn.Embedding(ITEMS, 5), nn.Linear(5, 1)

    def forward(self, batch):
        history = batch[:, 1:] if self.order == "users" else batch[:, 1:].T
        each = self.same(torch.tanh(self.item(history.flatten()))).view(history.shape)
        weight = torch.arange(1, 5).to(each)
        return each @ weight if self.order == "users" else weight @ each


@pytest.mark.parametrize("users", [[0, 1, 2, 3], [2]], ids=["four users", "one user"])
def test_choose_catches_flattened_calls_in_another_order_than_the_users(users):
    expected = {"users": "hooked", "positions": "vmap"}
    for order, name in expected.items():
        choice = select_engine(attack_on(seeded(Flattened, order)).subset(torch.tensor(users)))
        assert choice.name == name and ("has norms" in choice.reason) == (order == "positions")
        c = attack_on(seeded(Flattened, order))
        engine = choice.make(c)
        near(engine.logits(engine.steepest(engine.ball(0.1))), slow(c, 0.1)[0], 1e-9)


def test_choose_takes_hooks_where_an_attacked_layer_is_never_called_unless_its_weight_is_used_all_the_same():
    def unused(model, batch):
        return (model.user(batch[:, 0]) * model.item(batch[:, 1])).sum(1)

    def used(model, batch):
        return model.item.weight[batch[:, 1]].sum(1)

    assert select_engine(attack_on(seeded(TwoTower), score=unused)).name == "hooked"
    c = attack_on(seeded(TwoTower), names=["item.weight"], score=used)
    choice = select_engine(c)
    assert choice.name == "vmap" and choice.reason.startswith("hooked: the gradient of item.weight has norms")
    engine = choice.make(c)
    near(engine.logits(engine.steepest(engine.ball(0.1))), slow(c, 0.1, score=used)[0], 1e-9)
