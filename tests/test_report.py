"""Do table, verdict and picture say what the records say?"""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from recbole_rawp import files
from recbole_rawp.cli.commands import report as command
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.records import COLUMNS, Check, Condition
from recbole_rawp.evaluation.users import Users
from recbole_rawp.jobs import report as job_report
from recbole_rawp.report import report, run_files, scores, tables
from recbole_rawp.report.comparison.merging import merge
from recbole_rawp.report.pictures import curves, styles
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.sections import per_user
from recbole_rawp.report.verdict import verdict


@pytest.fixture
def frame():
    curves = {
        ("none", "noise"): (0.2, 0.19, 0.18),
        ("none", "fgsm"): (0.2, 0.1, 0.01),
        ("rawp", "noise"): (0.18, 0.18, 0.18),
        ("rawp", "fgsm"): (0.18, 0.18, 0.171),
    }
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"model": "M", "dataset": "D", "defense": defense, "threat": attack, "unit": "relative radius"}
        | {"level": radius, "metric": "ndcg@10", "value": value}
        for (defense, attack), values in curves.items()
        for radius, value in zip((0.0, 0.1, 0.3), values)
    ]
    return pd.DataFrame(rows)


def test_the_table_shows_values_and_shares(frame):
    lines = tables.table(frame, "ndcg@10", bigger=True).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["defense", "threat", "radius 0", "radius 0.1", "radius 0.3"]
    assert cells[3] == ["plain", "fgsm", "0.2000", "0.1000 (50%)", "0.0100 (5%)"]
    assert cells[5] == ["rawp", "fgsm", "0.1800", "0.1800 (100%)", "0.1710 (95%)"]


def test_the_verdict_names_the_radius_where_the_models_differ_most(frame):
    text = verdict(frame, "ndcg@10", bigger=True)
    assert text.startswith("When FGSM moves each weight tensor by 30% of its norm, ")
    assert "**plain** keeps 5% of its NDCG@10 of 0.2000 (noise of the same norm leaves 90%)" in text
    assert "**rawp** keeps 95%" in text


def test_one_model_alone_has_a_verdict_too(frame):
    assert "by 10% of its norm, **plain** keeps 50%" in verdict(
        frame[frame["defense"] == "none"], "ndcg@10", bigger=True
    )


def test_no_attacked_radius_is_said(frame):
    assert "only 0" in verdict(frame[frame["level"] == 0], "ndcg@10", bigger=True)


@pytest.mark.drawn
def test_a_clean_score_of_zero_has_no_share(frame, tmp_path):
    frame["value"] = 0.0
    assert "n/a" in tables.table(frame, "ndcg@10", bigger=True) and "n/a" in verdict(frame, "ndcg@10", bigger=True)
    curves.plot(frame, "ndcg@10", tmp_path / "p.png", bigger=True)


@pytest.mark.drawn
def test_scores_of_nan_are_shown_and_never_taken_for_the_milder_attack(frame, tmp_path):
    frame.loc[(frame["threat"] == "fgsm") & (frame["level"] == 0.3), "value"] = float("nan")
    assert "nan (n/a)" in tables.table(frame, "ndcg@10", bigger=True)
    alone = frame[frame["defense"] == "none"]
    assert "keeps 50%" in verdict(alone, "ndcg@10", bigger=True)
    frame["value"] = float("nan")
    assert "keeps n/a" in verdict(frame, "ndcg@10", bigger=True)
    curves.plot(frame, "ndcg@10", tmp_path / "p.png", bigger=True)


def test_where_less_is_better_the_share_is_clean_over_attacked_and_the_worst_is_the_largest(frame):
    frame["value"] = 1 / frame["value"]
    assert "**plain** keeps 5% of its LOGLOSS" in verdict(frame.replace("ndcg@10", "logloss"), "logloss", bigger=False)
    assert "(50%)" in tables.table(frame, "ndcg@10", bigger=False)


