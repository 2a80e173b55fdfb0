"""Is a linear layer over sparse rows, called with their numbers, the dense layer over the rows?"""

from __future__ import annotations

import io
from copy import deepcopy

import pytest
import torch
from scipy.sparse import coo_matrix
from torch import nn

from recbole_rawp.core.overlay import overlay
from recbole_rawp.model.sparse_linear import Pair, SparseLinear, SparseRows

HEIGHT, WIDTH, OUT = 9, 14, 5


def example():
    """Return rows, one of them empty, and the same as a dense matrix."""
    dense = (torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    dense[4] = 0
    return SparseRows.from_pairs(*dense.nonzero().T, dense.shape), dense


def twins(bias=True):
    torch.manual_seed(0)
    rows, matrix = example()
    sparse, dense = SparseLinear(rows, OUT, bias=bias).double(), nn.Linear(WIDTH, OUT, bias=bias).double()
    dense.load_state_dict(sparse.state_dict())
    return sparse, dense, matrix


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("numbers", [[3, 3, 1, 4, 3, 0], [4], [], [[0, 1], [8, 0], [8, 8]]], ids=str)
def test_outputs_and_gradients_are_the_dense_layers(numbers, bias):
    sparse, dense, matrix = twins(bias)
    numbers = torch.tensor(numbers, dtype=torch.long)
    got, want = sparse(numbers), dense(matrix[numbers])
    assert got.shape == want.shape and torch.allclose(got, want, rtol=1e-12, atol=1e-12)
    slopes = torch.randn_like(want)
    for result in (got, want):
        result.backward(slopes)
    for mine, theirs in zip(sparse.parameters(), dense.parameters()):
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def by_column(weight):
    """Tell whether a matrix lies in memory column by column."""
    return weight.t().is_contiguous() and not weight.is_contiguous()


def trained(layer, steps=3):
    """Return the layer after steps of Adam, and the moments of its weight."""
    adam = torch.optim.Adam(layer.parameters(), 0.1)
    for step in range(steps):
        adam.zero_grad()
        layer(torch.tensor([step, 3, 3, 8])).square().sum().backward()
        adam.step()
    return layer, adam.state[layer.weight]


def test_a_turned_layer_has_the_same_weight_and_trains_bit_by_bit_as_before():
    plain, _, _ = twins()
    turned = deepcopy(plain)
    turned.turn()
    assert torch.equal(turned.weight, plain.weight) and turned.weight.shape == (OUT, WIDTH)
    start = turned.weight.detach().clone()
    for mine, theirs in zip(trained(turned)[0].parameters(), trained(plain)[0].parameters()):
        assert torch.equal(mine, theirs)
    assert (turned.weight - start).abs().max() > 0.1 and not by_column(plain.weight)


def test_nothing_turns_a_turned_layer_back():
    plain, dense, _ = twins()
    plain.turn()
    layer, moments = trained(plain)
    assert by_column(layer.weight) and by_column(layer.weight.grad) and by_column(moments["exp_avg"])
    layer.load_state_dict(dense.state_dict())
    assert torch.equal(layer.weight, dense.weight)
    torch.save(layer.state_dict(), file := io.BytesIO())
    file.seek(0)
    dense.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(layer.weight, dense.weight) and dense.weight.is_contiguous()
    nn.init.xavier_normal_(layer.weight.data)
    assert not torch.equal(layer.weight, dense.weight)
    assert by_column(layer.weight) and by_column(deepcopy(layer).weight) and by_column(layer.float().weight)


def test_a_turned_layer_runs_with_other_weights_without_a_copy(monkeypatch):
    layer, dense, matrix = twins()
    layer.turn()
    delta, numbers = torch.randn(OUT, WIDTH, dtype=torch.float64), torch.tensor([0, 3, 3])
    read, times = [], SparseRows.times
    monkeypatch.setattr(SparseRows, "times", lambda rows, m: read.append(m) or times(rows, m))
    moved = layer.weight + delta
    with overlay(layer, {"weight": moved}):
        got = layer(numbers)
    want = nn.functional.linear(matrix[numbers], dense.weight + delta, dense.bias)
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-12)
    assert read[0].is_contiguous() and read[0].data_ptr() == moved.data_ptr()
    (slope,) = torch.autograd.grad(got.sin().sum(), layer.weight)
    (theirs,) = torch.autograd.grad(want.sin().sum(), dense.weight)
    assert by_column(slope) and torch.allclose(slope, theirs, rtol=1e-12, atol=1e-12)


def test_it_is_saved_as_the_dense_layer_is_and_the_rows_follow_to_a_device():
    sparse, dense, _ = twins()
    assert list(sparse.state_dict()) == list(dense.state_dict()) and isinstance(sparse, nn.Linear)
    assert sparse.to("meta").rows.indices.device.type == "meta"


def test_every_distinct_row_is_computed_once(monkeypatch):
    sparse, _, _ = twins()
    lengths, times = [], SparseRows.times
    monkeypatch.setattr(SparseRows, "times", lambda rows, m: lengths.append(len(rows)) or times(rows, m))
    sparse(torch.tensor([7] * 100 + [2] * 50))
    assert lengths == [2]


