"""Keeps RecBole 1.2.1 alive on today's Python, torch, numpy, scipy and dgl, its KSR at all, and adds our networks.

Nothing is mended at import. `RAWPConfig`, with which every job begins, `RAWPTrainer`, `robustify` and `register` call
`apply`; who uses RecBole's own functions without any of these (`load_data_and_model`) calls it first. RecBole's modules
import without shims, all but `recbole.quick_start`, which none of ours imports: so they may stand at the top of a file.

Each shim acts only where its defect is found and only for code inside the package `recbole`, and can be applied any
number of times. May import: torch, numpy, scipy, `networks`. Must not enter: RecBole, which a shim waits for.
"""

from __future__ import annotations

import numpy as np
import torch

from recbole_rawp.host.compat import awaited, libraries
from recbole_rawp.host.models import networks


def apply() -> list[str]:
    """Apply every shim whose defect is present; return the names of those applied by this call.

    Changes `torch.load`, scipy's `dok_matrix`, numpy's `__getattr__` and `sys.meta_path`, as said beside each shim.
    Where ray is missing or broken, call it before `recbole.quick_start` is imported.
    """
    applied = []
    if libraries.torch_load_refuses_objects():
        torch.load = libraries.trusting_load(torch.load)
        applied.append("torch.load")
    dok_matrix = libraries.scipy_dok_matrix()
    if dok_matrix is not None and not hasattr(dok_matrix, "_update"):
        dok_matrix._update = libraries.dok_update
        applied.append("dok_matrix._update")
    if libraries.numpy_lacks_old_names():
        vars(np)["__getattr__"] = libraries.remembering_old_names(np.__getattr__)
        applied.append("numpy.float")
    return applied + networks.apply() + awaited.apply()
