"""Which attacks are there?  A new one is a class of three verbs in this folder, and a line here (docs/attacks.md)."""

from __future__ import annotations

from recbole_rawp.threats.adversarial.gradient import BIM, FGSM, MIM, PGD
from recbole_rawp.threats.adversarial.method import Attack, run
from recbole_rawp.threats.adversarial.noise import Noise

__all__ = ["ATTACKS", "Attack", "run"]

ATTACKS: dict[str, Attack] = {"random": Noise(), "fgsm": FGSM(), "bim": BIM(), "pgd": PGD(), "mim": MIM()}
