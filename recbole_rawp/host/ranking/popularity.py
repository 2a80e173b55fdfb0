"""Ranks by popularity: what a trained model must beat before its robustness means anything."""

from __future__ import annotations

from typing import Any

import torch
from recbole.utils import EvaluatorType
from torch import Tensor

from recbole_rawp.host.ranking.logits import answering
from recbole_rawp.host.ranking.measurement import ranked


def by_popularity(trainer: Any, train_data: Any, eval_data: Any) -> dict[str, float]:
    """Return RecBole's evaluation of the training data's popularity, unrounded. Within `measuring`."""
    by_value = trainer.config["eval_type"] == EvaluatorType.VALUE
    scores = popularity(train_data, trainer.config["LABEL_FIELD"] if by_value else None).to(trainer.device)
    item = eval_data._dataset.iid_field
    answers = {"predict": lambda rows: scores[rows[item]], "full_sort_predict": lambda rows: scores.repeat(len(rows))}
    with torch.no_grad(), answering(trainer.model, answers):
        return ranked(trainer, eval_data).metrics


def popularity(train_data: Any, label: str | None) -> Tensor:
    """Return each item's training interactions, [items]; with the name of a label its mean, drawn to that of all."""
    dataset = getattr(train_data, "general_dataloader", train_data)._dataset
    rows = dataset.inter_feat
    items, count = rows[dataset.iid_field], dataset.item_num
    number = torch.bincount(items, minlength=count).float()
    if label is None or label not in rows.interaction:
        return number
    liked = torch.bincount(items, weights=rows[label].double(), minlength=count).float()
    return (liked + rows[label].float().mean()) / (number + 1)
