"""Does every user of a batch get the attack that the slow way gives them, from shared passes and without copies?"""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from recbole_rawp.ball import normalize, project, random_direction
from recbole_rawp.config import RAWPConfig
from recbole_rawp.copies import Candidates, NotSupported, OneByOne, Vectorized
from recbole_rawp.hooked import Ghost, Hooked, HookedActivations, choose, disagreement
from recbole_rawp.perturbation import ascend
from recbole_rawp.prepare import prepare
from recbole_rawp.selection import select
from tests.oracle_per_user import attacked, row_norms

USERS, ITEMS, N = 4, 12, 6


class TwoTower(nn.Module):
    """User and item embeddings, then `depth` linear layers."""

    def __init__(self, depth=2, width=8):
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, 5), nn.Embedding(ITEMS, 5)
        sizes = [10] + [width] * (depth - 1) + [1]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, batch):
        return self.mlp(torch.cat([self.user(batch[:, 0]), self.item(batch[:, 1])], 1)).squeeze(1)


class Twice(nn.Module):
    """A linear layer called on sequences [P, L, d] and on the target, each time with gradient."""

    def __init__(self):
        super().__init__()
        self.item, self.same, self.out = nn.Embedding(ITEMS, 5), nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, batch):
        sequence = torch.tanh(self.same(self.item(batch)))
        return self.out(self.same(sequence.mean(1)) * self.same(self.item(batch[:, 1]))).squeeze(1)


class History(nn.Module):
    """One table for the history, whose row 0 is padding, and for the target."""

    def __init__(self):
        super().__init__()
        self.item, self.out = nn.Embedding(ITEMS, 5, padding_idx=0), nn.Linear(5, 1)
        with torch.no_grad():
            self.item.weight[0] = 1.0  # padding that would count

    def forward(self, batch):
        return self.out(self.item(batch[:, 2:]).mean(1) * self.item(batch[:, 1])).squeeze(1)


