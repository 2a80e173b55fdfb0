"""Takes users, with what is ranked for them, out of RecBole's loaders, for the ranking loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_rawp.core import restoring
from recbole_rawp.core.losses.ranking import ENTRIES
from recbole_rawp.core.restoring import SEED, seed_generators
from recbole_rawp.host.batches import fixed_batches, loader_generators
from recbole_rawp.host.ranking.candidates import copied_dataset, draw, frozen, samples
from recbole_rawp.host.ranking.item_chunks import rows_of

ROWS = 2**16  # pairs of a user and an item that go through `predict` in one gradient
AT_ONCE = 4096  # labelled rows that are compared with each other


@dataclass(frozen=True)
class Users:
    """Some users, what is ranked for them, and what is to be found.

    Attributes:
        rows: of RecBole, a user each, for `full_sort_predict`; or a user and an item each, for `predict`.
        users, places: [P], whose each item to be found is, and its column among the scores.
        columns: [U, n], the row of each score among `rows`, -1 for none; None where `full_sort_predict` gives them all.
        hidden: indices of scores that are not ranked: the history, and RecBole's item 0.
        everything: [U], how many items are ranked for them, of which the scores may be a sample.
        spread: [U], of the clean scores, once it is known.
    """

    rows: Interaction
    users: Tensor
    places: Tensor
    columns: Tensor | None
    hidden: tuple[Tensor, Tensor] | None
    everything: Tensor
    spread: Tensor | None = None

    def __len__(self) -> int:
        return len(self.everything)


@dataclass(frozen=True)
class Labelled:
    """Some labelled rows, and the spread of their clean scores, once it is known."""

    rows: Interaction
    spread: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)


def training_loader(config: Any, train_data: Any) -> FullSortEvalDataLoader:
    """Return a loader that ranks all items for each user of the training data, whose own items are to be found."""
    part = getattr(train_data, "general_dataloader", train_data)
    return FullSortEvalDataLoader(config, copied_dataset(part._dataset), _NothingElse())


class _NothingElse:
    """Takes a sampler's place, and knows of no item that is used and not to be found."""

    used_ids: ClassVar[dict[int, set[int]]] = defaultdict(set)


def labelled(config: Any, loader: Any) -> Iterator[Labelled]:
    """Yield labelled rows of an evaluation loader, `ROWS` of them, drawn once."""
    with _undisturbed(loader), frozen(loader, draw(loader, SEED) if samples(loader) else None):
        if samples(loader):
            rows = [batch[0] for batch in loader]
        else:
            rows = [loader.collate_fn(part.numpy())[0] for part in _drawn(loader.sample_size, ROWS).split(AT_ONCE)]
    yield from (Labelled(part.to(config["device"])) for part in rows)


def labelled_in_training(config: Any, train_data: Any, count: int) -> Iterator[Labelled]:
    """Yield the labelled rows of training batches."""
    for batch in fixed_batches(train_data, count, config["device"]):
        if config["LABEL_FIELD"] in batch:
            yield Labelled(batch)


