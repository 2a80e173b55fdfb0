"""Models as users bring them: classes that RecBole does not know by name."""

from __future__ import annotations

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.general_recommender import Pop
from recbole.utils import InputType
from torch import nn


class MyDeep(GeneralRecommender):
    """Embeddings of users and items, and two layers over them."""

    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        width = config["my_width"] or 8
        self.users, self.items = nn.Embedding(self.n_users, width), nn.Embedding(self.n_items, width)
        self.layers = nn.Sequential(nn.Linear(2 * width, 7), nn.Tanh(), nn.Linear(7, 1))

    def score(self, user, item):
        return self.layers(torch.cat([self.users(user), self.items(item)], dim=-1)).squeeze(-1)

    def calculate_loss(self, interaction):
        user = interaction[self.USER_ID]
        good, bad = self.score(user, interaction[self.ITEM_ID]), self.score(user, interaction[self.NEG_ITEM_ID])
        return -nn.functional.logsigmoid(good - bad).mean()

    def predict(self, interaction):
        return self.score(interaction[self.USER_ID], interaction[self.ITEM_ID])


class Random(MyDeep):
    """One that has the name of a model of RecBole's without weights."""


class MyPop(Pop):
    """One that derives from such a model."""


class NoModel(nn.Module):
    """One that does not derive from RecBole's."""


class Listed(MyDeep):
    """One that keeps weights in a list, and computes with those."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        first, _, last = self.layers
        self.ws = [first.weight, (first.bias, last.weight)]

    def score(self, user, item):
        given = torch.cat([self.users(user), self.items(item)], dim=-1)
        first, (bias, last) = self.ws
        return (torch.tanh(given @ first.T + bias) @ last.T).squeeze(-1)


class Half(MyDeep):
    """One that computes with what it has made of a weight once."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.first = self.layers[0].weight.T

    def score(self, user, item):
        given = torch.cat([self.users(user), self.items(item)], dim=-1)
        return self.layers[2](torch.tanh(given @ self.first)).squeeze(-1)


class Caching(MyDeep):
    """One that caches a weight itself: torch takes that for one parameter more."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.restore_item_e = None

    def full_sort_predict(self, interaction):
        user = self.users(interaction[self.USER_ID])
        if self.restore_item_e is None:
            self.restore_item_e = self.items.weight
        size = (len(user), len(self.restore_item_e), -1)
        both = torch.cat([user[:, None].expand(size), self.restore_item_e[None].expand(size)], -1)
        return self.layers(both).view(-1)


class Scripted(MyDeep):
    """One with a compiled part."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.layers = torch.jit.script(self.layers)


class Lossless(MyDeep):
    """One whose trainer has the loss."""

    def other_loss(self, interaction):
        return MyDeep.calculate_loss(self, interaction)

    def calculate_loss(self, interaction):
        raise NotImplementedError


class LossOfTwo(Lossless):
    """One whose loss wants more than a batch."""

    def calculate_loss(self, interaction, graph):
        raise AssertionError
