"""Tiny models with users to attack, and the slow way's answers: what the tests of attacks per user share."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from recbole_rawp.core.ball import normalize, project
from recbole_rawp.core.selection import select
from recbole_rawp.threats.adversarial.per_user.engine import UserBatch
from tests.oracle_per_user import attacked

USERS, ITEMS, N = 4, 12, 6


class TwoTower(nn.Module):
    """User and item embeddings, then `depth` linear layers."""

    def __init__(self, depth=2, width=8):
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, 5), nn.Embedding(ITEMS, 5)
        sizes = [10] + [width] * (depth - 1) + [1]
        layers = [part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), nn.ReLU())]
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

    def __init__(self, out=27, groups=1, **geometry):
        super().__init__()
        self.user, self.item, self.groups = nn.Embedding(USERS, 5), nn.Embedding(ITEMS, 5), groups
        self.convolution, self.out = nn.Conv2d(groups, 3 * groups, 3, groups=groups, **geometry), nn.Linear(out, 1)

    def forward(self, batch):
        square = self.user(batch[:, 0]).unsqueeze(2) * self.item(batch[:, 1]).unsqueeze(1)
        maps = self.convolution(square.unsqueeze(1).repeat(1, self.groups, 1, 1))
        return self.out(maps.view(len(batch), -1)).squeeze(1)  # a view, as Caser's


class Convolutions(nn.Module):
    """Padded, strided and dilated ones in two dimensions and in one, called on all history items and on the target."""

    def __init__(self):
        super().__init__()
        self.item, self.out = nn.Embedding(ITEMS, 5), nn.Linear(8, 1)
        self.square = nn.Conv2d(1, 3, 3, padding=(1, 2), stride=(2, 1), dilation=(1, 2), bias=False)
        self.line = nn.Conv1d(3, 2, 4, padding=1, stride=3, dilation=2)

    def forward(self, batch):
        item, history = self.item(batch[:, 1]), self.item(batch[:, 2:].flatten())  # [P, 5], [3 P, 5]
        target, past = (self.square((x.unsqueeze(2) * x.unsqueeze(1)).unsqueeze(1)) for x in (item, history))
        both = torch.tanh(target.flatten(2)) * past.view(-1, 3, 3, 15).sum(1)  # [P, 3, 15]
        return self.out(self.line(both).flatten(1)).squeeze(1)


class TiedConvolutions(nn.Module):
    """One weight in two convolutions, of one geometry or of two."""

    def __init__(self, **other):
        super().__init__()
        self.item, self.a, self.b = nn.Embedding(ITEMS, 5), nn.Conv1d(1, 1, 2), nn.Conv1d(1, 1, 2, **other)
        self.b.weight = self.a.weight

    def forward(self, batch):
        return self.b(torch.tanh(self.a(self.item(batch[:, 1:2])))).sum((1, 2))


class Bypass(nn.Module):
    """The item table is looked up, and also used as a matrix, past its module."""

    def __init__(self):
        super().__init__()
        self.item, self.out = nn.Embedding(ITEMS, 5), nn.Linear(5, 5)

    def forward(self, batch):
        everything = functional.linear(torch.tanh(self.out(self.item(batch[:, 2]))), self.item.weight)
        return everything.gather(1, batch[:, 1:2]).squeeze(1)


def attack_on(model, *, dtype=torch.float64, names=None, score=None, ragged=True):
    """Return users with candidates: columns user, item, and three items of history (0: none)."""
    g = torch.Generator().manual_seed(1)
    items = torch.randint(1, ITEMS, (USERS * N, 1), generator=g)
    history = torch.randint(0, ITEMS, (USERS, 3), generator=g).repeat_interleave(N, 0)
    batch = torch.cat([torch.arange(USERS).repeat_interleave(N).unsqueeze(1), items, history], 1)
    mask = torch.ones(USERS, N, dtype=torch.bool)
    if ragged:
        mask[1, 4:] = mask[3, 1:] = False
    labels = torch.randint(0, 2, (USERS, N), generator=g).to(dtype)
    model = model.to(dtype).eval()
    weights = select(model, "all" if names is None else names)
    return UserBatch(model, model if score is None else partial(score, model), weights, batch, mask, labels)


def slow(c, radius, *, steps=1, score=lambda model, batch: model(batch)):
    return attacked(c.model, score, c.inputs, c.labels, c.mask, list(c.weights), radius, steps=steps)


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
    "convolution": Convolution,
    "convolutions of other geometry, one called twice": Convolutions,
    "circular convolution": lambda: Convolution(out=75, padding=3, padding_mode="circular", dilation=3),
    "convolution of the same size": lambda: Convolution(padding="same", out=75),
    "one weight in two convolutions": TiedConvolutions,
}


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