def with_all_items(loader: FullSortEvalDataLoader, users: int, device: Any) -> Iterator[Users]:
    """Yield users of a full-sort loader, for whom `full_sort_predict` scores all items."""
    items = loader._dataset.item_num
    for rows, history, owners, found in _full(loader, users, max(1, ENTRIES // items), device):
        count = len(rows)
        nobody = torch.arange(count, device=device), torch.zeros(count, dtype=torch.long, device=device)
        hidden = tuple(torch.cat(pair) for pair in zip(nobody, history)) if history else nobody
        number = torch.bincount(hidden[0], minlength=count)
        yield Users(rows, owners, found, None, hidden, items - number)  # type: ignore[arg-type]


def with_some_items(
    loader: FullSortEvalDataLoader, users: int, negatives: int, features: Interaction, device: Any
) -> Iterator[Users]:
    """Yield users of a full-sort loader with rows for `predict`: the items to be found and `negatives` others.

    `features` are those of all items, as RecBole's trainer keeps them.
    """
    items = loader._dataset.item_num
    generator = torch.Generator().manual_seed(SEED)
    for rows, history, owners, found in _full(loader, min(users, ROWS // (negatives + 1)), AT_ONCE, device):
        count = len(rows)
        chance = torch.rand(count, items, generator=generator).to(device)
        chance[:, 0] = chance[owners, found] = -1.0
        if history:
            chance[history] = -1.0
        free = (chance >= 0).sum(1)
        others = chance.topk(min(negatives, items - 1), dim=1)
        number = torch.bincount(owners, minlength=count)
        columns, at, taken = [], 0, []
        for user in range(count):
            mine = torch.cat([found[owners == user], others.indices[user][others.values[user] >= 0]])
            columns.append(torch.arange(at, at + len(mine), device=device))
            taken.append(mine)
            at += len(mine)
        index = torch.cat([torch.full_like(mine, user) for user, mine in enumerate(taken)])
        both = rows_of(rows, index)
        both.update(rows_of(features, torch.cat(taken)))
        places = torch.cat([torch.arange(int(n), device=device) for n in number])
        order = torch.argsort(owners, stable=True)
        padded = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=-1)
        yield Users(both, owners[order], places, padded, None, free + number)


def with_candidates(loader: Any, users: int, device: Any) -> Iterator[Users]:
    """Yield users of a loader that samples, with its candidates, drawn once; about `ROWS` rows in all."""
    with _undisturbed(loader), frozen(loader, draw(loader, SEED)):
        for part in _drawn(loader.sample_size, _fitting(loader, users)).split(_users_at_once(loader)):
            rows, owner, owners, _ = loader.collate_fn(part.numpy())
            owner, owners = owner.to(device), owners.to(device)
            columns, mask = rectangle(owner)
            number = torch.bincount(owners)  # RecBole puts those to be found first
            places = torch.cat([torch.arange(int(n), device=device) for n in number])
            sought = torch.arange(mask.shape[1], device=device) < number.unsqueeze(1)
            counted = once(rows[loader.iid_field].to(device)[columns], mask, sought)
            padded = torch.where(counted, columns, -1)
            yield Users(rows.to(device), owners, places, padded, None, counted.sum(1))


def rectangle(owner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row numbers of each user's candidates, [U, n], and where they are real ones, [U, n].

    `owner`, [rows], numbers the users in ascending order; users with fewer candidates repeat their first.
    """
    counts = torch.bincount(owner)
    place = torch.arange(int(counts.max()), device=owner.device)
    mask = place < counts.unsqueeze(1)
    first = (counts.cumsum(0) - counts).unsqueeze(1)
    return first + torch.where(mask, place, 0), mask


def once(items: Tensor, mask: Tensor, sought: Tensor) -> Tensor:
    """Return where in `mask` an item stands for the first time in its row, or is `sought`, [U, n].

    `candidates.draw` repeats items where a user has too few; RecBole's metrics rank each of them once.
    """
    ordered, order = torch.where(mask, items, -1).sort(dim=1, stable=True)
    first = torch.ones_like(mask)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return mask & (sought | torch.zeros_like(mask).scatter(1, order, first))


def _full(loader: FullSortEvalDataLoader, users: int, at_once: int, device: Any) -> Iterator[tuple[Any, ...]]:
    """Yield users' rows, history (indices, or None), and the items to be found with the users whose they are."""
    with _undisturbed(loader):
        for part in _drawn(loader.sample_size, users).split(at_once):
            rows, history, owners, found = loader.collate_fn(part.numpy())
            moved = tuple(index.to(device) for index in history) if history is not None else None
            yield rows.to(device), moved, owners.to(device), found.to(device)


def _users_at_once(loader: Any) -> int:
    """Return how many users of a loader that samples have about `AT_ONCE` rows."""
    return max(1, int(AT_ONCE // _rows_each(loader)))


def _fitting(loader: Any, users: int) -> int:
    """Return how many users have about `ROWS` rows, or `users`."""
    return max(1, min(users, int(ROWS // _rows_each(loader))))


def _rows_each(loader: Any) -> float:
    """Return how many rows a user of a loader that samples has, on average; at least 1."""
    return max(1.0, float(np.mean(loader.uid2items_num[loader.uid_list])) * loader.times)


def _drawn(whole: int, number: int) -> Tensor:
    """Return the numbers of some rows of a loader, ascending, the same on every call."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randperm(whole, generator=generator)[:number].sort().values


@contextmanager
def _undisturbed(loader: Any) -> Iterator[None]:
    """Let a loader draw, always the same, and leave all generators as they were."""
    with restoring.rng(loader_generators(loader)):
        seed_generators()
        yield