@pytest.mark.drawn
def test_the_picture_has_ink_in_every_defences_colour(frame, tmp_path):
    curves.plot(frame, "ndcg@10", tmp_path / "p.png", bigger=True)
    pixels = (imread(tmp_path / "p.png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for colour, _ in (styles.STYLES["none"], styles.STYLES["rawp"]):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (abs(pixels - rgb).sum(axis=1) < 6).sum() > 100


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "r.md"
    path.write_text("old")

    def broken(partial):
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.whole(path, broken)
    assert path.read_text() == "old"


def test_a_repaired_model_is_told_from_what_it_was_before(frame):
    both = pd.concat([frame.assign(stage=1), frame[frame["defense"] == "rawp"].assign(stage=2, value=0.175)])
    lines = tables.table(both, "ndcg@10", bigger=True).splitlines()[2:]
    names = [line.split("|")[1].strip() for line in lines]
    assert names == ["plain", "plain", *["rawp before repair"] * 2, *["rawp repaired"] * 2]
    assert "0.1750 (100%)" in lines[-1] and "0.1710 (95%)" in lines[3]
    text = verdict(both, "ndcg@10", bigger=True)
    assert "**rawp before repair** keeps 95%" in text and "**rawp repaired** keeps 100%" in text


SETTING = {"target": "hidden", "granularity": "tensor", "unit": "relative radius", "scope": "universal", "labels": ""}
PER_USER = {"granularity": "row", "scope": "per_user", "labels": "truth"}
PASSED = [Check("none", "all values are finite", "passed", ""), Check("rawp", "all values are finite", "passed", "")]


def measured(model="M", defenses=("none", "rawp"), attacks=("noise", "fgsm"), *, seed=1, factor=1.0, **setting):
    """Return records of ndcg@10 and loss in one setting; a model loses `factor` times what it does by default."""
    strength = {"noise": 0.5, "fgsm": 3.0, "bim": 5.0, "pgd": 6.0}
    weakness = {"none": 1.0, "rawp": 0.1}
    return [
        dict.fromkeys(COLUMNS, "")
        | {"model": model, "dataset": "D", "defense": defense, "stage": 1, "seed": seed, "split": "test", "steps": 1}
        | (SETTING | setting | {"threat": attack, "level": radius, "metric": metric, "value": value})
        for defense in defenses
        for attack in attacks
        for radius in (0.0, 0.1, 0.3)
        for metric, value in (
            ("ndcg@10", 0.2 * math.exp(-factor * weakness[defense] * strength[attack] * radius)),
            ("loss", 0.5 + radius),
        )
    ]


def users_of(records, scope="universal", count=40):
    """Return per-user values whose means are the records'."""
    rows = [row for row in records if row["metric"] == "ndcg@10" and row["scope"] == scope]
    spread = np.linspace(0.5, 1.5, count, dtype=np.float32)
    return Users(
        user=np.arange(1, count + 1),
        activity=np.arange(count),
        popularity=np.arange(count, dtype=float)[::-1].copy(),
        metrics=["ndcg@10"],
        conditions=[Condition(**{n: row[n] for n in COLUMNS if n not in ("metric", "value")}) for row in rows],
        values=np.stack([row["value"] * spread for row in rows]).astype(np.float32)[:, None],
        overlap=np.stack([np.full(count, 1 - row["level"], dtype=np.float32) for row in rows]),
        k=10,
    )


def written(folder, records, checks=PASSED, **more):
    """Write a report into a new folder and return report.md."""
    folder.mkdir()
    (folder / "environment.txt").write_text("here")
    common = {"metric": "ndcg@10", "bigger": True, "settings": {"rawp_radius": 0.1}, "environment": "here"}
    facts = common | {"notes": list(more.pop("notes", ()))}
    run = Run("run", pd.DataFrame(records, columns=COLUMNS), checks, more.pop("users", {}), facts | more)
    report.write(folder, run, command=report.again_command("train"))
    return (folder / "report.md").read_text()


def cells_of(text, heading=None):
    """Return the cells of the first table, or of the first under a heading."""
    lines = (text.split(heading, 1)[1] if heading else text).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = lines[first : next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in (rows[0], *rows[2:])]


@pytest.mark.drawn
def test_a_report_leaves_every_kind_of_file_and_no_half_written_one(tmp_path):
    records = measured() + measured(**PER_USER)
    written(tmp_path / "run", records, users={s: users_of(records, s) for s in ("universal", "per_user")})
    other = "robustness-hidden-row-per_user-truth"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("robustness.plotly.json", f"{other}.plotly.json"),
        *("records.csv", "records.json", "users.npz", "checks.json", "report.json", "environment.txt"),
        *("robustness.png", "robustness.svg", f"{other}.png", f"{other}.svg", "table.tex", "report.md", "report.html"),
    }


@pytest.mark.drawn
def test_the_same_records_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        written(tmp_path / name, measured(), users={"universal": users_of(measured())})
    for path in (tmp_path / "a").iterdir():
        if path.suffix != ".npz":
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_json_holds_the_unrounded_records_and_null_for_nan(tmp_path):
    records = measured()
    records[2]["value"] = float("nan")
    written(tmp_path / "run", records)

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads((tmp_path / "run/records.json").read_text(), parse_constant=refuse)
    assert read[2]["value"] is None and read[4]["value"] == records[4]["value"] and len(read) == len(records)


def test_settings_are_never_mixed_in_one_table(tmp_path):
    records = measured() + measured(factor=0.0, **PER_USER)
    text = written(tmp_path / "run", records)
    rows = [line for line in text.splitlines() if line.startswith("| plain") and "fgsm" in line]
    assert len(rows) == 2 and "0.0813 (41%)" in rows[0] and "0.2000 (100%)" in rows[1]


def test_a_failed_self_check_is_said_in_the_verdict():
    checks = [*PASSED, Check("none", "the attack has a gradient", "failed", "fgsm 0.1")]
    frame = pd.DataFrame(measured())
    text = verdict(frame, "ndcg@10", bigger=True, checks=checks)
    assert text.startswith("**Do not trust these numbers: 1 self-check failed** (plain: the attack has a gradient). ")
    assert "trust" not in verdict(frame, "ndcg@10", bigger=True, checks=PASSED)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({}, "moves each weight tensor by 30% of its norm"),
        ({"granularity": "row", "scope": "per_user"}, "moves each weight row by 30% of its norm"),
        ({"granularity": "global"}, "moves all attacked weights together by 30% of their norm"),
        (
            {"target": "embeddings", "granularity": "row", "unit": "absolute radius"},
            "moves each embedding row by 0.3 in L2",
        ),
        ({"target": "activations", "granularity": "sign", "unit": "absolute radius"}, "moves each hidden unit by 0.3,"),
    ],
)
def test_the_verdict_says_what_a_radius_is(setting, words):
    assert words in verdict(pd.DataFrame(measured(**setting)), "ndcg@10", bigger=True)


