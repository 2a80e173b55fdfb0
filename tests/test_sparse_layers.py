"""Do sparse input rows give every user the attack that a deep copy of the dense network gives?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from recbole_rawp.core.ball import normalize, random_direction
from recbole_rawp.model import sparse_linear
from recbole_rawp.model.sparse_linear import Pair, SparseLinear, SparseRows
from recbole_rawp.threats.adversarial.per_user.engine import NotSupported
from recbole_rawp.threats.adversarial.per_user.engine_selection import select_engine
from recbole_rawp.threats.adversarial.per_user.hooked import Hooked
from recbole_rawp.threats.adversarial.per_user.pair_layer import PairLayer
from tests.per_user_models import ITEMS, USERS, N, attack_on, climbed, near, same, seeded, slow, trace

WEIGHTS = ["pair.user.weight", "pair.item.weight", "pair.merge.weight"]


def ones():
    """Return interactions [USERS, ITEMS]; item 3 and user 2 have none."""
    matrix = (torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(5)) < 0.5).double()
    matrix[:, 3] = matrix[2] = 0
    return matrix


def rows(matrix):
    return SparseRows.from_pairs(*matrix.nonzero().T, matrix.shape)


class Rows(nn.Module):
    """Interaction rows of user and item, a layer on both, two more."""

    def __init__(self, matrix=None):
        super().__init__()
        matrix = ones() if matrix is None else matrix
        self.pair = Pair(rows(matrix), rows(matrix.T), 7, 8)
        self.hidden, self.last = nn.Linear(8, 6), nn.Linear(6, 1)

    def forward(self, batch):
        return self.last(torch.relu(self.hidden(torch.relu(self.pair(batch[:, :2]))))).squeeze(1)


class Several(nn.Module):
    """A sparse layer that is asked for the item, for a history [P, 3] and for the item again."""

    def __init__(self):
        super().__init__()
        self.item, self.out = SparseLinear(rows(ones().T), 5), nn.Linear(5, 1)

    def forward(self, batch):
        history = torch.tanh(self.item(batch[:, 2:])).mean(1)
        return self.out(torch.relu(self.item(batch[:, 1])) * history + self.item(batch[:, 1])).squeeze(1)


def dense(model, batch):
    """The same function with dense rows."""
    matrix = ones().to(model.last.weight.dtype)
    pair = model.pair
    user, item = (
        nn.functional.linear(r, layer.weight, layer.bias)
        for r, layer in ((matrix[batch[:, 0]], pair.user), (matrix.T[batch[:, 1]], pair.item))
    )
    x = pair.merge(torch.cat([user, item], 1))
    return model.last(torch.relu(model.hidden(torch.relu(x)))).squeeze(1)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("ghost", [True, False, None])
def test_one_step_equals_a_deep_copy_of_the_dense_network(ghost, fused, dtype, tolerance):
    c = attack_on(seeded(Rows), dtype=dtype)
    engine = Hooked(c, ghost=ghost, fused=fused)
    assert set(engine.pairs) == ({"pair"} if fused else set())
    for radius in (0.05, 0.3, 0.1):  # the second and third take the first's direction
        logits, _, gradients = slow(c, radius, score=dense)
        near(engine.logits(engine.steepest(engine.ball(radius))), logits, tolerance)
    for name, found in engine.gradient(None).items():
        near(found, torch.stack([each[name] for each in gradients]), tolerance)
    near(engine.logits(None), dense(c.model, c.inputs).detach().view(USERS, N), tolerance)
    assert (engine.logits(engine.steepest(engine.ball(0.3))) - engine.logits(None)).abs().max() > 0.01


@pytest.mark.parametrize("fused", [True, False])
def test_several_steps_equal_steps_in_place(fused):
    c = attack_on(seeded(Rows))
    engine = Hooked(c, fused=fused)
    near(engine.logits(climbed(engine, 0.2, 3)), slow(c, 0.2, steps=3, score=dense)[0], 1e-9)


@pytest.mark.parametrize("granularity", ["row", "sign"])
@pytest.mark.parametrize("relative", [True, False])
def test_steepest_is_the_normalized_gradient(granularity, relative):
    engine = Hooked(attack_on(seeded(Rows)))
    ball = engine.ball(0.1, granularity=granularity, relative=relative)
    near(engine.logits(engine.steepest(ball)), engine.logits(normalize(engine.gradient(None), ball)), 1e-9)


def test_balls_of_other_directions_do_not_take_the_kept_one():
    engine = Hooked(attack_on(seeded(Rows)))
    for relative in (True, False, True):
        ball = engine.ball(0.1, relative=relative)
        near(engine.logits(engine.steepest(ball)), engine.logits(normalize(engine.gradient(None), ball)), 1e-9)


@pytest.mark.parametrize("names", [WEIGHTS[:1], WEIGHTS[1:2], WEIGHTS[1:], ["hidden.weight"]], ids=str)
def test_where_not_all_three_weights_are_attacked_each_layer_goes_by_itself(names):
    c = attack_on(seeded(Rows), names=names)
    engine = Hooked(c)
    assert not engine.pairs
    near(engine.logits(engine.steepest(engine.ball(0.2))), slow(c, 0.2, score=dense)[0], 1e-9)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_sparse_layer_may_be_called_several_times_and_with_several_rows_each(steps):
    c = attack_on(seeded(Several))
    engine = Hooked(c)
    found = engine.steepest(engine.ball(0.2)) if steps == 1 else climbed(engine, 0.2, steps)
    near(engine.logits(found), slow(c, 0.2, steps=steps)[0], 1e-9)


@pytest.mark.parametrize("kept", [0, 2**24])
def test_shared_ones_are_the_inner_products_of_the_rows(monkeypatch, kept):
    monkeypatch.setattr(sparse_linear, "ALL", kept)
    layer, numbers = SparseLinear(rows(ones().T), 5), torch.tensor([[1, 3, 1], [7, 2, 0]])
    chosen = ones().T[numbers]
    assert torch.equal(sparse_linear.shared_ones(layer, numbers, torch.float64), chosen @ chosen.transpose(1, 2))
    single = sparse_linear.shared_ones(layer, numbers[:, :1], torch.float64)
    assert single.flatten().tolist() == ones().T[numbers[:, 0]].sum(1).tolist()


def test_choose_takes_hooks_and_the_model_is_as_before():
    c = attack_on(seeded(Rows))
    before = trace(c.model)
    choice = select_engine(c)
    assert (choice.name, choice.reason) == ("hooked", "")
    engine = choice.make(c)
    engine.logits(engine.steepest(engine.ball(0.1)))
    same(before, trace(c.model))


def test_noise_moves_by_the_whole_rows_norm_as_in_the_dense_layer():
    c = attack_on(seeded(Rows), names=WEIGHTS[:1])
    engine = Hooked(c)
    delta = normalize(random_direction(engine.weights, torch.Generator().manual_seed(0)), engine.ball(0.1))
    assert delta[WEIGHTS[0]].shape == (USERS, 7, ITEMS)
    want = []
    for u in range(USERS):
        twin = seeded(Rows).double()
        twin.pair.user.weight.data += delta[WEIGHTS[0]][u]
        want.append(dense(twin, c.inputs[u * N : (u + 1) * N]).detach())
    near(engine.logits(delta), torch.stack(want), 1e-9)


def test_gradients_whose_squares_underflow_still_move_every_row():
    c = attack_on(seeded(Rows), dtype=torch.float32, names=WEIGHTS, ragged=False)
    c.model.last.weight.data *= 1e-22
    c.model.last.bias.data.zero_()
    c.labels.zero_()  # with both labels, probabilities of 1/2 would cancel
    for fused in (True, False):
        engine = Hooked(c, ghost=True, fused=fused)
        moved = engine.logits(engine.steepest(engine.ball(0.1))).double()
        exact = attack_on(seeded(Rows), names=WEIGHTS, ragged=False)
        exact.labels.zero_()
        exact.model.load_state_dict({name: w.double() for name, w in c.model.state_dict().items()})
        want = slow(exact, 0.1, score=dense)[0]
        near(moved, want, 1e-4)


# ----- What it cannot do, it refuses -----


def test_several_users_among_one_users_candidates_and_two_calls_are_refused():
    def mixed(model, batch):
        return model.last(model.hidden(model.pair(batch[:, :2] * torch.tensor([0, 1]) + batch[:, 2:3] % 2)))[:, 0]

    def twice(model, batch):
        return model(batch) + model(batch)

    c = attack_on(seeded(Rows), score=twice)
    with pytest.raises(NotSupported, match="more than once"):
        Hooked(c).logits(None)
    near(Hooked(c, fused=False).logits(None), 2 * dense(c.model, c.inputs).detach().view(USERS, N), 1e-9)
    c = attack_on(seeded(Rows), score=mixed)
    c.inputs[::2, 2] = 1
    c.inputs[1::2, 2] = 2
    with pytest.raises(NotSupported, match="several users"):
        Hooked(c).logits(None)


def test_other_rows_under_attack_are_refused():
    def fickle(model, batch):
        return model(batch if torch.is_grad_enabled() else batch.roll(1, 0))

    for fused in (True, False):
        engine = Hooked(attack_on(seeded(Rows), score=fickle), fused=fused)
        with pytest.raises(NotSupported, match="under attack than before"):
            engine.logits(engine.steepest(engine.ball(0.1)))


def test_a_pair_with_a_tied_weight_goes_layer_by_layer():
    class Tied(Rows):
        def __init__(self):
            super().__init__()
            self.again = nn.Linear(14, 8)
            self.again.weight = self.pair.merge.weight

    assert not Hooked(attack_on(seeded(Tied))).pairs


def test_a_pair_that_is_never_called_is_refused():
    c = attack_on(
        seeded(Rows), score=partial(lambda model, batch: model.last(batch[:, :1].double().expand(-1, 6))[:, 0])
    )
    with pytest.raises(NotSupported, match="never called"):
        Hooked(c).logits(None)
    assert isinstance(Hooked(c).pairs["pair"], PairLayer)
