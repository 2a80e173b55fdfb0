"""Do the engines that copy weights give each user the slow way's attack, in chunks of any size?"""

from __future__ import annotations

import pytest
import torch

from recbole_rawp.core.ball import normalize
from recbole_rawp.threats.adversarial.per_user import copies
from recbole_rawp.threats.adversarial.per_user.copies import OneByOne, Vectorized
from recbole_rawp.threats.adversarial.per_user.engine import NotSupported, UserBatch
from tests.per_user_models import (
    MODELS,
    USERS,
    Bypass,
    Convolution,
    N,
    Recurrent,
    attack_on,
    climbed,
    near,
    same,
    seeded,
    slow,
    trace,
)

ALL = MODELS | {"table used past its module": Bypass}


@pytest.fixture(params=["everyone at once", "one or two users at a time"])
def chunks(request, monkeypatch):
    """Both with the gradient at w kept and with too many weights for that."""
    if request.param != "everyone at once":
        monkeypatch.setattr(copies, "CHUNK", 300)
        monkeypatch.setattr(copies, "KEPT", 300)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("engine", [Vectorized, OneByOne])
@pytest.mark.parametrize("build", ALL.values(), ids=ALL)
def test_one_step_equals_a_deep_copy_per_user(build, engine, dtype, tolerance, chunks):
    c = attack_on(seeded(build), dtype=dtype)
    attack = engine(c)
    logits, _, gradients = slow(c, 0.1)
    near(attack.logits(attack.steepest(attack.ball(0.1))), logits, tolerance)
    for name, found in attack.gradient(None).items():
        near(found, torch.stack([each[name] for each in gradients]), tolerance)


@pytest.mark.parametrize("engine", [Vectorized, OneByOne])
@pytest.mark.parametrize("build", ALL.values(), ids=ALL)
def test_several_steps_equal_steps_in_place(build, engine, chunks):
    c = attack_on(seeded(build))
    attack = engine(c)
    delta = climbed(attack, 0.2, 2)
    logits, weights, _ = slow(c, 0.2, steps=2)
    near(attack.logits(delta), logits, 1e-9)
    for name, weight in c.weights.items():
        near(weight.detach() + delta[name], torch.stack([each[name] for each in weights]), 1e-9)


def test_a_recurrent_model_is_attacked_one_by_one():
    c = attack_on(seeded(Recurrent))
    attack = OneByOne(c)
    near(attack.logits(attack.steepest(attack.ball(0.1))), slow(c, 0.1)[0], 1e-9)


@pytest.mark.parametrize("engine", [Vectorized, OneByOne])
def test_rows_move_by_exactly_their_radius_or_not_at_all(engine):
    c = attack_on(seeded(Convolution))
    attack = engine(c)
    delta = normalize(attack.gradient(None), attack.ball(0.1))
    for name, weight in c.weights.items():
        moved = delta[name].flatten(2).norm(dim=2)
        want = 0.1 * weight.detach().flatten(1).norm(dim=1).expand(USERS, -1)
        still = moved == 0
        assert (moved[~still] / want[~still] - 1).abs().max() < 1e-12
        assert still.any() == (name in ("user.weight", "item.weight"))  # rows that a user does not look up


@pytest.mark.parametrize("engine", [Vectorized, OneByOne])
def test_the_model_is_as_before_also_after_an_error(engine):
    c = attack_on(seeded(Convolution))
    before = trace(c.model)
    attack = engine(c)
    attack.logits(attack.steepest(attack.ball(0.1)))
    same(before, trace(c.model))

    def fails(batch):
        c.model(batch)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        engine(UserBatch(c.model, fails, c.weights, c.inputs, c.mask, c.labels)).gradient(None)
    same(before, trace(c.model))


def test_zeros_for_random_starts_take_no_memory():
    for zero in OneByOne(attack_on(seeded(Convolution))).weights.values():
        assert zero.untyped_storage().nbytes() == 8 and (zero == 0).all()


def test_a_score_that_is_not_one_number_per_row_is_refused():
    c = attack_on(seeded(Convolution), score=lambda model, batch: model(batch)[:-1])
    with pytest.raises(NotSupported, match=r"score returned \(23,\) for 24 rows"):
        OneByOne(c).logits(None)


def test_a_subset_holds_the_users_own_rows_and_labels():
    c = attack_on(seeded(Convolution))
    some = c.subset(torch.tensor([2, 0]))
    assert torch.equal(some.inputs[:N], c.inputs[2 * N : 3 * N]) and torch.equal(some.inputs[N:], c.inputs[:N])
    assert torch.equal(some.labels, c.labels[[2, 0]]) and some.users == 2
