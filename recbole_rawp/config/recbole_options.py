"""Knows RecBole's own options: which ones it does not list, which decide what is measured, and their types."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from recbole_rawp.errors import InputError

MEASURED = (  # which data are measured, and what is ranked
    *("eval_args", "repeatable", "benchmark_filename", "threshold", "val_interval", "filter_inter_by_user_or_item"),
    *("user_inter_num_interval", "item_inter_num_interval", "rm_dup_inter"),
)
# Keys that RecBole reads without giving them a default or listing them.
UNLISTED = {"model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "offset", "local_rank"}

EXPECTED = {bool: "true or false", int: "int", float: "float"}
# Options whose default is an int, and whose use in RecBole 1.2.1 takes any number: weights, shares, probabilities.
ANY_NUMBER = {
    *("dropout_prob", "hidden_dropout_prob"),  # GRU4RecCPR, SASRecCPR: 0
    *("global_ratio", "spatial_ratio", "topk_factor"),  # FEARec: 1, 0, 1
    "negative_weight",  # SimpleX: 10, of a loss
    "q",  # AsymKNN: 1, an exponent
    "reg_weight",  # DCN, DCNV2: 2, of a loss
    "resolution",  # NNCF: 1, of Louvain's communities
    "total_anneal_steps",  # MultiVAE, MacridVAE, RaCT: 200000, a divisor
    "w_max",  # DiffRec, LDiffRec: 1, of a loss
}
# Options whose default is an int, and whose use in RecBole 1.2.1 asks for no type.
ANY_VALUE = {
    *("context_norm", "post_remove_context", "use_proj_bias"),  # the CPR models: 0 or 1, used as flags
    "reranker_CAN_NUM",  # the CPR models: sizes with commas between them
    "xgb_verbose_eval",  # XGBoost: a number or a flag
}
NONE_TOO = {  # and none of it: "not set"
    "loss_decimal_place",  # then 4
    "metric_decimal_place",  # then none is cut
    "normalize_all",  # without a default but for ml-100k
}


def check_types(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise InputError for a scalar option of RecBole's whose value is of another type than its default.

    An int is asked for where the default is one, a number where it is a float, and a bool where it is one. Defaults
    that are words, lists, dictionaries or nothing say nothing of what is possible.
    """
    for key in (key for key in given if key in defaults):
        kind = type(defaults[key])
        if kind not in EXPECTED or key in ANY_VALUE or (given[key] is None and key in NONE_TOO):
            continue
        kind = float if key in ANY_NUMBER else kind
        if not is_of(kind, given[key]):
            raise InputError(
                f"{key}: {given[key]!r} is not valid; expected {EXPECTED[kind]}, such as RecBole's {defaults[key]!r}."
            )


def is_of(kind: type, value: Any) -> bool:
    """Tell whether the value, numpy's numbers too, is a bool, int or float; a bool is no number, an int a float."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, Integral if kind is int else Real)
