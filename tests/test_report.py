"""Do table, verdict and picture say what the records say?"""

import pandas as pd
import pytest
from matplotlib.image import imread

from recbole_rawp import output, report
from recbole_rawp.evaluation import SCHEMA


@pytest.fixture
def frame():
    curves = {
        ("none", "random"): (0.2, 0.19, 0.18),
        ("none", "fgsm"): (0.2, 0.1, 0.01),
        ("rawp", "random"): (0.18, 0.18, 0.18),
        ("rawp", "fgsm"): (0.18, 0.18, 0.171),
    }
    rows = [
        dict.fromkeys(SCHEMA, "")
        | {"model": "M", "dataset": "D", "defense": defense, "attack": attack}
        | {"radius": radius, "metric": "ndcg@10", "value": value}
        for (defense, attack), values in curves.items()
        for radius, value in zip((0.0, 0.1, 0.3), values)
    ]
    return pd.DataFrame(rows)


def test_the_table_shows_values_and_shares(frame):
    lines = report.table(frame, "ndcg@10", bigger=True).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["defense", "attack", "radius 0", "radius 0.1", "radius 0.3"]
    assert cells[3] == ["plain", "fgsm", "0.2000", "0.1000 (50%)", "0.0100 (5%)"]
    assert cells[5] == ["rawp", "fgsm", "0.1800", "0.1800 (100%)", "0.1710 (95%)"]


def test_the_verdict_names_the_radius_where_the_models_differ_most(frame):
    text = report.verdict(frame, "ndcg@10", bigger=True)
    assert text.startswith("When FGSM moves each weight tensor by 30% of its norm, ")
    assert "**plain** keeps 5% of its NDCG@10 of 0.2000 (noise of the same norm leaves 90%)" in text
    assert "**rawp** keeps 95%" in text


def test_one_model_alone_has_a_verdict_too(frame):
    assert "by 10% of its norm, **plain** keeps 50%" in report.verdict(
        frame[frame["defense"] == "none"], "ndcg@10", bigger=True
    )


def test_no_attacked_radius_is_said(frame):
    assert "only 0" in report.verdict(frame[frame["radius"] == 0], "ndcg@10", bigger=True)


def test_a_clean_score_of_zero_has_no_share(frame, tmp_path):
    frame["value"] = 0.0
    assert "n/a" in report.table(frame, "ndcg@10", bigger=True) and "n/a" in report.verdict(
        frame, "ndcg@10", bigger=True
    )
    report.plot(frame, "ndcg@10", tmp_path / "p.png", bigger=True)


def test_scores_of_nan_are_shown_and_never_taken_for_the_milder_attack(frame, tmp_path):
    frame.loc[(frame["attack"] == "fgsm") & (frame["radius"] == 0.3), "value"] = float("nan")
    assert "nan (n/a)" in report.table(frame, "ndcg@10", bigger=True)
    alone = frame[frame["defense"] == "none"]
    assert "keeps 50%" in report.verdict(alone, "ndcg@10", bigger=True)
    frame["value"] = float("nan")
    assert "keeps n/a" in report.verdict(frame, "ndcg@10", bigger=True)
    report.plot(frame, "ndcg@10", tmp_path / "p.png", bigger=True)


def test_where_less_is_better_the_share_is_clean_over_attacked_and_the_worst_is_the_largest(frame):
    frame["value"] = 1 / frame["value"]
    assert "**plain** keeps 5% of its LOGLOSS" in report.verdict(
        frame.replace("ndcg@10", "logloss"), "logloss", bigger=False
    )
    assert "(50%)" in report.table(frame, "ndcg@10", bigger=False)


def test_the_picture_has_ink_in_every_defences_colour(frame, tmp_path):
    report.plot(frame, "ndcg@10", tmp_path / "p.png", bigger=True)
    pixels = (imread(tmp_path / "p.png")[..., :3] * 255).round().astype(int).reshape(-1, 3)
    for colour, _ in (report.STYLES["none"], report.STYLES["rawp"]):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (abs(pixels - rgb).sum(axis=1) < 6).sum() > 100


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "r.md"
    path.write_text("old")

    def broken(partial):
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        output.whole(path, broken)
    assert path.read_text() == "old"


def test_a_repaired_model_is_told_from_what_it_was_before(frame):
    both = pd.concat([frame.assign(stage=1), frame[frame["defense"] == "rawp"].assign(stage=2, value=0.175)])
    lines = report.table(both, "ndcg@10", bigger=True).splitlines()[2:]
    names = [line.split("|")[1].strip() for line in lines]
    assert names == ["plain", "plain", *["rawp before repair"] * 2, *["rawp repaired"] * 2]
    assert "0.1750 (100%)" in lines[-1] and "0.1710 (95%)" in lines[3]
    text = report.verdict(both, "ndcg@10", bigger=True)
    assert "**rawp before repair** keeps 95%" in text and "**rawp repaired** keeps 100%" in text