def test_small_radii_are_not_rounded_away():
    frame = pd.DataFrame(measured()).assign(level=lambda rows: rows["level"] / 60)
    assert "by 0.5% of its norm" in verdict(frame, "ndcg@10", bigger=True)


def test_of_many_models_the_verdict_names_the_least_and_the_most_robust():
    models = [measured(model=f"M{i}", defenses=("none",), factor=i / 10) for i in (3, 1, 9, 5, 2)]
    text = verdict(pd.DataFrame([row for rows in models for row in rows]), "ndcg@10", bigger=True)
    assert "of 5 models: **M9: plain** keeps" in text and "; **M1: plain** keeps" in text and "M5" not in text


def test_auc_is_kept_above_chance():
    wide = pd.DataFrame({0.0: [0.9, 0.5], 0.1: [0.7, 0.5], 0.3: [0.4, 0.6]})
    kept = scores.shares(wide, bigger=True, metric="auc")
    np.testing.assert_allclose(kept.loc[0], [1, 0.5, -0.25])
    assert kept.loc[1].isna().all()
    np.testing.assert_allclose(scores.shares(wide, bigger=True, metric="ndcg@10").loc[0], [1, 7 / 9, 4 / 9])


def test_the_verdict_on_auc_says_from_where_it_counts():
    frame = pd.DataFrame(measured()).replace("ndcg@10", "auc").assign(value=lambda rows: 0.5 + rows["value"])
    text = verdict(frame, "auc", bigger=True)
    assert "**plain** keeps 41% of its AUC of 0.7000, counted from 0.5 (noise" in text


