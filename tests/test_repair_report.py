"""The parts of the report on stage 2 say what it saw and chose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.image import imread

from recbole_rawp.config.settings import Criticality, FineTuning
from recbole_rawp.core.objective import Recipe
from recbole_rawp.report.sections import stage2
from recbole_rawp.training.stage2.criticality import ModuleCriticality
from recbole_rawp.training.stage2.interpolation import Mixture
from recbole_rawp.training.stage2.progress import Progress, summary
from recbole_rawp.training.stage2.tuning import TunedEpoch

pytestmark = pytest.mark.drawn


def row(module, rise, repaired, round_=0):
    losses = (0.5, 0.5 + rise, rise, rise / 0.5)
    drop = ("ndcg@10", 0.2, 0.15, 0.05)
    return ModuleCriticality(module, f"{module}.weight", 12, *losses, *drop, repaired, round_)


def sweep(alpha, round_=0):
    return [
        Mixture(round_, alpha=a, clean=0.2 - 0.01 * a, robust=0.1 + 0.05 * a, chosen=a == alpha)
        for a in (0.0, 0.5, 1.0)
    ]


def trainer(progress):
    criticality = Criticality(0.008, "row", 10, 10)
    settings = FineTuning(1, 1, 5, "sgd", 0.01, 0.9, 0.0, 0.985, 5, "hidden", Recipe(0.3), criticality)
    return SimpleNamespace(
        state=SimpleNamespace(progress=progress, seconds=40.0),
        fine_tuning=settings,
        valid_metric="ndcg@10",
        valid_metric_bigger=True,
        config={"model": "M", "dataset": "D"},
        train_loss_dict={0: 1.0},
    )


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_parts_name_the_module_the_choice_and_the_cost(rounds):
    progress = Progress(start_epoch=3, clean=0.2, robust=0.1, seconds=9.0)
    for number in range(rounds):
        names = [("predict", 0.1, number == 0), ("mlp.0", 0.02, number == 1)]
        progress.ranking += [row(*name, number) for name in names]
        progress.sweep += sweep((1.0, 0.0)[number], number)
        progress.epochs.append(TunedEpoch(number, 0, loss=1.0, robust=0.15))
    text = "\n".join(stage2.sections(trainer(progress), Path(".")))
    assert "| predict  | 12" in text.replace("| 1       ", "") and "20.0%" in text and "drop of NDCG@10" in text
    assert "Repaired `predict`. **alpha = 1: clean NDCG@10 0.2000 -> 0.1900, robust 0.1000 -> 0.1500.**" in text
    assert ("alpha = 0: no gain" in text) == (rounds == 2)
    assert "BIM in 5 steps moves every ranked weight by 0.3 of its norm" in text
    assert "Stage 2 took 9.0 s, 0.23 of stage 1's 40.0 s." in text
    assert len(pd.read_csv("criticality.csv")) == 2 * rounds and len(pd.read_csv("interpolation.csv")) == 3 * rounds
    assert list(pd.read_csv("tuning.csv")) == ["round", "epoch", "loss", "robust"]
    for name in ("criticality.png", "interpolation.png"):
        picture = imread(name)
        assert picture.shape[1] > 500 and picture.std() > 0.01
    assert not list(Path(".").glob("*.partial"))


def test_an_absolute_radius_is_no_share_of_the_norm():
    progress = Progress(start_epoch=3, clean=0.2, robust=0.1, ranking=[row("predict", 0.1, True)], sweep=sweep(1.0))
    progress.epochs = [TunedEpoch(0, 0, loss=1.0, robust=0.15)]
    own = trainer(progress)
    own.fine_tuning = replace(own.fine_tuning, recipe=Recipe(0.3, relative=False))
    text = "\n".join(stage2.sections(own, Path(".")))
    assert "moves every ranked weight by 0.3 in L2 norm. Chosen" in text


def test_a_ball_of_rows_is_said():
    progress = Progress(start_epoch=3, clean=0.2, robust=0.1, ranking=[row("predict", 0.1, True)], sweep=sweep(1.0))
    own = trainer(progress)
    recipe = Recipe(0.5, relative=False, granularity="row")
    own.fine_tuning = replace(own.fine_tuning, recipe=recipe, target="embeddings")
    text = "\n".join(stage2.sections(own, Path(".")))
    assert "BIM in 5 steps moves each embedding row by 0.5 in L2 norm. Chosen" in text


def test_without_stage_2_there_are_no_parts_and_no_files():
    assert stage2.sections(trainer(None), Path(".")) == [] and not list(Path(".").iterdir())


@pytest.mark.parametrize(("robust", "clean", "blind"), [(0.0, 0.6, True), (0.04, 0.6, False), (0.9, 0.5, False)])
def test_where_the_attack_leaves_nothing_the_report_and_the_lines_say_so(robust, clean, blind):
    """The last is LogLoss, which grows under attack."""
    rows = [Mixture(0, a, clean, robust, chosen=a == 0) for a in (0.0, 0.1)]
    progress = Progress(start_epoch=3, round=1, ranking=[row("predict", 0.1, True)], sweep=rows)
    for text in (stage2.outcome(progress, "NDCG@10"), *summary(progress, "ndcg@10")):
        assert ("leaves less than 5% of the clean score" in text and "ft_radius" in text) == blind
