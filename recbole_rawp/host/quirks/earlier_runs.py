"""Checks which of its runs a model is in that RecBole trains in several: all but the first need a checkpoint."""

from __future__ import annotations

from pathlib import Path

from recbole.config import Config

from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.host.quirks.registry import QUIRKS, Pretraining


def pretrained() -> dict[str, Pretraining]:
    """Return the models that are trained in several runs: name -> these."""
    return {name: runs for quirk in QUIRKS for name, runs in quirk.pretraining.items()}


def check_run(config: Config) -> None:
    """Raise InputError if a model's run is none of its own, or the checkpoint that it goes on from is missing."""
    known = pretrained().get(config["model"])
    if known is None:
        return
    run, file = config[known.key], config[known.file]
    if run not in known.names:
        raise InputError(
            f"{known.key}: {run!r} is no stage of {config['model']}, which has {', '.join(known.names)}."
            f"{suggestion(str(run), known.names)}"
        )
    if run != known.names[0] and not (file and Path(file).is_file()):
        raise InputError(
            f"{known.file}: {file!r} is not a file, but {known.key} '{run}' goes on from an earlier checkpoint. "
            f"{known.first} first, and name the file that it saved."
        )


def begun_from(config: Config, checkpoint: str) -> dict[str, str]:
    """Return the setting that lets a later run's model be built where the file it once went on from is gone.

    The constructor reads some weights of that shape; those of `checkpoint` itself serve, and are loaded next.
    A model that would read another's (ConvNCF) is made as in its first run.
    """
    known = pretrained().get(config["model"])
    if known is None or Path(config[known.file] or "").is_file():
        return {}
    return {known.key: known.names[0]} if known.earlier else {known.file: checkpoint}
