"""Measures threats with one change for each user, the published protocol, against the candidates of that user.

For each user the candidates are scored, labelled (by the model itself or truly), and the model moves along the gradient
of a loss on them, the cross entropy or a smooth NDCG; then the same candidates are ranked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector
from recbole.utils import EvaluatorType
from torch import Tensor

from recbole_rawp.core.hooks import watched
from recbole_rawp.core.overlay import clear_caches, exact
from recbole_rawp.core.restoring import SEED, seed_generators
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.user_rows import Rows, Tally, collected, take
from recbole_rawp.host.ranking import candidates as ranking
from recbole_rawp.host.ranking.logits import ends_in_sigmoid, predict_logits
from recbole_rawp.host.ranking.measurement import BATCHED, TOP, Measurement, measured
from recbole_rawp.host.ranking.ranking_batches import once, rectangle
from recbole_rawp.host.weights import moved
from recbole_rawp.threats.adversarial.per_user.batch import CLEAN, Key
from recbole_rawp.threats.adversarial.per_user.copies import OneByOne
from recbole_rawp.threats.adversarial.per_user.engine import NotSupported, UserBatch
from recbole_rawp.threats.adversarial.per_user.engine_selection import SelectedEngine, select_engine
from recbole_rawp.threats.adversarial.per_user.hooked_activations import HookedActivations
from recbole_rawp.threats.adversarial.perturbation import Perturbation
from recbole_rawp.threats.adversarial.user_losses import CROSS_ENTROPY, SMOOTH_NDCG
from recbole_rawp.threats.setting import RANKING, TRAINING
from recbole_rawp.threats.threat import Threat

LOSSES = {TRAINING: CROSS_ENTROPY, RANKING: SMOOTH_NDCG}  # of a user's candidates
SPREAD = 1_000_003  # between the seeds of two batches, by their first users


class EachUser:
    """Attacks with one move for each user.

    Attributes:
        eval_data: the loader that is ranked: the given one if it samples its candidates, else one that does.
        notes: how the users' gradients were taken, where not in the fastest way, and what could not be moved.
        sigmoid: whether the model predicts probabilities; found out at the start of each threat.
    """

    def __init__(self, trainer: Any, eval_data: Any, negatives: int, candidates: Any) -> None:
        self.trainer, self.given = trainer, eval_data
        self.negatives, self.candidates = negatives, candidates
        self.engines: dict[Any, SelectedEngine] = {}
        self.notes: list[str] = []
        self.sigmoid = False
        self.layers: list[str] = []

    @cached_property
    def eval_data(self) -> Any:
        """The loader that is ranked. InputError if nothing is ranked here."""
        return ranking.sampled_loader(self.trainer.config, self.given, self.negatives)

    def measurements(self, threat: Threat, advance: Callable[[float], Any]) -> Iterator[Measurement]:
        """Yield what is measured for each variant and level, clean first: one pass over the users serves them all."""
        assert isinstance(threat, Perturbation)
        loader, model = self.eval_data, self.trainer.model
        self.trainer.tot_item_num = loader._dataset.item_num
        if self.candidates is None:
            self.candidates = ranking.draw(loader, SEED)
        moves = moved(model, threat.target)
        merged: dict[tuple[str, str, float], Measurement] = {}
        for loss in threat.losses:
            for found in self._by_loss(threat, loss, moves, advance):
                key = found.climbs, found.variant, found.level
                if key in merged:  # noise, which looks at no loss, once more
                    merged[key].losses.update(found.losses)
                else:
                    merged[key] = found
        yield from merged.values()

    def _by_loss(
        self, threat: Perturbation, loss: str, moves: Any, advance: Callable[[float], Any]
    ) -> Iterator[Measurement]:
        """Yield what is measured along one loss: one pass over the users serves all variants and levels."""
        loader, model = self.eval_data, self.trainer.model
        keys = threat.attacks.keys
        found = {key: Tally(self._collector()) for key in [CLEAN, *keys]}
        seed_generators()
        clear_caches(model.modules())
        with ranking.frozen(loader, self.candidates), exact(model):
            self._look(next(iter(loader))[0].to(self.trainer.device), threat, moves)
            for batch in loader:
                users, rows = self._users(batch, threat, loss, moves)
                for key, (logits, losses) in self._attacked(users, threat).items():
                    found[key].add(logits[users.mask], losses)
                    self._collect(found[key].collector, batch, logits[rows], clean=key == CLEAN)
                advance(
                    sum(threat.climbed(variant) != ("",) or loss == threat.losses[0] for variant, _ in keys)
                    / len(loader)
                )
        results = {key: (self._evaluate(tally), {loss: tally.loss / tally.rows}) for key, tally in found.items()}
        for variant in threat.variants:
            climbs = loss if threat.climbed(variant) != ("",) else ""
            for level in threat.levels:
                measured, value = results[(variant, level) if level else CLEAN]
                yield Measurement(variant, level, measured, dict(value), climbs)

    def _ends_in_sigmoid(self, interaction: Any) -> bool:
        """Tell whether the model predicts probabilities; InputError if it cannot score single candidates."""
        model = self.trainer.model
        try:
            return ends_in_sigmoid(model, interaction)
        except (AssertionError, NotImplementedError) as error:  # GRU4RecCPR, SASRecCPR: assert False
            raise InputError(
                f"attack_scope: per_user needs scores of single items, and {type(model).__name__}.predict is not "
                "implemented. Use a suite with universal attacks."
            ) from error

    def _look(self, rows: Interaction, threat: Perturbation, layers: Any) -> None:
        """Find out what `predict` returns, and which hidden layers it calls."""
        self.sigmoid = self._ends_in_sigmoid(rows)
        if threat.target != "activations":
            return
        called: set[str] = set()
        with watched(layers, lambda name, output: called.add(name)), torch.no_grad():
            self.trainer.model.predict(rows)
        self.layers = [name for name in layers if name in called]
        idle = [name for name in layers if name not in called]
        if idle:
            self.notes.append(f"Per user, target activations: {', '.join(idle)} do not take part in predict.")
        if not self.layers:
            raise InputError("attack_target: activations cannot be moved per user: predict calls no hidden layer.")

    def _attacked(self, users: UserBatch, threat: Perturbation) -> dict[Key, tuple[Tensor, Tensor]]:
        """Return the candidates' logits [U, n] and the users' losses [U], clean and under each attack."""
        first = int(users.inputs.columns[self.trainer.config["USER_ID_FIELD"]][0])
        seed = self.trainer.config["seed"] + SPREAD * first
        engine = self._engine(users, threat)
        try:
            return collected(threat.attacked(users, engine.make, seed, engine.rows))
        except NotSupported as error:  # this batch is built otherwise than the first
            if threat.target == "activations":
                raise InputError(f"attack_target: activations cannot be moved per user: {error}.") from error
            note = f"Per user, target {threat.target}: some users went by loop ({error})."
            self.notes += [note] * (note not in self.notes)
            return collected(threat.attacked(users, OneByOne, seed))

    def _users(self, batch: Any, threat: Perturbation, loss: str, moves: Any) -> tuple[UserBatch, Tensor]:
        """Return the attack on the users of one of RecBole's batches, whose rows are padded to equal numbers.

        The loss counts a candidate once that is repeated; beside it, where the batch's own rows are, [U, n].
        """
        interaction, owner, _, _ = batch
        columns = interaction.to(self.trainer.device).interaction
        index, mask = rectangle(owner.to(self.trainer.device))
        rows = Rows(columns)[index.flatten()]
        labels = columns[self.trainer.config["LABEL_FIELD"]][index]
        counted = once(columns[self.trainer.config["ITEM_ID_FIELD"]][index], mask, labels > 0.5)
        truth = labels if threat.labels == "truth" else None
        weights = {} if threat.target == "activations" else moves
        return UserBatch(self.trainer.model, self._score, weights, rows, counted, truth, LOSSES[loss]), mask

    def _score(self, rows: Rows) -> Tensor:
        return predict_logits(self.trainer.model, Interaction(rows.columns), self.sigmoid)

    def _engine(self, users: UserBatch, threat: Perturbation) -> SelectedEngine:
        """Return the engine for what is attacked, selected on the first batch."""
        if threat.target == "activations":
            return SelectedEngine("hooked", lambda part: HookedActivations(part, self.layers))
        if threat.target not in self.engines:
            engine = self.engines[threat.target] = select_engine(users, rows=take, rebuild=Rows)
            if engine.reason:
                self.notes.append(f"Per user, target {threat.target}: users went by {engine.name} ({engine.reason}).")
        return self.engines[threat.target]

    def _collector(self) -> Collector:
        collector, own = Collector(self.trainer.config), self.trainer.eval_collector.data_struct._data_dict
        if collector.register.need("rec.topk"):
            setattr(collector.register, TOP, True)
        collector.data_struct._data_dict.update({name: own[name] for name in own.keys() - BATCHED})
        return collector

    def _collect(self, collector: Collector, batch: Any, logits: Tensor, *, clean: bool) -> None:
        """Give RecBole's collector the scores of a batch, as its trainer does: -inf for items that are not ranked.

        Metrics by value (AUC) take the scores as they are. Under attack logits are ranked, see `logits`.
        """
        interaction, owner, positive_u, positive_i = batch
        by_value = self.trainer.config["eval_type"] == EvaluatorType.VALUE
        answers = logits.sigmoid() if self.sigmoid and (clean or by_value) else logits
        if by_value:
            collector.eval_batch_collect(answers, interaction, positive_u, positive_i)
            return
        shape = (int(owner[-1]) + 1, self.trainer.tot_item_num)
        scores = torch.full(shape, -torch.inf, device=logits.device)
        items = interaction[self.trainer.config["ITEM_ID_FIELD"]]
        scores[owner, items] = answers.to(scores.dtype)
        collector.eval_batch_collect(scores, interaction, positive_u, positive_i)

    def _evaluate(self, tally: Tally) -> Any:
        evaluator = self.trainer.evaluator
        result = evaluator.evaluate(tally.collector.get_data_struct())
        return measured(evaluator, result, self.eval_data, nan=tally.nan)
