"""Does a comparison's report say only what its runs allow: seeds that are missing, scores of NaN, odd names?"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from recbole_rawp.jobs.comparison.grid import Cell
from recbole_rawp.jobs.comparison.rows import described, failure, read_rows
from recbole_rawp.report.comparison import run_rows, summary
from tests.test_report import cells_of, measured, users_of, written

NAN = math.nan


def finished(defense, seed, values, *, model="M", dataset="D", attacks=("fgsm",)):
    """Write a run whose attacks leave `values` (radius -> score), and return its row."""
    cell = Cell(model, dataset, defense, seed)
    row = measured(model, ("none",), attacks[:1], seed=seed)[0] | {"dataset": dataset, "defense": defense}
    records = [row | {"threat": a, "level": r, "value": v} for a in attacks for r, v in values.items()]
    written(Path(cell.name), records, users={"universal": users_of(records)})
    return described(cell) | run_rows.measure(Path(cell.name)) | {"status": summary.FINISHED, "seconds": 1.0}


@pytest.fixture
def report():
    """Return a function: rows -> report.md of their comparison, here; after a way through runs.csv, as on resuming."""
    Path("comparison.yaml").touch()
    Path("environment.txt").touch()

    def write(*rows):
        pd.DataFrame(rows).to_csv("runs.csv", index=False)
        summary.write(Path(), list(read_rows(Path()).values()))
        return Path("report.md").read_text()

    return write


def test_nan_in_one_seed_is_not_left_out_of_the_mean(report):
    rows = [finished("none", seed, {0.0: 0.2, 0.1: 0.1, 0.3: 0.02}) for seed in (1, 2)]
    rows += [finished("rawp", seed, {0.0: 0.2, 0.1: 0.18, 0.3: 0.15 if seed == 1 else NAN}) for seed in (1, 2)]
    text = report(*rows)
    assert cells_of(text)[2][-3] == "nan ± nan"
    assert "strongest attack at radius 0.1: " in text  # at 0.3 nothing is known of rawp
    together = Path("reports/M-D/report.md").read_text()
    assert cells_of(together)[2] == ["rawp", "fgsm", "0.2000", "0.1800 (90%)", "nan (n/a)"]
    assert "by 10% of its norm" in together and "**rawp** keeps 90%" in together


def test_a_defense_with_fewer_seeds_than_the_others_is_said_to_have_them(report):
    rows = [finished("none", seed, {0.0: 0.2, 0.1: 0.1}) for seed in range(10)]
    assert "seed" not in report(*rows).splitlines()[2]
    rows += [finished("awp", 0, {0.0: 0.3, 0.1: 0.2}), *(failure(Cell("M", "D", "awp", seed), "x") for seed in (1, 2))]
    words = report(*rows).splitlines()[2]
    assert "do not compare: runs are missing, finished are awp (M on D) 1 of 10. One seed: nothing here says" in words


def test_a_radius_at_which_all_scores_are_nan_stays_in_the_tables(report):
    text = report(*(finished(name, 1, {0.0: 0.2, 0.1: 0.1, 0.3: NAN}) for name in ("none", "rawp")))
    assert cells_of(text)[0][3:5] == ["radius 0.1", "radius 0.3"] and cells_of(text)[1][4] == "nan"
    assert pd.read_csv("comparison.csv").query("score == 'robust'")["level"].tolist() == [0.1, 0.3] * 2
    broken = report(finished("awp", 1, {0.0: NAN, 0.1: NAN}))
    assert "M on D: no defense has both a clean NDCG@10 and one under attack, for scores are NaN." in broken


def test_models_attacked_otherwise_have_rows_of_their_own_radii_alone(report):
    text = report(
        finished("none", 1, {0.0: 0.2, 0.1: 0.1}, attacks=("noise", "fgsm")),
        finished("none", 1, {0.0: 0.2, 0.1: 0.1, 0.2: 0.1}, model="N"),
    )
    assert "noise 0.1" in cells_of(text)[0] and "noise" not in str(cells_of(text, "## N on D")[0])
    found = pd.read_csv("comparison.csv").groupby("model")[["score", "level"]].agg(list)
    assert found.loc["M"].tolist() == [["clean", "robust", "kept", "noise"], [0, 0.1, 0.1, 0.1]]
    assert found.loc["N"].tolist() == [["clean", "robust", "kept", "robust", "kept"], [0, 0.1, 0.1, 0.2, 0.2]]


def test_a_radius_of_many_digits_has_its_test(report):
    text = report(*(finished(name, 1, {0.0: 0.2, 1 / 3: value}) for name, value in (("none", 0.1), ("rawp", 0.15))))
    rows = cells_of(text, "### Which differences count?")
    assert [row[1] for row in rows] == ["level", "clean", "0.333333"]


def test_pictures_are_found_whatever_the_data_set_is_called(report):
    text = report(finished("none", 1, {0.0: 0.2, 0.1: 0.1}, dataset="my data (v1)"))
    assert "](reports/M-my%20data%20%28v1%29/pareto.png)" in text and Path("reports/M-my data (v1)/pareto.png").exists()
    page = Path("report.html").read_text().partition("<script>")[0]
    assert page.count("<img") == 2 and "![" not in page and "is missing" not in page


def test_the_command_that_goes_on_can_be_typed_again():
    home = Path("my runs")
    home.mkdir()
    for name in ("comparison.yaml", "environment.txt"):
        (home / name).touch()
    text = summary.foundations(pd.DataFrame({"status": ["failed"]}), {"run": "x"}, [], home)
    assert "`recbole-rawp compare '--resume=my runs'` tries again" in "".join(text)


def test_the_sentence_names_those_that_none_beats_also_among_equals(report):
    values = {"none": 0.05, "awp": 0.1, "rawp": 0.1}  # all 0.2 when clean: plain is no worse than the others in that
    words = report(*(finished(name, 1, {0.0: 0.2, 0.1: value}) for name, value in values.items())).splitlines()[2]
    beaten = "of 3 defenses no other is better in both scores than"
    assert f"{beaten} **awp** (clean 0.2000, attacked 0.1000, 50% kept), **rawp** (clean" in words
    alone = report(finished("sam", 1, {0.0: 0.2, 0.1: 0.1})).splitlines()[2]
    assert "strongest attack at radius 0.1: **sam** (clean 0.2000" in alone
