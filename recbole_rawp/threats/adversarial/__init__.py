"""Perturbations inside a norm ball, for all users or for each: noise, FGSM, BIM, PGD, MIM, APGD and others.

A new method is a class of three verbs that registers itself (`method`), and an import here; docs/attacks.md shows one.
May import: `core`, `model`, `threats.threat`. Must not enter: RecBole.
"""

from __future__ import annotations

from recbole_rawp.threats.adversarial import noise  # isort: skip  (the control comes first in lists)
from recbole_rawp.threats.adversarial import apgd, gradient, random_search, transfer
from recbole_rawp.threats.adversarial.perturbation import Perturbation

__all__ = ["Perturbation", "apgd", "gradient", "noise", "random_search", "transfer"]
