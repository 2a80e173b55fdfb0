"""Looks through the numeric features that a model takes for numbers of which it can make nothing: infinite or huge."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from recbole.config import Config

from recbole_rawp.errors import InputError
from recbole_rawp.host.data import files, headers
from recbole_rawp.host.data.headers import broken

LARGEST = math.sqrt(float(np.finfo(np.float32).max))  # whose square is one still


def check_numbers(config: Config, dataset: Any) -> None:
    """Raise InputError, with file, line and value, for a numeric feature whose numbers no model can take.

    As RecBole loaded them: `normalize_all` brings large ones into bounds.
    """
    for field in config["numerical_features"] or ():
        for feat in (dataset.inter_feat, dataset.user_feat, dataset.item_feat):
            if feat is not None and field in feat and not usable(feat[field]):
                raise unusable(config, field)


def usable(column: Any) -> bool:
    """Tell whether a column's numbers, some of them in lists, are finite and not too large."""
    values = column.to_numpy()
    if values.dtype == object:
        values = np.concatenate([np.ravel(np.asarray(value, dtype=float)) for value in values])
    return bool((np.abs(values.astype(float)) <= LARGEST).all())


def unusable(config: Config, field: str) -> InputError:
    """Return the error for a numeric feature: where its first infinite or huge number stands."""
    layout = files.layout_of(config)
    for path in files.paths(config).values():
        header = headers.read(path, layout)
        for number, row in headers.rows_of(header, layout) if field in header.columns else ():
            cell = dict(zip(header.columns, row)).get(field, "")
            if any(is_large(part) for part in cell.split(str(config["seq_separator"]))):
                what = f"line {number}: {cell!r} in column '{field}' is no number that a model can take"
                return broken(path, what, f"Mend the value, or leave {field} out of numerical_features.")
    return InputError(f"numerical_features: '{field}' holds no numbers that a model can take. Leave it out.")


def is_large(text: str) -> bool:
    """Tell whether a text is an infinite or huge number; one that is missing is filled by RecBole."""
    try:
        return abs(float(text)) > LARGEST
    except ValueError:
        return False