def test_attacks_of_different_steps_are_told_apart():
    frame = pd.DataFrame(measured(attacks=("bim",)) + [row | {"steps": 50} for row in measured(attacks=("bim",))])
    assert list(scores.by_threat(frame, "ndcg@10").index.unique("threat")) == ["bim-1", "bim-50"]


def test_a_radius_that_was_not_measured_is_a_dash():
    frame = pd.DataFrame(measured())
    frame = frame[~((frame["defense"] == "rawp") & (frame["level"] == 0.3))]
    rows = cells_of(tables.table(frame, "ndcg@10", bigger=True))
    assert [row[-1] for row in rows[1:]] == ["0.1721 (86%)", "0.0813 (41%)", "-", "-"]


def test_models_attacked_at_other_radii_do_not_compare(frame):
    other = frame.assign(level=frame["level"].where(frame["defense"] == "none", frame["level"] * 2))
    text = verdict(other[other["level"] != 0.6], "ndcg@10", bigger=True)
    assert text == "No attack was tried on all of the 2 models at one radius: nothing compares."


def test_models_without_a_common_attack_do_not_compare(frame):
    """One was attacked by FGSM, the other by BIM: `the worse of FGSM and BIM` was tried on neither."""
    kept = (frame["defense"] == "none") | (frame["threat"] != "fgsm")
    other = frame.assign(threat=frame["threat"].where(kept, "bim"))
    text = verdict(other, "ndcg@10", bigger=True)
    assert text == "No attack was tried on all of the 2 models at one radius: nothing compares."


def test_the_overview_ends_where_each_model_was_last_attacked(frame):
    kept = frame[(frame["level"] < 0.3) | (frame["defense"] == "none")].assign(value=0.2)
    lines = tables.overview(kept, "ndcg@10", bigger=True).splitlines()
    assert "no radius up to 0.3" in lines[2] and "no radius up to 0.1" in lines[3]


def test_users_are_looked_at_where_the_verdict_looks(tmp_path):
    records = measured() + [row for row in measured(attacks=("bim",)) if row["level"] < 0.3]
    text = written(tmp_path / "run", records, users={"universal": users_of(records)})
    assert "moves each weight tensor by 30% of its norm" in text and "NDCG@10 at radius 0.3, attacked - clean" in text


def test_losses_and_models_are_compared_user_by_user(tmp_path):
    text = written(tmp_path / "run", measured(), users={"universal": users_of(measured())})
    rows = cells_of(text, "### Is the difference more than chance?")
    assert rows[0] == ["defense", "threat", "clean", "attacked", "difference", "p"]
    assert rows[2][:4] == ["plain", "fgsm", "0.2000", "0.0813"] and rows[2][4].startswith("-0.1187 [-0.1")
    assert rows[2][5] == "<0.001"
    pairs = cells_of(text, "(Holm)")
    assert [row[:4] for row in pairs[1:]] == [
        ["plain -> rawp", "clean", "0.2000", "0.2000"],
        ["plain -> rawp", "fgsm", "0.0813", "0.1828"],
    ]
    assert pairs[1][4:] == ["+0.0000 [+0.0000, +0.0000]", "1.000"] and pairs[2][5] == "<0.001"
    assert "at radius 0.3, where the models differ most on these data: for that choice p is not corrected." in text


