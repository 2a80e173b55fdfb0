"""Does every user of a batch get the attack that the slow way gives them, from shared passes and without copies?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional

from recbole_rawp.core.ball import normalize, random_direction
from recbole_rawp.core.selection import select, sized
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.threats.adversarial.per_user.copies import OneByOne
from recbole_rawp.threats.adversarial.per_user.engine import NotSupported, UserBatch
from recbole_rawp.threats.adversarial.per_user.engine_selection import select_engine
from recbole_rawp.threats.adversarial.per_user.hooked import Hooked
from recbole_rawp.threats.adversarial.per_user.linear import Ghost
from recbole_rawp.threats.adversarial.user_losses import cross_entropy
from tests.oracle_per_user import row_norms
from tests.per_user_models import (
    MODELS,
    USERS,
    N,
    Recurrent,
    Twice,
    TwoTower,
    attack_on,
    climbed,
    near,
    same,
    seeded,
    slow,
    trace,
)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("ghost", [True, False, None])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_one_step_and_the_gradients_norms_equal_a_deep_copy_per_user(build, ghost, dtype, tolerance):
    c = attack_on(seeded(build), dtype=dtype)
    engine = Hooked(c, ghost=ghost)
    for radius in (0.05, 0.3):
        logits, _, gradients = slow(c, radius)
        near(engine.logits(engine.steepest(engine.ball(radius))), logits, tolerance)
    for name, found in engine.gradient(None).items():
        norms = torch.stack([each[name].norm() for each in gradients])
        near(found.flatten(1).norm(dim=1), norms, tolerance)
    near(engine.logits(None), c.logits().detach(), tolerance)


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_several_steps_equal_steps_in_place(build, steps):
    c = attack_on(seeded(build))
    engine = Hooked(c)
    near(engine.logits(climbed(engine, 0.2, steps)), slow(c, 0.2, steps=steps)[0], 1e-9)


@pytest.mark.parametrize("granularity", ["row", "sign"])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("ghost", [True, False])
def test_steepest_is_the_normalized_gradient(ghost, relative, granularity):
    engine = Hooked(attack_on(seeded(TwoTower)), ghost=ghost)
    ball = engine.ball(0.1, granularity=granularity, relative=relative)
    written = normalize(engine.gradient(None), ball)
    near(engine.logits(engine.steepest(ball)), engine.logits(written), 1e-12)
    slow = OneByOne(engine.batch)
    bound = slow.ball(0.1, granularity=granularity, relative=relative)
    near(engine.logits(written), slow.logits(slow.steepest(bound)), 1e-9)


def test_every_row_with_a_gradient_moves_by_exactly_its_radius_and_the_others_stay():
    c = attack_on(seeded(TwoTower))
    c.model.mlp[0].bias.data[3] = -100.0  # a neuron that never fires: its row has no gradient
    engine = Hooked(c)
    delta, gradient = normalize(engine.gradient(None), engine.ball(0.1)), engine.gradient(None)
    lengths = delta["mlp.0.weight"].norm(dim=2)
    want = 0.1 * row_norms(c.weights["mlp.0.weight"].detach()).flatten().expand(USERS, -1)
    moving = gradient["mlp.0.weight"].norm(dim=2) > 0
    assert moving.any() and not moving[:, 3].any()
    assert (lengths[moving] / want[moving] - 1).abs().max() < 1e-12
    assert (lengths[~moving] == 0).all()


def test_the_users_radii_of_a_table_are_those_of_the_rows_they_look_up():
    c = attack_on(seeded(TwoTower), names=["item.weight"], ragged=False)
    engine = Hooked(c)
    radius, found = engine.ball(0.1).radius["item.weight"], engine.gradient(None)["item.weight"]
    norms = c.model.item.weight.detach().norm(dim=1)
    for user in range(USERS):
        rows = c.inputs[user * N : (user + 1) * N, 1].unique()
        near(radius[user, : len(rows), 0].sort().values, 0.1 * norms[rows].sort().values, 1e-12)
        assert (found[user, : len(rows)].norm(dim=1) > 0).all() and (found[user, len(rows) :] == 0).all()


def test_the_written_and_the_ghost_form_are_the_same_and_the_cheaper_is_taken():
    wide = attack_on(seeded(TwoTower, depth=3, width=64))
    ghost, written, auto = (Hooked(wide, ghost=choice) for choice in (True, False, None))
    for name, found in ghost.gradient(None).items():
        near(found, written.gradient(None)[name], 1e-12)
    assert isinstance(auto._at_w[1]["mlp.2.weight"], Ghost)  # 6 rows < 64 * 64 / 128
    assert not isinstance(auto._at_w[1]["mlp.4.weight"], Ghost)  # one output


def test_a_ghost_norm_survives_gradients_whose_squares_underflow():
    inputs, slopes = torch.randn(2, 3, 4), torch.randn(2, 3, 5) * 1e-25
    ghost = Ghost(inputs, slopes)
    near(ghost.norms[..., 0], ghost.gradient.double().norm(dim=2).float(), 1e-4)
    assert (ghost.norms > 0).all() and (Ghost(inputs, slopes * 0).norms == 0).all()


def test_a_model_that_is_very_sure_is_attacked_too():
    logits = torch.tensor([[60.0, -60.0], [20.0, 5.0]], requires_grad=True)
    labels, mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2, dtype=torch.bool)
    (found,) = torch.autograd.grad(cross_entropy(logits, labels, mask).sum(), logits)
    exact = torch.sigmoid((1 - 2 * labels) * logits.detach().double()) * (1 - 2 * labels)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.0)


def test_padding_candidates_do_not_take_part():
    c = attack_on(seeded(TwoTower))
    changed = c.inputs.clone()
    changed[(~c.mask).flatten(), 1] = 1
    other = UserBatch(c.model, c.score, c.weights, changed, c.mask, c.labels)
    first, second = (e.logits(e.steepest(e.ball(0.3))) for e in (Hooked(c), Hooked(other)))
    near(second[c.mask], first[c.mask], 1e-12)


def test_without_labels_the_clean_models_own_belief_is_attacked():
    c = attack_on(seeded(TwoTower))
    c.model.mlp[-1].bias.data -= c.logits().mean()
    believed = (c.logits() > 0).double()
    assert 0 < believed.sum() < believed.numel()
    engines = [Hooked(UserBatch(c.model, c.score, c.weights, c.inputs, c.mask, y)) for y in (None, believed)]
    first, second = (e.logits(e.steepest(e.ball(0.2))) for e in engines)
    assert torch.equal(first, second) and torch.equal(engines[0].labels, believed)
    assert torch.equal(engines[0].loss(first), engines[1].loss(second))


def test_the_attack_raises_every_users_loss_more_than_noise_does():
    engine = Hooked(attack_on(seeded(TwoTower)))
    ball = engine.ball(0.1)
    noise = normalize(random_direction(engine.weights, torch.Generator().manual_seed(0)), ball)
    clean, noisy = engine.loss(engine.logits(None)), engine.loss(engine.logits(noise))
    assert (engine.loss(engine.logits(engine.steepest(ball))) > torch.maximum(clean, noisy)).all()


# ----- Calls of other shapes -----


def flattened(model, batch):
    """Call the table, the layer and the output layer with [P * L, ...], the rows of a user one after the other."""
    sequence = torch.tanh(model.same(model.item(batch[:, 2:].flatten())))
    each = model.out(sequence * model.item(batch[:, 1:2].expand(-1, 3).flatten()))
    return each.view(len(batch), 3).sum(1)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("ghost", [True, False])
def test_calls_with_several_entries_for_each_row_equal_the_slow_way(ghost, steps):
    c = attack_on(seeded(Twice), score=flattened)
    assert c.logits().std() > 0.01
    engine = Hooked(c, ghost=ghost)
    found = engine.steepest(engine.ball(0.2)) if steps == 1 else climbed(engine, 0.2, steps)
    near(engine.logits(found), slow(c, 0.2, steps=steps, score=flattened)[0], 1e-9)


@pytest.mark.parametrize("ghost", [True, False, None])
def test_weights_of_layers_that_are_never_called_have_no_gradient_and_the_others_their_own(ghost):
    def past_the_layers(model, batch):
        return model.mlp[0](torch.cat([model.user(batch[:, 0])] * 2, 1)).sum(1)

    c = attack_on(seeded(TwoTower), score=past_the_layers)  # mlp.2 and item are left out
    engine = Hooked(c, ghost=ghost)
    gradient, ball = engine.gradient(None), engine.ball(0.2)
    assert gradient["mlp.2.weight"].shape == (USERS, 1, 8) and gradient["item.weight"].shape == (USERS, 0, 5)
    assert not gradient["mlp.2.weight"].any() and not normalize(gradient, ball)["mlp.2.weight"].any()
    for delta in (engine.steepest(ball), normalize(gradient, ball)):
        near(engine.logits(delta), slow(c, 0.2, score=past_the_layers)[0], 1e-9)
    near(engine.logits(climbed(engine, 0.2, 3)), slow(c, 0.2, steps=3, score=past_the_layers)[0], 1e-9)


def test_noise_on_layers_that_are_never_called_changes_nothing():
    c = attack_on(seeded(TwoTower), names=["mlp.0.weight", "item.weight"], score=lambda m, b: m.user(b[:, 0]).sum(1))
    engine = Hooked(c)
    noise = normalize(random_direction(engine.weights, torch.Generator().manual_seed(0)), engine.ball(0.1))
    assert torch.equal(engine.logits(noise), engine.logits(None))
    assert not any(found.any() for found in engine.gradient(noise).values())


# ----- Nothing is left behind -----


def test_the_model_is_as_before_after_an_attack():
    c = attack_on(seeded(TwoTower))
    c.model.item.weight.requires_grad_(False)
    before = trace(c.model)
    engine = Hooked(c)
    engine.logits(normalize(engine.gradient(None), engine.ball(0.1)))
    same(before, trace(c.model))


def test_the_model_is_as_before_after_an_error():
    def fails(model, batch):
        model(batch)
        raise RuntimeError("in the middle")

    c = attack_on(seeded(TwoTower), score=fails)
    before = trace(c.model)
    with pytest.raises(RuntimeError, match="in the middle"):
        Hooked(c).gradient(None)
    same(before, trace(c.model))


# ----- What it cannot do, it refuses -----


def test_a_gru_that_is_attacked_is_refused_and_one_that_is_not_is_fine():
    c = attack_on(seeded(Recurrent))
    with pytest.raises(NotSupported, match="gru.weight_ih_l0: belongs to GRU"):
        Hooked(c)
    c = attack_on(seeded(Recurrent), names=["out.weight", "item.weight"])
    engine = Hooked(c)
    near(engine.logits(engine.steepest(engine.ball(0.1))), slow(c, 0.1)[0], 1e-9)


def test_a_layer_that_does_not_see_the_batch_row_by_row_is_refused():
    def once_per_user(model, batch):
        return (model.user(batch[::N, 0]).repeat_interleave(N, 0) * model.item(batch[:, 1])).sum(1)

    c = attack_on(seeded(TwoTower), names=["user.weight"], score=once_per_user)
    with pytest.raises(NotSupported, match="a Embedding got \\(4,\\) where the batch has 24 rows"):
        Hooked(c).gradient(None)


def test_a_convolution_that_takes_the_batch_for_one_picture_is_refused():
    def one_picture(model, batch):
        return model.convolution(model.item(batch[:, 2:])).sum((1, 2))  # [channels, 3, 5]

    model = seeded(TwoTower)
    model.convolution = torch.nn.Conv2d(USERS * N, USERS * N, 2)
    with pytest.raises(NotSupported, match=r"a Conv2d got \(24, 3, 5\), without a dimension for rows"):
        Hooked(attack_on(model, names=["convolution.weight"], score=one_picture)).gradient(None)


def test_an_output_that_is_overwritten_is_refused():
    def overwrites(model, batch):
        return model.mlp[2](model.mlp[0](torch.cat([model.user(batch[:, 0]), model.item(batch[:, 1])], 1)).mul_(2))

    c = attack_on(seeded(TwoTower), score=overwrites)
    with pytest.raises(NotSupported, match="overwrites"):
        Hooked(c).gradient(None)


def test_rows_that_change_under_attack_are_refused():
    def fickle(model, batch):
        return (model.user(batch[:, 0]) * model.item(batch[:, 1 if torch.is_grad_enabled() else 2])).sum(1)

    engine = Hooked(attack_on(seeded(TwoTower), names=["item.weight"], score=fickle))
    with pytest.raises(NotSupported, match="other rows under attack"):
        engine.logits(engine.steepest(engine.ball(0.1)))


def test_a_table_that_renormalizes_and_a_layer_whose_forward_is_somebodys_own_are_refused():
    c = attack_on(seeded(TwoTower))
    c.model.item.max_norm = 1.0
    with pytest.raises(NotSupported, match="item.weight: belongs to Embedding"):
        Hooked(c)
    c = attack_on(seeded(TwoTower), names=["mlp.0.weight"])
    c.model.mlp[0].forward = lambda x: functional.linear(x, c.model.mlp[0].weight) * 2
    with pytest.raises(NotSupported, match="mlp.0.weight: belongs to Linear"):
        Hooked(c)


def test_embeddings_that_the_model_caches_do_not_hide_the_attack():
    def caching(model, batch):
        if getattr(model, "restore_item_e", None) is None:
            model.restore_item_e = model.item(batch[:, 1])
        return (model.user(batch[:, 0]) * model.restore_item_e).sum(1)

    c = attack_on(seeded(TwoTower), names=["user.weight", "item.weight"], score=caching)
    engine = Hooked(c)
    found = engine.logits(engine.steepest(engine.ball(0.1)))
    assert c.model.restore_item_e is None
    near(found, slow(c, 0.1, score=lambda m, b: (m.user(b[:, 0]) * m.item(b[:, 1])).sum(1))[0], 1e-9)


# ----- RecBole's own models -----


def interactions(model, data, users, items):
    """Return RecBole's batch of users x items, with their features."""
    from recbole.data.interaction import Interaction

    dataset = data.test._dataset
    ids = (torch.arange(users) % (dataset.user_num - 1) + 1).repeat_interleave(items)
    generator = torch.Generator().manual_seed(3)
    columns = {
        dataset.uid_field: ids,
        dataset.iid_field: torch.randint(1, dataset.item_num, ids.shape, generator=generator),
    }
    return dataset.join(Interaction(columns))


