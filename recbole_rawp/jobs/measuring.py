"""Attacks the model of a run: candidates, attacks, self-checks, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import indent
from typing import Any

import pandas as pd
from recbole.config import Config
from torch import nn

from recbole_rawp.config import settings as options
from recbole_rawp.config.recbole_options import MEASURED
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.config.suites import written
from recbole_rawp.core import restoring
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.overlay import clear_caches
from recbole_rawp.core.restoring import SEED, seed_generators
from recbole_rawp.core.selection import among_weights
from recbole_rawp.errors import InputError, naming
from recbole_rawp.evaluation import robustness
from recbole_rawp.evaluation.records import COLUMNS, Check, Record
from recbole_rawp.evaluation.self_checks import verify
from recbole_rawp.evaluation.users import Users, join
from recbole_rawp.host.preparation import Data
from recbole_rawp.host.ranking.candidate_files import read_candidates, write_candidates
from recbole_rawp.host.ranking.candidates import Candidates, check, draw, frozen, sampled_loader, samples
from recbole_rawp.host.reached import check_reached
from recbole_rawp.host.twins import differ, other_weights
from recbole_rawp.host.weights import moved, perturbed_weights, weights_of
from recbole_rawp.report import report
from recbole_rawp.report.answer import answer
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.scores import AFTER, BEFORE, label
from recbole_rawp.report.sections import model_card
from recbole_rawp.report.sections.attacked import fragility
from recbole_rawp.threats.setting import PER_USER, UNIVERSAL
from recbole_rawp.threats.threat import Threat
from recbole_rawp.training.stage2.interpolation import undone
from recbole_rawp.training.trainer import RAWPFTTrainer


@dataclass
class Findings:
    """What the attacks on one or several models found: records, self-checks, users by scope, and notes."""

    records: list[Record] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    users: dict[str, list[Users]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, outcome: robustness.Outcome, verdicts: list[Check]) -> None:
        """Add what was found about one model."""
        self.records += outcome.records
        self.checks += verdicts
        for scope, users in outcome.users.items():
            self.users.setdefault(scope, []).append(users)
        self.notes += [f"{label(verdicts[0].defense)}: {note}" for note in outcome.notes]

    def everyone(self) -> dict[str, Users]:
        """Return the users of all models, by scope."""
        return {scope: join(parts) for scope, parts in self.users.items()}


def attack(
    trainer: RAWPFTTrainer,
    data: Data,
    candidates: Candidates | None,
    findings: Findings,
    twins: Mapping[str, Weights] | None = None,
) -> None:
    """Measure the model on test data under the attacks, before its repair too; add what was found.

    What breaks the `twins`, or the model before its repair, is tried on it, too, where the suite carries attacks over.
    """
    progress, known = trainer.state.progress, dict(twins or {})
    repaired = progress is not None and progress.changed()
    if progress is not None and repaired:
        with undone(trainer.model, progress):
            before = under_attack(trainer, data, candidates, known, stage=1)
            verdicts = checked(trainer, data, candidates, before)
            known["before repair"] = weights_of(trainer.model)
        findings.add(before, [replace(c, defense=c.defense + BEFORE) for c in verdicts])
    after = under_attack(trainer, data, candidates, known, stage=2 if progress else 1)
    verdicts = checked(trainer, data, candidates, after)
    findings.add(after, [replace(c, defense=c.defense + AFTER) for c in verdicts] if repaired else verdicts)


def checked(
    trainer: RAWPFTTrainer, data: Data, candidates: Candidates | None, outcome: robustness.Outcome
) -> list[Check]:
    """Return the self-checks of what was found about the model as it is now."""
    config = trainer.config
    return verify(
        outcome,
        own_result(trainer, data, candidates),
        decimals=config["metric_decimal_place"] or 0,
        metric=config["valid_metric"].lower(),
        bigger=config["valid_metric_bigger"],
        scopes=(UNIVERSAL, PER_USER) if samples(data.test) else (UNIVERSAL,),  # else these rank other candidates
    )


def under_attack(
    trainer: RAWPFTTrainer, data: Data, candidates: Candidates | None, twins: Mapping[str, Weights], *, stage: int
) -> robustness.Outcome:
    """Return what the configured attacks find about the model as it is now."""
    plain = trainer.defense == "none" and stage == 1  # it needs none; one that goes on would find later ones
    others = {} if plain else {name: weights for name, weights in twins.items() if differ(trainer.model, weights)}
    return robustness.under_attack(
        trainer,
        data,
        options.read(trainer.config).attack,
        defense=trainer.defense,
        candidates=candidates,
        twins=None if plain else others,
        stage=stage,
    )


def write(
    trainer: RAWPFTTrainer,
    folder: Path,
    findings: Findings,
    candidates: Candidates | None,
    *,
    dataset: Any,
    again: str,
) -> dict[str, Any]:
    """Write the report and what it rests on into `folder`; return records, checks, tables and the folder.

    `dataset` is RecBole's, of which the candidates are.
    """
    config, text = trainer.config, written(options.read(trainer.config).attack.threats)
    if candidates is not None:
        write_candidates(folder / "candidates.npz", candidates, dataset)
    metric, bigger = config["valid_metric"].lower(), config["valid_metric_bigger"]
    facts = {
        "metric": metric,
        "bigger": bigger,
        "settings": {key: config[key] for key in (*OPTIONS, *MEASURED)} | {"suite.yaml": "\n" + indent(text, "  ")},
        "notes": findings.notes,
        "environment": (folder / "environment.txt").read_text(encoding="utf-8").strip(),
    }
    frame = pd.DataFrame(findings.records, columns=COLUMNS)
    run = Run(folder.name, frame, findings.checks, findings.everyone(), facts)
    lines = answer(run, trainer)
    table = report.write(folder, run, command=report.again_command(again), answer=lines, trainer=trainer)
    if trainer.fits and trainer.defense != "none":
        model_card.write(folder, run, trainer, lines)
    report.tensorboard(trainer.tensorboard, findings.records)
    trainer.tensorboard.flush()
    return {
        "records": findings.records,
        "checks": findings.checks,
        "table": table,
        "answer": lines,
        "overview": fragility(findings.records, metric, bigger=bigger),
        "output_dir": str(folder),
    }


def own_result(trainer: RAWPFTTrainer, data: Data, candidates: Candidates | None) -> dict[str, float]:
    """Return RecBole's own evaluation, rounded as configured, with the attacks' candidates and random numbers."""
    clear_caches(trainer.model.modules())
    with frozen(data.test, candidates), restoring.rng():
        seed_generators()  # KGIN and MCCLK draw edges of their graphs for the scores, too
        return trainer.evaluate(data.test, load_best_model=False)


def check_attack(config: Config, model: nn.Module, data: Data) -> Candidates | None:
    """Return the candidates that all attacks of the run rank: read, or drawn; None if all items are ranked.

    Raises:
        InputError: if there are no test data, nothing that the attacks could move, or candidates do not fit.
    """
    if not data.test:
        raise InputError("eval_args: the attacks are measured on test data, and this split has none. Split some off.")
    settings = options.read(config).attack
    possible = [threat for threat in settings.threats if can_move(model, threat)]
    for threat in possible:
        if threat.checkpoint is not None:
            other_weights(model, config, threat.checkpoint)
    check_reached(model, moved_weights(model, possible), data.train, config["device"])
    loader, per_user = data.test, [threat for threat in possible if threat.scope == PER_USER]
    if per_user:
        try:
            loader = sampled_loader(config, data.test, settings.negatives)
        except InputError:
            possible = [threat for threat in possible if threat.scope == UNIVERSAL]
            if not possible or not all(threat.optional for threat in per_user):
                raise
    if not possible:
        raise InputError(f"attack: {config['attack']!r} holds nothing that {type(model).__name__} has.")
    if not samples(loader):
        if settings.candidates:
            raise InputError(
                f"attack_candidates: nothing here ranks '{settings.candidates}'. Use eval_args mode uniN or attacks "
                "per user, or leave it out."
            )
        return None
    if settings.candidates:
        return check(read_candidates(Path(settings.candidates).expanduser(), loader._dataset), loader)
    return draw(loader, SEED)


def moved_weights(model: nn.Module, threats: Sequence[Threat]) -> Weights:
    """Return the weights that some of these threats move."""
    return {
        name: weight
        for threat in threats
        for name, weight in perturbed_weights(model, among_weights(threat.target)).items()
    }


def can_move(model: nn.Module, threat: Threat) -> bool:
    """Tell whether the model has what the threat moves; InputError if it lacks what the user asked for."""
    try:
        with naming("attack_target"):
            moved(model, threat.target)
    except InputError:
        if not threat.optional:
            raise
        return False
    return True