def test_users_are_sliced_by_activity_and_popularity(tmp_path):
    rows = cells_of(
        written(tmp_path / "run", measured(), users={"universal": users_of(measured())}), "Which users lose?"
    )
    assert rows[0] == ["training interactions", "users", "plain", "rawp"] and len(rows) == 7
    assert rows[1][0] == "least active (0 to 13 per user)" and rows[6][0] == "most popular items (27 to 39 per item)"
    assert sum(int(row[1]) for row in rows[1:4]) == sum(int(row[1]) for row in rows[4:]) == 40
    assert rows[1][2].startswith("0.1333 -> ") and rows[6][2].startswith("0.1308 -> ")  # the least active like hits
    assert all(row[2].endswith("(41%)") for row in rows[1:])


def test_a_user_whose_score_is_nan_in_one_seed_has_no_mean():
    cells = pd.DataFrame([{"defense": "none", "threat": "fgsm", "level": 0.1, "seed": seed} for seed in (1, 2)])
    (row,) = per_user.by_condition(np.array([[0.2, 0.4], [np.nan, 0.6]]), cells).to_numpy()
    np.testing.assert_allclose(row, [np.nan, 0.5])


def test_ranking_stability_is_the_mean_overlap(tmp_path):
    rows = cells_of(written(tmp_path / "run", measured(), users={"universal": users_of(measured())}), "top 10 stays?")
    assert rows[1] == ["plain", "noise", "90%", "70%"]


def test_latex_escapes_what_it_must(tmp_path):
    written(tmp_path / "run", [row | {"defense": "a_b"} for row in measured(defenses=("none",))])
    text = (tmp_path / "run/table.tex").read_text()
    assert r"\toprule" in text and r"a\_b" in text and r"(41\%)" in text
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert not re.search(r"(?<!\\)[%_#]", "\n".join(body))


def test_every_model_has_a_style_of_its_own():
    names = [
        f"M{i}: {name}" for i in range(2) for name in ("none", "rawp", "rawp_ft before repair", "rawp_ft repaired")
    ]
    given = styles.styled(names)
    assert len(set(given.values())) == 8 and given["M0: rawp_ft repaired"] == styles.STYLES["rawp_ft"]


def test_crowded_attacks_get_panels_of_their_own():
    few = scores.by_threat(pd.DataFrame(measured()), "ndcg@10")
    many = scores.by_threat(pd.DataFrame(measured(attacks=("noise", "fgsm", "bim", "pgd"))), "ndcg@10")
    assert curves.panels(few) == [["noise", "fgsm"]]
    assert curves.panels(many) == [["fgsm", "noise"], ["bim", "noise"], ["pgd", "noise"]]


def test_two_runs_stand_side_by_side(tmp_path):
    for model, factor in (("A", 1.0), ("B", 0.5)):
        records = measured(model, factor=factor)
        written(
            tmp_path / model,
            records,
            users={"universal": users_of(records)},
            settings={"rawp_radius": factor, "epochs": 5},
            notes=["skipped: activations"],
        )
    result = job_report.combine([str(tmp_path / "A"), str(tmp_path / "B")], str(tmp_path / "both"))
    rows = cells_of(result["table"])
    assert [row[0] for row in rows[1:]] == ["A: plain"] * 2 + ["A: rawp"] * 2 + ["B: plain"] * 2 + ["B: rawp"] * 2
    text = (tmp_path / "both/report.md").read_text()
    assert result["output_dir"] == str(tmp_path / "both") and result["table"] in text
    assert "rawp_radius: 1.0 (A); 0.5 (B)" in text and "epochs: 5\n" in text and "- A: skipped: activations" in text
    pairs = cells_of(text, "(Holm)")
    assert ["A: plain -> B: plain", "fgsm", "0.0813", "0.1275"] in [row[:4] for row in pairs]
    assert [row[0] for row in cells_of(text, "## Self-checks")[1:]] == ["A: plain", "A: rawp", "B: plain", "B: rawp"]


