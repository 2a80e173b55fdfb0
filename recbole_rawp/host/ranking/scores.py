"""Says which clean score a tolerance asks for of a valid metric, of which more or less is better."""

from __future__ import annotations


def limit(clean: float, tolerance: float, *, bigger: bool) -> float:
    """Return the clean score that must be kept: tolerance * clean, or clean / tolerance where less is better."""
    return clean - (1 - tolerance) * abs(clean) if bigger else clean + (1 / tolerance - 1) * abs(clean)