class Tied(nn.Module):
    """One weight in two linear modules with biases of their own."""

    def __init__(self):
        super().__init__()
        self.item, self.a, self.b = nn.Embedding(ITEMS, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.b.weight = self.a.weight

    def forward(self, batch):
        return self.b(torch.tanh(self.a(self.item(batch[:, 1])))).sum(1)


class Recurrent(nn.Module):
    """A GRU over the history, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.item, self.gru, self.out = nn.Embedding(ITEMS, 5), nn.GRU(5, 5, batch_first=True), nn.Linear(5, 5)

    def forward(self, batch):
        return (self.out(self.gru(self.item(batch[:, 2:]))[0][:, -1]) * self.item(batch[:, 1])).sum(1)


class Convolution(nn.Module):
    """A convolution over the outer product of two embeddings."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, 5), nn.Embedding(ITEMS, 5)
        self.convolution, self.out = nn.Conv2d(1, 3, 3), nn.Linear(27, 1)

    def forward(self, batch):
        square = self.user(batch[:, 0]).unsqueeze(2) * self.item(batch[:, 1]).unsqueeze(1)
        return self.out(self.convolution(square.unsqueeze(1)).flatten(1)).squeeze(1)


class Bypass(nn.Module):
    """The item table is looked up, and also used as a matrix, past its module."""

    def __init__(self):
        super().__init__()
        self.item, self.out = nn.Embedding(ITEMS, 5), nn.Linear(5, 5)

    def forward(self, batch):
        everything = functional.linear(torch.tanh(self.out(self.item(batch[:, 2]))), self.item.weight)
        return everything.gather(1, batch[:, 1:2]).squeeze(1)


def attack_on(model, *, dtype=torch.float64, names=None, score=None, ragged=True, seed=1):
    """Return candidates: columns user, item, and three items of history (0: none)."""
    g = torch.Generator().manual_seed(seed)
    items = torch.randint(1, ITEMS, (USERS * N, 1), generator=g)
    history = torch.randint(0, ITEMS, (USERS, 3), generator=g).repeat_interleave(N, 0)
    batch = torch.cat([torch.arange(USERS).repeat_interleave(N).unsqueeze(1), items, history], 1)
    mask = torch.ones(USERS, N, dtype=torch.bool)
    if ragged:
        mask[1, 4:] = mask[3, 1:] = False
    labels = torch.randint(0, 2, (USERS, N), generator=g).to(dtype)
    model = model.to(dtype).eval()
    weights = select(model, "all" if names is None else names)
    return Candidates(model, model if score is None else partial(score, model), weights, batch, mask, labels)


def slow(candidates, radius, *, steps=1, score=lambda model, batch: model(batch)):
    c = candidates
    return attacked(c.model, score, c.batch, c.labels, c.mask, list(c.weights), radius, steps=steps)


def near(got, want, tolerance):
    assert (got - want).abs().max() <= tolerance * want.abs().max(), (got, want)


def seeded(build, *arguments, **more):
    torch.manual_seed(0)
    return build(*arguments, **more)


def climbed(engine, radius, steps):
    """Return the delta of projected ascent with steps of 2.5 / steps times the radius."""
    ball = engine.ball(radius)
    delta = {name: zero.clone() for name, zero in engine.weights.items()}
    for _ in range(steps):
        step = normalize(engine.gradient(delta), ball.shrunk(2.5 / steps))
        delta = project({name: delta[name] + step[name] for name in step}, ball)
    return delta


MODELS = {
    "MLP over two embeddings": TwoTower,
    "six layers": lambda: TwoTower(depth=6, width=16),
    "layer called on sequences and twice more": Twice,
    "shared embedding with padding": History,
    "one weight in two modules": Tied,
}


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
    slow = OneByOne(engine.candidates)
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
        rows = c.batch[user * N : (user + 1) * N, 1].unique()
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


def test_padding_candidates_do_not_take_part():
    c = attack_on(seeded(TwoTower))
    changed = c.batch.clone()
    changed[(~c.mask).flatten(), 1] = 1
    other = Candidates(c.model, c.score, c.weights, changed, c.mask, c.labels)
    first, second = (e.logits(e.steepest(e.ball(0.3))) for e in (Hooked(c), Hooked(other)))
    near(second[c.mask], first[c.mask], 1e-12)


def test_without_labels_the_clean_models_own_belief_is_attacked():
    c = attack_on(seeded(TwoTower))
    c.model.mlp[-1].bias.data -= c.logits().mean()
    believed = (c.logits() > 0).double()
    assert 0 < believed.sum() < believed.numel()
    engines = [Hooked(Candidates(c.model, c.score, c.weights, c.batch, c.mask, y)) for y in (None, believed)]
    first, second = (e.logits(e.steepest(e.ball(0.2))) for e in engines)
    assert torch.equal(first, second) and torch.equal(engines[0].labels, believed)
    assert torch.equal(engines[0].loss(first), engines[1].loss(second))


def test_the_attack_raises_every_users_loss_more_than_noise_does():
    engine = Hooked(attack_on(seeded(TwoTower)))
    ball = engine.ball(0.1)
    noise = normalize(random_direction(engine.weights, torch.Generator().manual_seed(0)), ball)
    clean, noisy = engine.loss(engine.logits(None)), engine.loss(engine.logits(noise))
    assert (engine.loss(engine.logits(engine.steepest(ball))) > torch.maximum(clean, noisy)).all()


# ----- Nothing is left behind -----


def trace(model):
    """Return what an attack could leave behind."""
    values = {name: (id(p), p.requires_grad, p.grad, p.detach().clone()) for name, p in model.named_parameters()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    return values, hooks, ["forward" in m.__dict__ for m in model.modules()]


def same(before, after):
    assert before[1:] == after[1:]
    for name, (*facts, value) in before[0].items():
        *others, other = after[0][name]
        assert facts == others and torch.equal(value, other), name


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


def test_a_layer_that_is_never_called_is_refused():
    c = attack_on(seeded(TwoTower), names=["item.weight"], score=lambda m, b: m.item.weight[b[:, 1]].sum(1))
    with pytest.raises(NotSupported, match="item.weight: its module is never called"):
        Hooked(c).gradient(None)


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
    with pytest.raises(NotSupported, match="mlp.0: is a Linear"):
        HookedActivations(c, ["mlp.0"])


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


# ----- choose -----


def test_choose_takes_hooks_where_they_are_right():
    choice = choose(attack_on(seeded(TwoTower), dtype=torch.float32))
    assert (choice.name, choice.reason) == ("hooked", "")
    assert isinstance(choice.make(attack_on(seeded(TwoTower))), Hooked)


def test_choose_catches_a_table_used_past_its_module():
    c = attack_on(seeded(Bypass))
    wrong, right = Hooked(c), slow(c, 0.1)[0]
    assert (wrong.logits(wrong.steepest(wrong.ball(0.1))) - right).abs().max() > 1e-3  # silently wrong
    choice = choose(c)
    assert choice.name == "vmap" and choice.reason.startswith("hooked: the gradient of item.weight has norms")
    engine = choice.make(c)
    near(engine.logits(engine.steepest(engine.ball(0.1))), right, 1e-9)


def test_choose_catches_it_where_the_model_is_too_sure_to_have_a_gradient():
    c = attack_on(seeded(Bypass), score=lambda model, batch: model(batch) + 1000)
    sure = Candidates(c.model, c.score, c.weights, c.batch, c.mask, torch.ones_like(c.labels))
    assert all((found == 0).all() for found in OneByOne(sure).gradient(None).values())
    assert choose(sure).name == "vmap"


def test_choose_compares_the_attacked_logits_too():
    class Idle(Hooked):
        """Never moves."""

        def logits(self, delta):
            return super().logits(None)

    c = attack_on(seeded(TwoTower))
    assert disagreement(Hooked(c), OneByOne(c), 0.01, 1e-3) == ""
    assert disagreement(Idle(c), OneByOne(c), 0.01, 1e-3).startswith("the logits at radius 0.01 differ by up to")


def test_choose_takes_vmap_for_a_convolution():
    c = attack_on(seeded(Convolution))
    choice = choose(c)
    assert choice.name == "vmap" and "belongs to Conv2d" in choice.reason
    assert isinstance(choice.make(c), Vectorized)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_choose_finds_an_engine_for_a_gru():
    c = attack_on(seeded(Recurrent))
    choice = choose(c)
    assert choice.name in ("vmap", "loop") and "belongs to GRU" in choice.reason
    engine = choice.make(c)
    near(engine.logits(engine.steepest(engine.ball(0.1))), slow(c, 0.1)[0], 1e-9)


def test_choose_loops_where_vmap_cannot_follow():
    def asks(model, batch):
        logits = model(batch)
        return logits if float(logits.sum().detach()) > -1e9 else logits * 2

    c = attack_on(seeded(Convolution), score=asks)
    choice = choose(c)
    assert choice.name == "loop" and "vmap: RuntimeError" in choice.reason


# ----- Activations -----


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
    weights = select(model, target, vocabulary=[model.n_users, model.n_items] if name == "NeuMF" else [])
    mask = torch.ones(50, 9, dtype=torch.bool)
    mask[::7, 5:] = False
    labels = (torch.rand(50, 9, generator=torch.Generator().manual_seed(1)) < 0.5).to(dtype)
    c = Candidates(model, partial(logit, model), weights, batch, mask, labels)
    assert choose(c).name == "hooked"
    engine = Hooked(c)
    near(engine.logits(engine.steepest(engine.ball(0.05))), slow(c, 0.05, score=logit)[0], tolerance)