def test_a_combined_report_can_be_combined_again(tmp_path):
    for model in "ABC":
        written(tmp_path / model, measured(model), users={"universal": users_of(measured(model))})
    job_report.combine([str(tmp_path / "A"), str(tmp_path / "B")], str(tmp_path / "AB"))
    result = job_report.combine([str(tmp_path / "AB"), str(tmp_path / "C")], str(tmp_path / "ABC"))
    assert {row.model for row in result["records"]} == {"A", "B", "C"} and len(result["checks"]) == 6


def test_one_model_measured_differently_twice_is_told_apart_by_folder_and_the_same_baseline_counts_once(tmp_path):
    baseline = measured(defenses=("none",))
    for name, factor in (("x", 1.0), ("y", 2.0)):
        records = baseline + measured(defenses=("rawp",), factor=factor)
        written(tmp_path / name, records, users={"universal": users_of(records)})
    result = job_report.combine([str(tmp_path / "x"), str(tmp_path / "y")], str(tmp_path / "both"))
    rows = cells_of(result["table"])
    assert [row[0] for row in rows[1:]] == ["plain"] * 2 + ["rawp [x]"] * 2 + ["rawp [y]"] * 2
    assert not any(cell == "-" for row in rows for cell in row)
    assert {check.defense for check in result["checks"]} == {"none", "rawp [x]", "rawp [y]"}


def test_means_over_different_numbers_of_seeds_say_so(tmp_path):
    both = [row | {"stage": stage} for stage in (1, 2) for row in measured(defenses=("rawp",), seed=1)]
    records = [*both, *(row | {"stage": 2} for row in measured(defenses=("rawp",), seed=2))]
    text = written(tmp_path / "run", records)
    assert "Means over 1 (rawp before repair), 2 (rawp repaired) seeds" in text


def test_runs_that_rank_other_items_are_not_put_side_by_side_without_a_word(tmp_path):
    for name, mode in (("x", "full"), ("y", "full"), ("z", "uni99")):
        records = [row | {"defense": name} for row in measured(defenses=("none",))]
        written(tmp_path / name, records, settings={"eval_args": {"mode": mode}})
    alike, other = (
        job_report.combine([str(tmp_path / name) for name in names], str(tmp_path / names)) for names in ("xy", "xz")
    )
    assert "Do not trust" not in alike["verdict"]
    assert other["verdict"].startswith(
        "**Do not trust these numbers: 1 self-check failed** (runs on D: they are measured alike)."
    )
    assert "eval_args: {'mode': 'full'} (x); {'mode': 'uni99'} (z)" in (tmp_path / "xz/report.md").read_text()


def test_runs_that_rank_other_candidates_are_not_put_side_by_side_without_a_word(tmp_path):
    """The same option may mean other items, and other paths the same: what was ranked counts."""
    facts = {"metric": "ndcg@10", "bigger": True, "settings": {}, "notes": [], "environment": ""}
    for name, item in (("x", 1), ("y", 1), ("z", 2)):
        frame = pd.DataFrame([row | {"defense": name} for row in measured(defenses=("none",))])
        (tmp_path / name).mkdir()
        run_files.write_run(tmp_path / name, run_files.Run(name, frame, [], {}, facts))
        np.savez(tmp_path / name / "candidates.npz", users=np.array([5]), items=np.array([item]))
    alike, other = (merge(run_files.read_runs([str(tmp_path / name) for name in names])) for names in ("xy", "xyz"))
    detail = "candidates of M, seed 1: others in x, y than in z"
    assert alike.checks == []
    assert other.checks == [Check("runs on D", "they are measured alike", "failed", detail)]


