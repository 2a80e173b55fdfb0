"""Perturbations inside a norm ball, for all users or for each: noise, FGSM, BIM, PGD, MIM.

A new method is a class of three verbs (`method`) and a line in `methods`; docs/attacks.md shows one. May import:
`core`, `model`, `threats.threat`. Must not enter: RecBole.
"""

from __future__ import annotations

from recbole_rawp.threats.adversarial.method import Method, run
from recbole_rawp.threats.adversarial.methods import METHODS
from recbole_rawp.threats.adversarial.perturbation import Perturbation

__all__ = ["METHODS", "Method", "Perturbation", "run"]
