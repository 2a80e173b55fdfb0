"""Does an extra pass leave no trace?"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from recbole_rawp.core import restoring


class Stateful(nn.Module):
    """What RecBole's losses change outside their weights, in one module."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.update = 0
        self.history = torch.zeros(4)
        self.alias = self.history
        self.pairs = np.arange(5)
        self.large = torch.zeros(restoring.CLONE_LIMIT + 1)

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
