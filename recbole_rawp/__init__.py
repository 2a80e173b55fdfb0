"""RAWP-FT for RecBole: train models whose ranking survives small changes of their weights.

Qian et al., Knowledge-Based Systems 314 (2025) 113181. Importing this package changes nothing and imports
nothing heavy: each public name is imported when it is first used, and RecBole is mended for today's libraries
(`compat`) when a job starts, by `register()` and `robustify()`, or by `compat.apply()`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from recbole_rawp.errors import InputError

if TYPE_CHECKING:
    from recbole_rawp.host import compat
    from recbole_rawp.host.config import RAWPConfig
    from recbole_rawp.jobs.attack import attack_checkpoint
    from recbole_rawp.jobs.harden import harden_checkpoint
    from recbole_rawp.jobs.rank import rank_checkpoint
    from recbole_rawp.jobs.train import continue_run, run_recbole_rawp
    from recbole_rawp.jobs.trial import objective_function
    from recbole_rawp.training.registration import register, robustify, unregister
    from recbole_rawp.training.trainer import RAWPFTTrainer, RAWPTrainer

__version__ = "0.2.0"
__all__ = [
    "InputError",
    "RAWPConfig",
    "RAWPFTTrainer",
    "RAWPTrainer",
    "attack_checkpoint",
    "compat",
    "continue_run",
    "harden_checkpoint",
    "objective_function",
    "rank_checkpoint",
    "register",
    "robustify",
    "run_recbole_rawp",
    "unregister",
]

_HOME = {  # public name -> the module that holds it
    "RAWPConfig": "host.config",
    "run_recbole_rawp": "jobs.train",
    "attack_checkpoint": "jobs.attack",
    "continue_run": "jobs.train",
    "harden_checkpoint": "jobs.harden",
    "rank_checkpoint": "jobs.rank",
    "objective_function": "jobs.trial",
    "RAWPTrainer": "training.trainer",
    "RAWPFTTrainer": "training.trainer",
    "robustify": "training.registration",
    "register": "training.registration",
    "unregister": "training.registration",
}


def __getattr__(name: str) -> Any:
    if name == "compat":
        return importlib.import_module("recbole_rawp.host.compat")
    if name not in _HOME:
        raise AttributeError(f"module 'recbole_rawp' has no attribute '{name}'")
    return getattr(importlib.import_module(f"recbole_rawp.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
