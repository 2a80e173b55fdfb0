"""Takes logits of models whose `predict` ends in a sigmoid.

RecBole models differ: `predict` of NeuMF or DeepFM ends in a sigmoid, that of BPR or SASRec returns a raw score. The
pseudo-label means sigmoid(logit) > 0.5 in both cases, and the gradient is lost once a sigmoid has rounded to 0 or 1.
So the logit is taken before the last sigmoid, not computed back from the probability. Under attack it is also what is
ranked: an attack drives scores above 17, where a float's sigmoid is 1, and RecBole would rank many ones by item id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Score = Callable[[Any], Tensor]  # `predict` or `full_sort_predict` of a model
# What `nn.Sigmoid`, `F.sigmoid` and models call.
SIGMOIDS = (torch.sigmoid, Tensor.sigmoid, torch.special.expit)


class SigmoidWatch(TorchFunctionMode):
    """Note every sigmoid that runs inside; optionally let one of them pass its argument through.

    Works inside `torch.func.vmap` and `grad`: it looks at which function is called, never at values.
    """

    def __init__(self, *, omit: int | None = None) -> None:
        """Watch; the call number `omit`, counted from 1, returns its argument."""
        super().__init__()
        self.omit = omit
        self.calls = 0
        self.argument: Tensor | None = None  # of the last call
        self.result: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, and remember what a sigmoid was given and what it returned."""
        kwargs = kwargs or {}
        if func not in SIGMOIDS:
            return func(*args, **kwargs)
        self.calls += 1
        self.argument = args[0] if args else kwargs["input"]
        self.result = self.argument if self.calls == self.omit else func(*args, **kwargs)
        return self.result


def ends_in_sigmoid(model: Any, interaction: Any) -> bool:
    """Return whether `model.predict` returns the last sigmoid it computes, or entries of it, in any shape.

    Decided by running `predict` once (twice if it has a sigmoid with more entries than results, as CDAE's over all
    items), without gradient. The model should be in evaluation mode, for dropout would draw. A sigmoid inside the
    network (MKR, gates) is none at the end. A softmax over the candidates is none either: such a model's probabilities
    are treated as raw scores, and all of them get the label 1.

    Args:
        model: has `predict(interaction) -> scores`.
        interaction: a batch with two rows or more, so that values can tell one tensor from another.
    """
    with torch.no_grad():
        return _both(model.predict, interaction)[1] is not None


def predict_logits(model: Any, interaction: Any, sigmoid: bool) -> Tensor:
    """Return what `model.predict` would return without its last sigmoid, flattened, [n], differentiable.

    It does not saturate: a logit of 60 comes back as 60, and the gradient passes by the sigmoid. Where the sigmoid has
    more entries than results, `predict` runs twice. Usable inside `torch.func.vmap` and `grad`.

    Args:
        model: has `predict(interaction) -> scores`.
        interaction: the batch.
        sigmoid: what `ends_in_sigmoid` said; if False the raw scores are returned.

    Raises:
        RuntimeError: if `sigmoid` is True and `predict` computes none.
    """
    scores, watch = _watched(model.predict, interaction)
    if not sigmoid:
        return scores.reshape(-1)
    if watch.argument is None:
        raise RuntimeError(f"{type(model).__name__}.predict was said to end in a sigmoid and computes none")
    if watch.argument.numel() == scores.numel():
        return watch.argument.reshape(-1)
    return _omitting(watch.calls, model.predict, interaction).reshape(-1)


@contextmanager
def ranked_by_logits(model: nn.Module) -> Iterator[None]:
    """Let `predict` and `full_sort_predict` leave out the sigmoid that they end in, if they do."""
    verbs = [verb for verb in ("predict", "full_sort_predict") if hasattr(model, verb)]
    with answering(model, {verb: partial(_logits, getattr(model, verb)) for verb in verbs}):
        yield


@contextmanager
def answering(model: nn.Module, answers: Mapping[str, Score]) -> Iterator[None]:
    """Let a model's verbs give other answers; what it had of its own comes back afterwards, also after an error."""
    earlier = {verb: vars(model)[verb] for verb in answers if verb in vars(model)}
    for verb, answer in answers.items():
        setattr(model, verb, answer)
    try:
        yield
    finally:
        for verb in answers:
            del vars(model)[verb]
        vars(model).update(earlier)


def _logits(score: Score, interaction: Any) -> Tensor:
    """Return the scores without the sigmoid that they end in, or as they are."""
    scores, logits = _both(score, interaction)
    return scores if logits is None else logits


def _both(score: Score, interaction: Any) -> tuple[Tensor, Tensor | None]:
    """Return the scores, and what they are without the sigmoid that they end in; None if they do not."""
    scores, watch = _watched(score, interaction)
    if watch.result is None or watch.argument is None:
        return scores, None
    if watch.result.numel() == scores.numel():
        same = torch.equal(watch.result.reshape(-1), scores.reshape(-1))
        return scores, watch.argument.reshape(scores.shape) if same else None
    logits = _omitting(watch.calls, score, interaction)
    return scores, logits if torch.equal(torch.sigmoid(logits), scores) else None


def _watched(score: Score, interaction: Any) -> tuple[Tensor, SigmoidWatch]:
    """Return the scores and what was seen on the way."""
    with SigmoidWatch() as watch:
        scores = score(interaction)
    return scores, watch


def _omitting(call: int, score: Score, interaction: Any) -> Tensor:
    """Return the scores as they are without the sigmoid of that number."""
    with SigmoidWatch(omit=call):
        return score(interaction)
