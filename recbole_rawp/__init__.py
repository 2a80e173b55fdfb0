"""RAWP-FT for RecBole: train models whose ranking survives small changes of their weights.

Qian et al., Knowledge-Based Systems 314 (2025) 113181. The numeric core (`selection`, `ball`, `preserve`,
`overlay`, `perturbation`, `objective`) needs torch and numpy; everything that needs RecBole is imported when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from recbole_rawp import compat
from recbole_rawp.errors import InputError
from recbole_rawp.model import place

if TYPE_CHECKING:
    from recbole_rawp.config import RAWPConfig
    from recbole_rawp.ft_trainer import RAWPFTTrainer
    from recbole_rawp.quick_start import (
        attack_checkpoint,
        continue_run,
        harden_checkpoint,
        rank_checkpoint,
        run_recbole_rawp,
    )
    from recbole_rawp.registration import register, robustify, unregister
    from recbole_rawp.trainer import RAWPTrainer
    from recbole_rawp.tuning import objective_function

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "RAWPConfig",
    "RAWPFTTrainer",
    "RAWPTrainer",
    "attack_checkpoint",
    "continue_run",
    "harden_checkpoint",
    "objective_function",
    "rank_checkpoint",
    "register",
    "robustify",
    "run_recbole_rawp",
    "unregister",
]

compat.apply()
place.apply()

_HOME = {
    "RAWPConfig": "config",
    "run_recbole_rawp": "quick_start",
    "attack_checkpoint": "quick_start",
    "continue_run": "quick_start",
    "harden_checkpoint": "quick_start",
    "rank_checkpoint": "quick_start",
    "objective_function": "tuning",
    "RAWPTrainer": "trainer",
    "RAWPFTTrainer": "ft_trainer",
    "robustify": "registration",
    "register": "registration",
    "unregister": "registration",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recbole_rawp' has no attribute '{name}'")
    return getattr(importlib.import_module(f"recbole_rawp.{_HOME[name]}"), name)
