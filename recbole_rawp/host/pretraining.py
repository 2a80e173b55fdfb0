"""Which stages does a model train in?  S3Rec, RaCT, KD_DAGFM and ConvNCF go on from an earlier run's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recbole.config import Config
from torch import nn

from recbole_rawp.errors import InputError, suggestion


@dataclass(frozen=True)
class Stages:
    """How a staged model is told where it stands.

    Attributes:
        key: the setting that names the stage.
        names: the stages in order; each but the first goes on from a checkpoint.
        file: the setting that names that checkpoint.
        earlier: the model whose checkpoint it is; empty: the same.
    """

    key: str
    names: tuple[str, ...]
    file: str
    earlier: str = ""

    @property
    def first(self) -> str:
        """What to do before a later stage."""
        return f"Train {self.earlier} of the same size" if self.earlier else f"Run {self.key}={self.names[0]}"


STAGED = {
    "S3Rec": Stages("train_stage", ("pretrain", "finetune"), "pre_model_path"),
    "RaCT": Stages("train_stage", ("actor_pretrain", "critic_pretrain", "finetune"), "pre_model_path"),
    "KD_DAGFM": Stages("phase", ("teacher_training", "distillation", "finetuning"), "warm_up"),
    "ConvNCF": Stages("train_method", ("no_pretrain", "after_pretrain"), "pre_model_path", earlier="BPR"),
}


def check_stage(config: Config) -> None:
    """Raise InputError if a staged model's stage is none of its own, or the checkpoint it goes on from is missing."""
    stages = STAGED.get(config["model"])
    if stages is None:
        return
    stage, file = config[stages.key], config[stages.file]
    if stage not in stages.names:
        raise InputError(
            f"{stages.key}: {stage!r} is no stage of {config['model']}, which has {', '.join(stages.names)}."
            f"{suggestion(str(stage), stages.names)}"
        )
    if stage != stages.names[0] and not (file and Path(file).is_file()):
        raise InputError(
            f"{stages.file}: {file!r} is not a file, but {stages.key} '{stage}' goes on from an earlier checkpoint. "
            f"{stages.first} first, and name the file that it saved."
        )


def begun_from(config: Config, checkpoint: str) -> dict[str, str]:
    """Return the setting that lets a later stage's model be built where the file it once went on from is gone.

    The constructor reads some weights of that shape; those of `checkpoint` itself serve, and are loaded next.
    ConvNCF, which would read another model's, is made as in its first stage.
    """
    stages = STAGED.get(config["model"])
    if stages is None or Path(config[stages.file] or "").is_file():
        return {}
    return {stages.key: stages.names[0]} if stages.earlier else {stages.file: checkpoint}


def pretraining(model: nn.Module) -> bool:
    """Tell whether the model is in a stage before the one that counts (S3Rec, RaCT): not repaired."""
    return getattr(model, "train_stage", "finetune") != "finetune"