def test_several_seeds_of_a_model_are_averaged(tmp_path):
    for seed, factor in ((1, 0.0), (2, 1e9)):
        written(tmp_path / str(seed), measured(defenses=("none",), seed=seed, factor=factor), PASSED[:1])
    result = job_report.combine([str(tmp_path / "1"), str(tmp_path / "2")], str(tmp_path / "both"))
    assert cells_of(result["table"])[2] == ["plain", "fgsm", "0.2000", "0.1000 (50%)", "0.1000 (50%)"]
    assert "Means over 2 seeds" in (tmp_path / "both/report.md").read_text()


def test_users_of_other_data_are_compared_among_themselves(tmp_path):
    for model, count in (("A", 30), ("B", 40)):
        records = measured(model)
        written(tmp_path / model, records, users={"universal": users_of(records, count=count)})
    job_report.combine([str(tmp_path / "A"), str(tmp_path / "B")], str(tmp_path / "both"))
    text = (tmp_path / "both/report.md").read_text()
    assert "the same 30 users" in text and "the same 40 users" in text and "A: plain -> B: plain" not in text


def test_users_whose_split_each_seed_draws_are_told_apart_by_it(tmp_path):
    for seed in (1, 2):
        records = measured(seed=seed)
        written(tmp_path / str(seed), records, users={"universal": users_of(records, count=30 + seed)})
    job_report.combine([str(tmp_path / "1"), str(tmp_path / "2")], str(tmp_path / "both"))
    headings = re.findall(r"### Which users lose\? (.*)", (tmp_path / "both/report.md").read_text())
    assert headings == ["(M on D, seed 1)", "(M on D, seed 2)"]


def test_a_folder_that_cannot_be_reported_is_refused_in_one_line_and_nothing_is_written(tmp_path):
    written(tmp_path / "good", measured())
    written(
        tmp_path / "other",
        [row | {"metric": row["metric"].replace("ndcg", "mrr")} for row in measured()],
        metric="mrr@10",
    )
    for name, text in (("broken", "model,dataset\n1"), ("words", None), ("empty", "")):
        (tmp_path / name).mkdir()
        text = (tmp_path / "good/records.csv").read_text().replace("0.1,ndcg", "much,ndcg") if text is None else text
        (tmp_path / name / "records.csv").write_text(text)
    good = str(tmp_path / "good")
    for name, reason in (
        ("absent", "there is no folder"),
        ("broken", "no column"),
        ("words", "much"),
        ("empty", "cannot read"),
        ("other", "mrr@10"),
    ):
        with pytest.raises(InputError, match=reason) as error:
            job_report.combine([good, str(tmp_path / name)], str(tmp_path / "both"))
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="in use"):
        job_report.combine([good], str(tmp_path / "good"))
    assert not (tmp_path / "both").exists()


