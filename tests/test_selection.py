"""Exactly the intended weights are selected."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_rawp.core import selection
from recbole_rawp.errors import InputError


class Toy(nn.Module):
    """5 users and 7 items; a hidden layer, a vocabulary-sized one, tied weights, norms, a frozen layer."""

    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(5, 3)
        self.hidden = nn.Linear(3, 4)
        self.tied = nn.Linear(3, 4)
        self.tied.weight = self.hidden.weight
        self.to_items = nn.Linear(4, 7)
        self.to_both = nn.Linear(4, 12)
        self.norm = nn.LayerNorm([3, 4])
        self.batch_norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.raw = nn.Parameter(torch.ones(2, 2))
        self.bias = nn.Parameter(torch.ones(7))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("hidden", ["raw", "hidden.weight"]),
        ("embeddings", ["users.weight", "to_items.weight", "to_both.weight"]),
        ("all", ["raw", "users.weight", "hidden.weight", "to_items.weight", "to_both.weight"]),
        ("to_*", ["to_items.weight", "to_both.weight"]),
        (["raw", "hid*"], ["raw", "hidden.weight"]),
    ],
)
def test_a_target_names_its_weights(target, expected):
    assert list(selection.select(Toy(), target, tables=selection.sized(Toy(), [5, 7]))) == expected


def test_without_tables_only_the_owner_decides():
    assert "to_items.weight" in selection.select(Toy(), "hidden")


def test_a_size_one_off_is_not_the_vocabulary():
    assert "to_items.weight" not in selection.sized(Toy(), [5, 8])


def test_a_pattern_that_matches_nothing_names_what_there_is():
    with pytest.raises(InputError, match=r"'hiden\*' matches no weight of Toy.*Did you mean 'hidden.*Available: raw"):
        selection.select(Toy(), ["hiden*"])


def test_a_model_without_hidden_weights_names_the_remedy():
    with pytest.raises(InputError, match="Embedding has no hidden weight.*--rawp_target=embeddings"):
        selection.select(nn.Embedding(3, 2), "hidden")


def test_norm_weights_have_mean_one_and_the_norms_proportions():
    weights = {"a": torch.full((1, 4), 1.0), "b": torch.full((1, 4), 3.0)}
    assert selection.layer_weights(weights, "norm") == pytest.approx({"a": 0.5, "b": 1.5})
    assert selection.layer_weights(weights, "uniform") == {"a": 1.0, "b": 1.0}
    assert selection.layer_weights({"a": torch.zeros(2, 2)}, "norm") == {"a": 1.0}


def test_a_mapping_is_literal_the_last_match_wins_and_the_rest_is_one():
    weights = dict.fromkeys(["mlp.0", "mlp.1", "out"], torch.ones(1, 1))
    assert selection.layer_weights(weights, {"mlp*": 2, "mlp.1": 0.5}) == {"mlp.0": 2.0, "mlp.1": 0.5, "out": 1.0}
    with pytest.raises(InputError, match="'mpl"):
        selection.layer_weights(weights, {"mpl*": 2})


def test_masks_follow_their_probability_and_their_generator():
    names = [str(n) for n in range(4000)]
    draw = selection.draw_mask(names, 0.25, torch.Generator().manual_seed(0))
    assert sum(draw.values()) / 4000 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    assert draw == selection.draw_mask(names, 0.25, torch.Generator().manual_seed(0))
    assert all(selection.draw_mask(names, 1.0, torch.Generator().manual_seed(1)).values())