def logit(model, batch):
    """Return the logits: RecBole's `predict` of these models is their sigmoid."""
    if hasattr(model, "user_mf_embedding"):
        return model(batch[model.USER_ID], batch[model.ITEM_ID])
    return model(batch)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("target", ["hidden", "all"])
@pytest.mark.parametrize("name", ["NeuMF", "DeepFM"])
def test_recboles_models_get_the_slow_ways_attack_by_hooks_for_fifty_users(settings, name, target, dtype, tolerance):
    from recbole.data.interaction import Interaction

    data, model = prepare(RAWPConfig(config_dict=settings(name)))
    model = model.to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 3  # away from logits near 0
    batch = interactions(model, data, 50, 9)
    if dtype is torch.float64:
        batch = Interaction({k: v.double() if v.is_floating_point() else v for k, v in batch.interaction.items()})
    weights = select(model, target, tables=sized(model, [model.n_users, model.n_items]) if name == "NeuMF" else [])
    mask = torch.ones(50, 9, dtype=torch.bool)
    mask[::7, 5:] = False
    labels = (torch.rand(50, 9, generator=torch.Generator().manual_seed(1)) < 0.5).to(dtype)
    c = UserBatch(model, partial(logit, model), weights, batch, mask, labels)
    assert select_engine(c).name == "hooked"
    engine = Hooked(c)
    near(engine.logits(engine.steepest(engine.ball(0.05))), slow(c, 0.05, score=logit)[0], tolerance)