def test_rows_from_scipy_count_doubles_once_and_stored_zeros_not():
    matrix = coo_matrix(([1.0, 2.0, 5.0, 0.0], ([0, 0, 2, 1], [1, 1, 0, 2])), (3, 4))
    rows = SparseRows.from_scipy(matrix)
    assert rows.dense(torch.float64).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]] and len(rows) == 3


def test_taken_rows_are_those_of_the_matrix_in_any_order():
    rows, dense = example()
    numbers = torch.tensor([8, 4, 0, 0, 3])
    assert torch.equal(rows.take(numbers).dense(torch.float64), dense[numbers])
    matrix = torch.randn(WIDTH, 3, dtype=torch.float64)
    assert torch.allclose(rows.times(matrix), dense @ matrix, rtol=1e-12)


def twin_pairs():
    """Return a Pair, the same function in dense form (pairs, its weights) -> outputs, and pairs that share rows."""
    torch.manual_seed(0)
    rows, dense = example()
    pair = Pair(rows, SparseRows.from_pairs(*dense.T.nonzero().T, dense.T.shape), 6, OUT).double()

    def written(pairs, w):
        vectors = [
            nn.functional.linear(matrix[numbers], w[f"{name}.weight"], w[f"{name}.bias"])
            for matrix, numbers, name in ((dense, pairs[:, 0], "user"), (dense.T, pairs[:, 1], "item"))
        ]
        return nn.functional.linear(torch.cat(vectors, 1), w["merge.weight"], w["merge.bias"])

    return pair, written, torch.tensor([[3, 0], [3, 13], [8, 0], [4, 5], [3, 0]])


def same_with_gradients(got, want, mine, theirs):
    """Tell whether outputs and the gradients of a bent sum of them are the same."""
    slopes = [torch.autograd.grad(y.sin().sum(), list(w)) for y, w in ((got, mine), (want, theirs))]
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in [(got, want), *zip(*slopes)])


@pytest.mark.parametrize("number", [0, 1, 5])
def test_a_pair_is_both_rows_layers_concatenated_and_a_third_on_them(number):
    pair, written, pairs = twin_pairs()
    weights = dict(pair.named_parameters())
    got, want = pair(pairs[:number]), written(pairs[:number], weights)
    assert got.shape == (number, OUT) and same_with_gradients(got, want, weights.values(), weights.values())


def test_a_pair_runs_with_other_weights_and_passes_gradients_to_its_own():
    pair, written, pairs = twin_pairs()
    weights = dict(pair.named_parameters())
    moved = {name: weight + torch.randn_like(weight) for name, weight in weights.items()}
    with overlay(pair, moved):
        got = pair(pairs)
    assert same_with_gradients(got, written(pairs, moved), weights.values(), weights.values())
    assert not torch.allclose(got, pair(pairs))


def test_each_half_of_a_pairs_last_layer_is_made_once_per_user_and_item(monkeypatch):
    pair, _, pairs = twin_pairs()
    lengths, linear = [], nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, *more: lengths.append(len(x)) or linear(x, *more))
    pair(pairs.repeat(100, 1))
    assert lengths == [3, 3]


def look(how, module, seen):
    """Have `seen` noted at calls of the module; return how to undo it."""
    if how == "forward of its own":
        module.forward = lambda x: seen.append(module) or type(module).forward(module, x)
        return lambda: module.__dict__.pop("forward")
    register = getattr(nn.modules.module if "module" in how else module, how)
    return register(lambda called, *more: None if called is not module else seen.append(module)).remove


LOOKS = ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]
LOOKS = [f"register_{name}" for name in LOOKS] + [f"register_module_{name}" for name in LOOKS] + ["forward of its own"]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the numbers of rows have no gradient
@pytest.mark.parametrize("how", LOOKS)
@pytest.mark.parametrize("name", ["user", "item", "merge"])
def test_who_looks_at_a_pairs_layer_sees_it_called_and_the_same_comes_out(name, how):
    pair, written, pairs = twin_pairs()
    seen, weights = [], dict(pair.named_parameters())
    undo = look(how, pair.get_submodule(name), seen)
    try:
        got = pair(pairs)
        assert same_with_gradients(got, written(pairs, weights), weights.values(), weights.values())
    finally:
        undo()
    assert seen == [pair.get_submodule(name)]
    pair(pairs).sum().backward()
    assert len(seen) == 1


def test_a_hook_on_the_last_layer_of_a_pair_moves_every_pairs_output():
    pair, _, pairs = twin_pairs()
    clean, shift = pair(pairs), torch.randn(len(pairs), OUT, dtype=torch.float64)
    handle = pair.merge.register_forward_hook(lambda module, args, output: output + shift)
    assert torch.allclose(pair(pairs), clean + shift, rtol=1e-12, atol=1e-12)
    handle.remove()


def test_a_layer_of_another_class_in_a_pair_is_called():
    class Half(nn.Linear):
        """Half of what the layer gives."""

        def forward(self, input):
            return super().forward(input) / 2

    pair, _, pairs = twin_pairs()
    clean, half = pair(pairs), Half(12, OUT).double()
    half.load_state_dict(pair.merge.state_dict())
    pair.merge = half
    assert torch.allclose(pair(pairs), clean / 2, rtol=1e-12, atol=1e-12)
