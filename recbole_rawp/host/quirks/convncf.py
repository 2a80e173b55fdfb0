"""ConvNCF: it may begin with the embeddings of a trained BPR."""

from __future__ import annotations

from typing import ClassVar

from recbole_rawp.host.quirks.registry import Pretraining, Quirk, register


@register
class ConvNCF(Quirk):
    """Its second run reads the checkpoint of another model."""

    pretraining: ClassVar = {
        "ConvNCF": Pretraining("train_method", ("no_pretrain", "after_pretrain"), "pre_model_path", earlier="BPR")
    }
