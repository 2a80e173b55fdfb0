"""Is a linear layer over sparse rows, called with their numbers, the dense layer over the rows?"""

from __future__ import annotations

import pytest
import torch
from scipy.sparse import coo_matrix
from torch import nn

from recbole_rawp.model.sparse_linear import Pair, SparseLinear, SparseRows

HEIGHT, WIDTH, OUT = 9, 14, 5


def example(seed=0):
    """Return rows, one of them empty, and the same as a dense matrix."""
    dense = (torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) < 0.3).double()
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


def test_a_pair_is_both_rows_layers_concatenated_and_a_third_on_them():
    torch.manual_seed(0)
    rows, dense = example()
    back = SparseRows.from_pairs(*dense.T.nonzero().T, dense.T.shape)
    pair = Pair(rows, back, 6, OUT).double()
    users, items = torch.tensor([3, 3, 8]), torch.tensor([0, 13, 0])
    vectors = [
        nn.functional.linear(matrix[numbers], layer.weight, layer.bias)
        for matrix, numbers, layer in ((dense, users, pair.user), (dense.T, items, pair.item))
    ]
    want = pair.merge(torch.cat(vectors, 1))
    assert torch.allclose(pair(torch.stack([users, items], 1)), want, rtol=1e-12, atol=1e-12)
