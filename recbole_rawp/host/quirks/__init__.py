"""What do single models of RecBole need that others do not?  State that they keep beside their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recbole_rawp.core.overlay import clear_caches


@contextmanager
def modules_kept(model: Any) -> Iterator[None]:
    """Let RecBole load a checkpoint into the model's own modules.

    RecBole swaps whole modules in from the checkpoint (SASRecF, FDSA, GRU4RecF, DIN, DIEN), which its optimizer does
    not hold: they would silently stop training. Their weights are in the state_dict too, so nothing is missed.
    Embeddings that the model cached before the load are forgotten. What RecBole leaves out of its checkpoints is made
    from the loaded weights: KGAT's attention matrix, and NCL's clusters, as at the start of an epoch.
    """

    def load_other_parameter(parameters: dict[str, Any] | None) -> None:
        """Load the other parameters, modules left out."""
        rest = {name: value for name, value in (parameters or {}).items() if not isinstance(value, nn.Module)}
        type(model).load_other_parameter(model, rest)
        settle(model)
        if hasattr(model, "e_step"):
            model.e_step()

    model.load_other_parameter = load_other_parameter
    try:
        yield
    finally:
        del model.load_other_parameter


def settle(model: nn.Module) -> None:
    """Bring up to date what a model holds beside weights that are there to stay, as after an epoch of training.

    Cached embeddings go. KGAT's attention matrix, which is in no checkpoint, is computed from the weights. An overlay
    leaves that matrix alone: it is the trained model's, like a weight that is not perturbed.
    """
    clear_caches(model.modules())
    if hasattr(model, "update_attentive_A"):
        with torch.no_grad():
            model.update_attentive_A()  # type: ignore[operator]
