"""The users that an evaluation ranks, and their habits: how active they are, how popular their test items."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import ModelType


def ranked_users(eval_data: Any) -> np.ndarray:
    """Return the internal id of the user in each row of the collected results, [U]."""
    if isinstance(eval_data, FullSortEvalDataLoader) and eval_data.is_sequential:
        return eval_data._dataset.inter_feat[eval_data.uid_field].numpy()
    return np.asarray(eval_data.uid_list)


def habits(train_data: Any, eval_data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each of `ranked_users`, the training interactions, [U], and how popular the test items are, [U].

    Popularity is the mean count of training interactions of the user's test items.
    """
    test = eval_data._dataset.inter_feat
    user, item = eval_data._dataset.uid_field, eval_data._dataset.iid_field
    history = interactions(train_data)
    activity, counts = Counter(history[0].tolist()), Counter(history[1].tolist())
    users = ranked_users(eval_data)
    popularity = np.array([counts[i] for i in test[item].numpy().tolist()], dtype=float)
    if len(users) != len(test) or not np.array_equal(users, test[user].numpy()):  # several rows of a user count as one
        rows = test[user].numpy()
        sums, numbers = np.bincount(rows, popularity), np.bincount(rows)
        popularity = sums[users] / numbers[users]
    return np.array([activity[u] for u in users.tolist()]), popularity


def interactions(train_data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return users and items of the training interactions, [n] each.

    A sequential data set has a row for each but a user's first, which stands at the head of the item list.
    """
    dataset = train_data._dataset
    rows, user, item = dataset.inter_feat, dataset.uid_field, dataset.iid_field
    users, items = rows[user].numpy(), rows[item].numpy()
    lists, lengths = item + dataset.config["LIST_SUFFIX"], dataset.config["ITEM_LIST_LENGTH_FIELD"]
    if dataset.config["MODEL_TYPE"] != ModelType.SEQUENTIAL or lists not in rows.columns:
        return users, items
    first = rows[lengths].numpy() == 1
    return np.concatenate([users[first], users]), np.concatenate([rows[lists].numpy()[first, 0], items])
