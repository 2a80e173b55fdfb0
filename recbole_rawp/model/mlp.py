"""The network that the published attacks break: the multi-layer perceptron over interaction rows.

    user's row, 1 where the user interacted    -> Linear(n_items, 512)  \\
                                                                         concatenated -> 512 .. 16 with ReLU -> 1
    item's row, 1 where users interacted       -> Linear(n_users, 512)  /

It is CFNet-ml of DeepCF (Deng et al., AAAI 2019), nine layers; there is no activation between the rows' layers and the
first hidden one. The rows are those of the training data. As published, they are the same in training and after: the
row of a user contains the very item that a training example asks for.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.init import xavier_normal_initialization
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_rawp.model.sparse_linear import Pair, SparseRows

HIDDEN = (512, 256, 128, 64, 32, 16)
CHUNK = 2**13  # pairs that full_sort_predict scores at once: 32 MB per 1024 values each


class MLP(GeneralRecommender):
    """The network as RecBole runs it: pointwise, so RecBole samples the negatives and gives them the label 0.

    Args:
        config: RecBole's; `mlp_hidden_size` may be set, the first size is the rows' layers', too.
        dataset: of the training interactions.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]
        sizes = list(config["mlp_hidden_size"] or HIDDEN)
        seen = dataset.inter_matrix(form="coo")
        self.pair = Pair(SparseRows.from_scipy(seen), SparseRows.from_scipy(seen.T), sizes[0], sizes[0])
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.predict_layer = nn.Linear(sizes[-1], 1)
        self.loss = nn.BCEWithLogitsLoss()
        self.apply(xavier_normal_initialization)
        self.pair.user.turn()
        self.pair.item.turn()

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return the logits [P] of pairs."""
        return self._rest(self.pair(torch.stack([user, item], dim=1)))

    def _rest(self, x: Tensor) -> Tensor:
        """Return the logits [P] of what the first hidden layer gives."""
        for layer in self.hidden:
            x = layer(torch.relu(x))
        return self.predict_layer(torch.relu(x)).squeeze(1)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return the mean binary cross entropy."""
        logits = self.forward(interaction[self.USER_ID], interaction[self.ITEM_ID])
        return self.loss(logits, interaction[self.LABEL])

    def predict(self, interaction: Any) -> Tensor:
        """Return the probabilities [P]."""
        return torch.sigmoid(self.forward(interaction[self.USER_ID], interaction[self.ITEM_ID]))

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Return each user's probabilities of all items, [users * n_items]."""
        users = self.pair.user(interaction[self.USER_ID])
        items = self.pair.item(torch.arange(self.n_items, device=users.device))
        scores = [self._all_items(few, items) for few in users.split(max(1, CHUNK // self.n_items))]
        return torch.sigmoid(torch.cat(scores))

    def _all_items(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the logits [u * n_items] of all pairs, `CHUNK` or one user's at a time."""
        owner = torch.arange(len(users), device=users.device).repeat_interleave(len(items))
        other = torch.arange(len(items), device=users.device).repeat(len(users))
        parts = zip(owner.split(CHUNK), other.split(CHUNK))
        return torch.cat([self._rest(self.pair.merge(torch.cat([users[u], items[i]], dim=1))) for u, i in parts])
