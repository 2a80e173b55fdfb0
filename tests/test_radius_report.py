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

pytestmark = pytest.mark.drawn


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
    words = radius_search.outcome(searched([0.5, 0.499, 0.496, 0.1]), "NDCG@10")
    assert words.startswith("rawp_radius auto: 0.08, of epoch 2 (3 of 4 epochs kept).")
    assert "0.4960, the plain model's 0.5000, at least 0.4950 wanted: within the budget of 1 %." in words
    mirrored = searched([0.5] * 8, bigger=False)
    assert "at most 0.5051 wanted: within" in radius_search.outcome(mirrored, "LOGLOSS")


def test_a_model_over_the_budget_is_said_loudly():
    words = radius_search.outcome(searched([0.1, 0.2]), "NDCG@10")
    assert "0.005, of epoch 1" in words and "**no radius kept the budget of 1 %**; this one cost least" in words


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
    assert radius_search.sections(trainer(searched([])), Path(".")) == []  # it has not begun
    assert not list(Path(".").iterdir())


def test_a_run_over_the_budget_says_so_on_the_page_on_the_screen_and_in_the_log(settings, capsys, caplog, monkeypatch):
    monkeypatch.setattr(RadiusSearch, "needed", 2.0)
    words = ["-m", "NeuMF", "-d", "toy", f"--data_path={settings('NeuMF')['data_path']}", "--defense=rawp"]
    words += ["--rawp_radius=auto", "--epochs=3", "--rawp_mask_every=batch"]
    words += ["--attack_radii=[0.1]", "--attack=[fgsm]", "--state=warning", "--show_progress=False"]
    assert main([*words, "--rawp_output_dir=out", "--train_batch_size=256"]) == 0
    assert "no radius kept the budget of 1 %" in capsys.readouterr().out and "not kept" in caplog.text
    assert "**no radius kept the budget of 1 %**" in Path("out/report.md").read_text()
    page = Path("out/report.html").read_text()
    assert "The radius that was found" in page and 'alt="radius and clean score by epoch" src="data:image/png' in page
