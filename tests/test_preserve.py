"""An extra pass leaves no trace."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from recbole_rawp.core import restoring
from recbole_rawp.core import restoring as copies
from recbole_rawp.core.objective import Objective, Recipe


class Stateful(nn.Module):
    """What RecBole's losses change outside their weights, in one module."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.update = 0
        self.history = torch.zeros(4)
        self.alias = self.history
        self.pairs = np.arange(5)
        self.large = torch.zeros(copies.CLONE_LIMIT + 1)

    def forward(self, x):
        self.update += 1
        self.history[0] += 1
        self.pairs[0] += 1
        self.extra = 1
        return self.norm(x)


def numbers():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()


def test_generators_go_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = numbers()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with pytest.raises(ZeroDivisionError), restoring.rng():
        numbers()
        raise ZeroDivisionError
    assert numbers() == expected


def test_state_returns_after_an_error_and_aliases_stay_aliases():
    model, x = Stateful(), torch.randn(5, 3)
    objects = dict(model.norm._buffers), dict(model.__dict__)
    with pytest.raises(ZeroDivisionError), restoring.state(model):
        model(x)
        assert model.update == 1 and model.history[0] == 1 and model.alias is model.history
        raise ZeroDivisionError
    assert all(model.norm._buffers[name] is buffer for name, buffer in objects[0].items())
    assert all(model.__dict__[name] is value for name, value in objects[1].items())
    assert not model.history.any() and model.pairs[0] == 0 and not hasattr(model, "extra")
    assert not model.norm.running_mean.any() and model.norm.num_batches_tracked == 0


def test_a_graph_that_saved_batchnorm_statistics_survives():
    model, x = Stateful(), torch.randn(5, 3, requires_grad=True)
    loss = model(x).square().sum()
    with restoring.state(model):
        model(x)
    loss.backward()


def test_large_state_changed_in_place_is_an_error_not_a_silent_leak():
    model = Stateful()
    with pytest.raises(RuntimeError, match="Stateful.large changed in place"), restoring.state(model):
        model.large[0] = 1


Pair = namedtuple("Pair", "left right")


class Hoarder(nn.Module):
    """Keeps state in containers, as a user's own loss may."""

    def __init__(self):
        super().__init__()
        self.losses = [1.0]
        self.outside = self.losses  # somebody else who holds it
        self.counts = Counter(steps=3)
        self.ordered = OrderedDict(a=1, b=2)
        self.seen, self.last = {1, 2}, deque([1, 2, 3], maxlen=3)
        self.centres = {"users": torch.ones(2), "items": np.ones(2), "shared": torch.zeros(1)}
        self.shared = self.centres["shared"]
        self.nested = {"epochs": [[1], {"best": [torch.ones(1), 2]}], "pair": Pair(torch.ones(1), [0])}
        self.queues = defaultdict(list, {0: [torch.ones(1)]})
        self.round = [1]
        self.round.append(self.round)
        self.long = list(range(copies.NOTE_LIMIT + 1))
        self.many = dict.fromkeys(range(copies.NOTE_LIMIT + 1), 0)

    def forward(self, x):
        self.losses.append(2.0)
        self.counts["steps"] += 1
        self.ordered.move_to_end("a")
        self.seen.discard(1), self.seen.add(9), self.last.append(4)
        self.centres["users"] += 1
        self.centres["items"][0] = 5
        self.centres["shared"] += 1
        self.nested["epochs"][1]["best"][0].zero_()
        self.nested["epochs"][1]["best"][1] = "other"
        self.nested["epochs"][0] = None
        self.nested["pair"].left.zero_(), self.nested["pair"].right.append(1)
        self.nested["new"] = 1
        self.queues[0][0] += 1
        self.queues[1].append(1)
        self.round.clear()
        self.long.append(1)
        self.many["new"] = 1
        return x


def content(value, seen=()):
    """Return the identity of a value and of all that it holds, and the numbers in it."""
    if id(value) in seen:
        return id(value)
    if isinstance(value, dict):
        return id(value), type(value), [(key, content(entry, (*seen, id(value)))) for key, entry in value.items()]
    if isinstance(value, (list, tuple, set, deque)):
        return id(value), type(value), [content(entry, (*seen, id(value))) for entry in value]
    return id(value), value.tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value


def test_containers_come_back_the_same_objects_with_the_same_content():
    model = Hoarder()
    before = {name: content(value) for name, value in vars(model).items() if not name.startswith("_")}
    for error in (None, ZeroDivisionError):
        try:
            with restoring.state(model):
                model(None)
                assert model.losses == model.outside == [1.0, 2.0] and model.counts["steps"] == 4
                assert model.shared is model.centres["shared"] and model.shared.item() == 1
                assert model.nested["new"] == 1 and model.queues[0][0].item() == 2 and model.many["new"] == 1
                raise error or StopAsyncIteration
        except (ZeroDivisionError, StopAsyncIteration):
            pass
        assert {name: content(value) for name, value in vars(model).items() if not name.startswith("_")} == before
        assert model.outside is model.losses and model.last.maxlen == 3 and model.queues.default_factory is list


@pytest.mark.parametrize("clean_weight", [0.0, 1.0])
def test_of_all_passes_over_a_batch_one_leaves_its_marks(clean_weight):
    model = Hoarder()
    model.layer = nn.Linear(2, 1)
    weights, recipe = {"layer.weight": model.layer.weight}, Recipe(0.5, steps=3, clean_weight=clean_weight)
    objective = Objective(model, weights, recipe, omega={"layer.weight": 1.0}, generator=torch.Generator())
    objective(lambda batch: model.layer(model(batch)).square().mean(), torch.ones(4, 2)).backward()
    assert model.losses == [1.0, 2.0] and model.counts["steps"] == 4


def test_a_graph_that_saved_a_tensor_in_a_container_survives():
    model, x = Hoarder(), torch.randn(2, requires_grad=True)
    loss = (model.centres["users"] * x).sum()
    with restoring.state(model):
        model(None)
    loss.backward()


@pytest.mark.parametrize(
    "change", [lambda m: m.long.pop(), lambda m: m.tensors[-1].zero_(), lambda m: m.large[0].zero_()]
)
def test_what_is_too_large_to_note_and_cannot_be_put_back_is_an_error(change):
    model = Hoarder()
    model.tensors = [torch.ones(1) for _ in range(copies.NOTE_LIMIT // copies.TENSOR + 1)]
    model.large = [torch.zeros(copies.CLONE_LIMIT + 1)]
    with pytest.raises(RuntimeError, match="Hoarder.(long|tensors|large) changed in place"), restoring.state(model):
        change(model)


def test_weights_in_a_list_are_no_state():
    model = nn.Module()
    model.weights = [nn.Parameter(torch.ones(1))]
    with restoring.state(model), torch.no_grad():
        model.weights[0] += 1
    assert model.weights[0].item() == 2
