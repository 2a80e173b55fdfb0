"""Are the other weights used, and are the old ones back, bit for bit, whatever happens?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_rawp.core.overlay import overlay


class Tied(nn.Module):
    """One weight under two names, and an embedding cache as LightGCN keeps it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.restore_user_e = None

    def forward(self, x):
        if self.restore_user_e is None:
            self.restore_user_e = self.second(self.first(x))
        return self.restore_user_e


def test_a_tied_weight_is_replaced_everywhere():
    model, x, other = Tied(), torch.randn(2, 3), torch.randn(3, 3)
    with overlay(model, {"first.weight": other}):
        torch.testing.assert_close(model(x), x @ other.T @ other.T)


def test_caches_are_cleared_on_the_way_in_and_out():
    model, x = Tied(), torch.randn(2, 3)
    clean = model(x).clone()
    with overlay(model, {"first.weight": torch.zeros(3, 3)}):
        assert not model(x).any()
    assert torch.equal(model(x), clean)


def test_the_same_objects_return_after_an_error():
    model = Tied()
    weight, bits = model.first.weight, model.first.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), overlay(model, {"first.weight": weight * 3}):
        raise ZeroDivisionError
    assert model.first.weight is weight and model.second.weight is weight and torch.equal(weight, bits)
    assert list(dict(model.named_parameters())) == ["first.weight"]


def test_an_unknown_name_changes_nothing():
    model = Tied()
    with (
        pytest.raises(AttributeError),
        overlay(model, {"first.weight": torch.zeros(3, 3), "third.weight": torch.zeros(1)}),
    ):
        pass
    assert isinstance(model.first.weight, nn.Parameter) and model.first.weight.any()


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_use_the_tensors_and_pass_gradients_on(layer):
    torch.manual_seed(0)
    model, x = layer(3, 4, batch_first=True).double(), torch.randn(2, 5, 3, dtype=torch.float64)
    delta = {name: 0.1 * torch.randn_like(w) for name, w in model.named_parameters()}
    slow = layer(3, 4, batch_first=True).double()
    slow.load_state_dict({name: w.detach() + delta[name] for name, w in model.named_parameters()})
    slow(x)[0].square().sum().backward()
    clean = model(x)[0]
    with overlay(model, {name: w + delta[name] for name, w in model.named_parameters()}):
        output = model(x)[0]
    output.square().sum().backward()
    for (name, w), (_, expected) in zip(model.named_parameters(), slow.named_parameters()):
        torch.testing.assert_close(w.grad, expected.grad, msg=name)
    assert torch.equal(model(x)[0], clean)


def test_a_replacement_passes_for_a_parameter():
    model = Tied()
    with overlay(model, {"first.weight": model.first.weight + 1}):
        assert isinstance(model.first.weight, nn.Parameter)
