"""The methods that look for the worst perturbation inside a ball, by name."""

from __future__ import annotations

from recbole_rawp.threats.adversarial.gradient import BIM, FGSM, MIM, PGD
from recbole_rawp.threats.adversarial.method import Method
from recbole_rawp.threats.adversarial.noise import Noise

METHODS: dict[str, Method] = {"noise": Noise(), "fgsm": FGSM(), "bim": BIM(), "pgd": PGD(), "mim": MIM()}
