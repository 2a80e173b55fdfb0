"""The report says which radius was found, what it costs, and loudly if that is too much."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.image import imread

from recbole_rawp.cli.main import main
from recbole_rawp.report.sections import radius_search
from recbole_rawp.training.radius.rule import RadiusSearch


def searched(scores, *, bigger=True, budget=0.01, plain=0.5):
    """Return a search that saw these scores."""
    search = RadiusSearch(budget, bigger, 1.0, plain=[plain, plain], trained_plainly=True)
    for epoch, score in enumerate(scores):
        search.decide(epoch, score)
    return search


def trainer(search):
    config, state = {"model": "M", "dataset": "D"}, SimpleNamespace(search=search)
    return SimpleNamespace(state=state, valid_metric="ndcg@10", config=config)


def test_within_the_budget_the_cost_is_told_beside_the_plain_model():
    words = radius_search.outcome(searched([0.5, 0.5, 0.5, 0.5, 0.5, 0.496, 0.499, 0.1]), "NDCG@10")
    assert words.startswith("rawp_radius auto: 1, of epoch 6 (7 of 8 validations passed).")
    assert "0.4990 (0.4960 confirmed by others), the plain model's 0.5000 (median of three)" in words
    assert words.endswith("at least 0.4950 wanted: within the budget of 1 %.")


def test_one_lucky_validation_is_over_the_budget():
    words = radius_search.outcome(searched([0.1, 0.1, 0.5]), "NDCG@10")
    assert "0.5000 (0.1000 confirmed by others)" in words and "**the budget of 1 % is not kept**" in words
    assert "0.5000 (confirmed by no other), the plain" in radius_search.outcome(searched([0.5]), "NDCG@10")


def test_a_model_over_the_budget_is_said_loudly():
    search = searched([0.1], plain=0.1)
    search.plain = [0.1, 0.5, 0.5]  # it climbed, and the search ended before it had to
    words = radius_search.outcome(search, "NDCG@10")
    assert "**the budget of 1 % is not kept**. More epochs, or a larger rawp_clean_budget." in words
    mirrored = searched([0.5] * 8, bigger=False)
    assert "at most 0.5051 wanted: within" in radius_search.outcome(mirrored, "LOGLOSS")


def test_it_says_how_often_training_began():
    search = searched([0.5, 0.498])
    assert "(2 of 2 validations passed)" in radius_search.outcome(search, "NDCG@10")
    search.begin_anew()
    search.decide(2, 0.1)
    assert "(2 of 3 validations passed; training began 2 times)" in radius_search.outcome(search, "NDCG@10")
    radius_search.sections(trainer(search), Path("."))
    assert pd.read_csv("radius.csv")["attempt"].tolist() == [1, 1, 2]


@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.1, 0.498, 0.5, 0.2, 0.1]])
def test_the_path_is_in_the_file_and_in_the_picture(scores):
    search = searched(scores)
    title, *_, shown = radius_search.sections(trainer(search), Path("."))
    assert title == "## The radius that was found" and "](radius.png)" in shown
    written = pd.read_csv("radius.csv", float_precision="round_trip")
    assert written.to_dict("records") == list(map(asdict, search.path)) and written["chosen"].sum() == 1
    assert imread("radius.png").shape == (750, 900, 4) and not list(Path(".").glob("*.partial"))


def test_without_a_search_there_is_no_such_part():
    assert radius_search.sections(trainer(None), Path(".")) == []
    assert radius_search.sections(trainer(searched([0.1])), Path(".")) == []  # nothing passed
    assert not list(Path(".").iterdir())


def test_a_run_over_the_budget_says_so_on_the_page_on_the_screen_and_in_the_log(settings, capsys, caplog, monkeypatch):
    monkeypatch.setattr(RadiusSearch, "within_budget", lambda self, row: False)
    words = ["-m", "NeuMF", "-d", "toy", f"--data_path={settings('NeuMF')['data_path']}", "--defense=rawp"]
    words += ["--rawp_radius=auto", "--epochs=3"]
    words += ["--attack_radii=[0.1]", "--attack=[fgsm]", "--state=warning", "--show_progress=False"]
    assert main([*words, "--rawp_output_dir=out", "--train_batch_size=256"]) == 0
    assert "the budget of 1 % is not kept" in capsys.readouterr().out and "not kept" in caplog.text
    assert "**the budget of 1 % is not kept**" in Path("out/report.md").read_text()
    page = Path("out/report.html").read_text()
    assert "The radius that was found" in page and 'alt="radius and clean score by epoch" src="data:image/png' in page