def test_what_holds_no_records_is_left_out_with_a_line_each(tmp_path, caplog):
    written(tmp_path / "good", measured())
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/resume.pt").touch()
    (tmp_path / "file").touch()
    others = [str(tmp_path / name) for name in ("empty", "killed", "file")]
    job_report.combine([*others, str(tmp_path / "good")], str(tmp_path / "both"))
    assert [f"'{name}' is left out" in line for name, line in zip(others, caplog.messages)] == [True] * 3
    assert [f"recbole-rawp train --resume={name}" in line for name, line in zip(others, caplog.messages)][:2] == [0, 1]
    assert "empty" not in (tmp_path / "both/report.md").read_text()
    with pytest.raises(InputError, match="none of the folders holds records.csv"):
        job_report.combine(others, str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_quoted_pattern_stands_for_the_folders_that_match_it(tmp_path, monkeypatch):
    for name in ("b", "a", "a[1]"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert command.matched(["b", "a*", "a[1]", "c*", "d"]) == ["b", "a", "a[1]", "a[1]", "c*", "d"]


def test_two_reports_in_one_second_do_not_collide(tmp_path, monkeypatch):
    written(tmp_path / "run", measured())
    monkeypatch.chdir(tmp_path)
    folders = {job_report.combine(["run"])["output_dir"] for _ in range(3)}
    assert len(folders) == 3 and all(folder.startswith("reports/") for folder in folders)


def test_tensorboard_gets_the_curves_and_not_the_loss():
    class Writer(list):
        def add_scalar(self, tag, value, step):
            self.append((tag, value, step))

    alone, several = Writer(), Writer()
    records = measured(defenses=("none",))
    report.tensorboard(alone, records)
    assert ("attack/hidden-tensor-universal/fgsm/ndcg@10", records[-2]["value"], 3000) in alone and len(alone) == 6
    report.tensorboard(several, measured())
    assert {tag.rpartition("/")[2] for tag, _, _ in several} == {"plain", "rawp"}
    assert len({(tag, step) for tag, _, step in several}) == len(several) == 12


def test_attacks_with_radii_of_their_own_keep_their_values(frame):
    """pandas' unstack(sort=False) mixes rows up where some lack a radius."""
    bim = frame[frame["threat"] == "fgsm"].assign(threat="bim", value=lambda f: f["value"] - 0.001)
    bim["level"] = bim["level"].replace({0.1: 0.2})
    mixed = pd.concat([frame, bim[bim["defense"] == "none"], bim[bim["defense"] == "rawp"]])
    wide = scores.by_threat(mixed, "ndcg@10")
    for row in mixed.itertuples():
        assert wide.loc[(row.defense, row.threat)][row.level].item() == row.value
    assert wide.isna().sum().sum() == 4 + 2  # four attacks lack 0.2, two lack 0.1
    text = verdict(mixed, "ndcg@10", bigger=True)
    assert "by 30% of its norm" in text and "**plain** keeps 5%" in text


def test_models_are_compared_under_the_attacks_that_all_of_them_met(frame):
    pgd = frame[(frame["threat"] == "fgsm") & (frame["defense"] == "none")].assign(threat="pgd", value=0.2)
    pgd.loc[pgd["level"] > 0, "value"] = 0.0
    text = verdict(pd.concat([frame, pgd]), "ndcg@10", bigger=True)
    assert text.startswith("When FGSM moves") and "**plain** keeps 5%" in text
    alone = verdict(pd.concat([frame[frame["defense"] == "none"], pgd]), "ndcg@10", bigger=True)
    assert "FGSM and PGD" in alone and "keeps 0%" in alone


def test_a_score_that_rises_under_attack_is_not_called_robust(frame):
    frame.loc[(frame["threat"] == "fgsm") & (frame["level"] > 0) & (frame["defense"] == "rawp"), "value"] = 0.25
    assert "A share above 100% is no robustness" in verdict(frame, "ndcg@10", bigger=True)


def test_the_overview_passes_over_radii_that_were_not_tried(frame):
    bim = frame[frame["threat"] == "fgsm"].assign(threat="bim")
    bim = bim[bim["level"] != 0.1]
    text = tables.overview(pd.concat([frame, bim]).assign(target="hidden"), "ndcg@10", bigger=True)
    plain = next(line for line in text.splitlines() if "| plain" in line)
    assert plain.count("| 0.1 (control: 95%)") == 1  # half of it is left, and no less
    assert plain.count("| 0.3 (control: 90%)") == 1


def test_variants_without_a_dash_of_their_own_are_told_apart():
    stored = ["drift", "drift_noise", "pruning", "bit_bursts_int8", "stuck_at_0_int8"]
    dashes = styles.dashed([*stored, "bit_flips_random"])
    assert len({str(dashes[name]) for name in stored}) == len(stored) and dashes["bit_flips_random"] == ":"
    both = styles.dashed(["apgd training", "apgd ranking", "noise"])
    assert both == {"apgd training": "--", "apgd ranking": "-", "noise": ":"}
