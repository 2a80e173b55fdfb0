"""An attack that is found on another model, and carried over."""

from __future__ import annotations

from recbole_rawp.threats.adversarial.apgd import APGD
from recbole_rawp.threats.adversarial.method import register


@register("transfer")
class Transfer(APGD):
    """APGD on the plain twin of a hardened model, or on one of another seed, stretched to this model's ball.

    What hardening did to the gradients does not hide these (transfer attacks: Papernot et al., 2016).
    """

    title = "carried over from the plain twin (APGD)"
    at_random = True
    warm = False
    from_twin = True
