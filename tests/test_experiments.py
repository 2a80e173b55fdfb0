"""Declared experiments can be run, and the pages say what the committed records say."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from statistics import mean

import pandas as pd
import pytest
import yaml

from recbole_rawp.errors import InputError
from recbole_rawp.jobs.comparison import grid
from results import build
from results.declared import load
from results.figures import Figure, draw
from results.tables import Table, columns, read, render

ROOT = Path(__file__).parent.parent
DECLARED = sorted((ROOT / "results/experiments").glob("*.yaml"))
MARKER = re.compile(r"<!-- ((?:table|commands|provenance): .*?) -->")
experiments = pytest.mark.parametrize("file", DECLARED, ids=lambda file: file.stem)


@experiments
def test_the_page_is_what_its_records_give(file):
    experiment = load(file)
    page = experiment.page.read_text(encoding="utf-8")
    for marker, text in build.blocks(experiment).items():
        assert build.fill(page, {marker: text}) == page, f"{marker}: python results/build.py page {experiment.name}"


def test_every_marker_of_a_page_is_declared_and_every_experiment_has_its_provenance():
    pages = (ROOT / "results").glob("*.md")
    markers = [marker for page in pages for marker in MARKER.findall(page.read_text(encoding="utf-8"))]
    declared = [load(file) for file in DECLARED]
    wanted = [f"{kind}: {one.name}" for one in declared for kind in ("commands", "provenance")]
    wanted += [f"table: {table.name}" for one in declared for table in one.tables]
    assert sorted(markers) == sorted(wanted) and len(set(markers)) == len(markers)


@experiments
def test_its_runs_are_comparisons_that_can_be_set_up(file, tmp_path):
    for folder in ("results", "properties"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for name, own in load(file).runs.items():
        if earlier := own.options.get("pre_model_path"):  # the checkpoint of a run before it
            Path(earlier).parent.mkdir(parents=True)
            Path(earlier).touch()
        asked = grid.read(own.models, own.datasets, own.defenses, own.seeds, own.config_files, own.options)
        for cell in asked.cells():
            if cell.seed == own.seeds[0]:
                assert asked.settings(cell, {})["seed"] == cell.seed, name


def test_a_cell_of_the_families_is_what_the_file_says():
    """The strongest attack of each seed, by csv and loops."""
    shares = []
    with open(ROOT / "results/families.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["model"], row["defense"]) == ("WideDeep", "rawp_ft")]
    for seed in ("2020", "2021", "2022"):
        own = [row for row in rows if (row["seed"], row["metric"]) == (seed, "auc") and row["threat"] != "noise"]
        at = {level: [float(r["value"]) for r in own if float(r["level"]) == level] for level in (0.0, 0.13)}
        assert len(at[0.13]) == 4 and len(set(at[0.0])) == 1
        shares.append((min(at[0.13]) - 0.5) / (at[0.0][0] - 0.5))
    cell = f"{mean(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
    page = (ROOT / "results/families.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "0.7818 ± 0.0078" in line)
    assert [text.strip() for text in line.split("|")][7] == cell == "95% (92% to 97%)"


def records(values, **columns):
    """Return records of (defense, threat, level, seed) -> value."""
    keys = ("defense", "threat", "level", "seed")
    rows = [dict(zip(keys, key)) | {"value": value} for key, value in values.items()]
    return pd.DataFrame(rows).assign(**{"model": "M", "dataset": "d", "stage": 1, "metric": "hit@10", **columns})


SMALL = records(
    {
        ("none", "fgsm", 0.0, 1): 0.8,
        ("none", "fgsm", 0.0, 2): 0.4,
        ("none", "fgsm", 0.1, 1): 0.4,
        ("none", "fgsm", 0.1, 2): 0.3,
        ("none", "bim", 0.1, 1): 0.6,
        ("none", "bim", 0.1, 2): 0.1,
        ("rawp", "fgsm", 0.0, 1): 0.4,
        ("rawp", "fgsm", 0.0, 2): 0.3,
        ("rawp", "fgsm", 0.1, 1): 0.2,
    }
)
ROWS = {"defense": {"plain": "none", "hard": "rawp", "absent": "awp"}}


@pytest.mark.parametrize(
    ("column", "plain", "hard"),
    [
        ({"level": 0}, "0.6000 ± 0.2828", "0.3500 ± 0.0707"),
        ({"level": 0, "spread": "range", "form": ".2f"}, "0.60 (0.40 to 0.80)", "0.35 (0.30 to 0.40)"),
        ({"level": 0, "spread": "interval", "form": ".1f"}, "0.6 ± 2.5", "0.3 ± 0.6"),
        ({"level": 0.1, "show": "share", "where": {"threat": "fgsm"}}, "62% ± 18%", "50%"),
        ({"level": 0.1, "show": "share", "spread": "range"}, "38% (25% to 50%)", "50% (50% to 50%)"),
        ({"level": "mean", "show": "share", "spread": "none"}, "38%", "50%"),
        ({"show": "ratio", "spread": "none"}, "100.0%", "62.5%"),
        ({"show": "cost", "spread": "range"}, "", "37.5% (25.0% to 50.0%)"),
        ({"level": 0.1, "show": "count"}, "2", "1"),
        ({"level": 0.1, "where": {"threat": "bim"}}, "0.3500 ± 0.3536", ""),
    ],
)  # fmt: skip
def test_a_column_says_what_it_declares(column, plain, hard):
    asked = Table(
        "t",
        ROWS,
        columns({"text": "defense"}, {"title": "x", **column}, {"title": "none", "level": 9}),
        baseline={"defense": "none"},
    )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in render(asked, SMALL).splitlines()]
    assert [lines[0], *lines[2:]] == [["defense", "x"], ["plain", plain], ["hard", hard]]


def test_what_repeats_is_said_once_and_levels_are_columns():
    rows = {"model": ["M"], "defense": ["none", "rawp"]}
    asked = Table(
        "t", rows, columns({"text": "model"}, {"text": "defense"}, {"levels": [0, 0.1], "show": "count"}), once=1
    )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in render(asked, SMALL).splitlines()]
    assert [lines[0], *lines[2:]] == [["model", "defense", "0", "0.1"], ["M", "none", "2", "2"], ["", "rawp", "2", "1"]]


def test_two_metrics_in_one_cell_are_refused():
    both = pd.concat([SMALL, SMALL.assign(metric="ndcg@10")])
    with pytest.raises(InputError, match=r"hit@10, ndcg@10\. Name one metric"):
        render(Table("t", ROWS, columns({"level": 0})), both)


def test_a_picture_has_the_means_of_the_table():
    figure = Figure("x.png", {"model": ["M", "absent"]}, ROWS, "share", "level", "kept", height=1)
    axes = draw(figure, SMALL).axes
    drawn = {line.get_marker(): list(map(list, line.get_data())) for line in axes[0].lines}
    assert len(axes) == 1 and drawn == {"o": [[0.1], [0.375]], "s": [[0.1], [0.5]]}


def test_older_files_are_read_under_todays_names(tmp_path):
    new = records({("none", "noise", 0.1, 1): 0.1 + 0.2}, scope="universal", labels="")
    new.to_csv(tmp_path / "new.csv", index=False)
    old = new.rename(columns={"threat": "attack", "level": "radius"}).assign(attack="random", scope="global")
    old.to_csv(tmp_path / "old.csv", index=False)
    for name in ("new.csv", "old.csv"):
        pd.testing.assert_frame_equal(read(tmp_path / name), new)


@pytest.fixture
def toy(tmp_path, settings):
    """An experiment on generated data, its page and the CSV of earlier records."""
    own = {"epochs": 1, "attack": ["noise", "fgsm"], "attack_radii": [0.1], "attack_batches": 1, "topk": [10]}
    options = settings("NeuMF", **own, metrics=["NDCG"], valid_metric="NDCG@10")
    options = {key: value for key, value in options.items() if key not in ("model", "dataset")}
    asked = {"models": ["NeuMF"], "datasets": ["toy"], "defenses": ["none", "rawp"], "seeds": [7], "options": options}
    rows = {"kind": ["old", "new"], "defense": ["none", "rawp"]}
    cells = [{"text": "kind"}, {"text": "defense"}, {"level": 0, "form": ".6f"}]
    said = {
        "runs": {"small": {**asked, "columns": {"kind": "new"}}},
        "tables": [{"name": "toy", "where": {"metric": "ndcg@10"}, "rows": rows, "columns": cells}],
    }
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/toy.yaml").write_text(yaml.safe_dump(said))
    before = records({("none", "fgsm", 0.0, 7): 0.25}, model="NeuMF", dataset="toy", metric="ndcg@10", kind="old")
    stale = before.assign(kind="new", value=0.75)
    pd.concat([before, stale]).to_csv(tmp_path / "toy.csv", index=False)
    blank = "\n\n".join(f"<!-- {kind}: toy -->\n<!-- end -->" for kind in ("table", "commands"))
    (tmp_path / "toy.md").write_text(f"{blank}\n\n<!-- provenance: toy -->\nbefore\n<!-- end -->\n")
    return load(tmp_path / "experiments/toy.yaml")


def test_an_experiment_runs_goes_on_and_fills_its_page(toy, tmp_path, capsys):
    assert build.run(toy, tmp_path / "runs", [], {}) == []
    capsys.readouterr()
    assert build.run(toy, tmp_path / "runs", ["small"], {}) == []
    assert capsys.readouterr().out.count("finished before") == 2
    build.build(toy, tmp_path / "runs")
    page = toy.page.read_text()
    runs = pd.read_csv(tmp_path / "runs/small/runs.csv")
    for defense, clean in zip(runs["defense"], runs["clean"]):
        assert re.search(rf"\| +\w* +\| {defense} +\| {clean:.6f} ", page)
    assert "0.250000" in page and "0.750000" not in page, "records of other runs stay, those of the same are replaced"
    assert "recbole-rawp compare --models=NeuMF" in page
    assert re.search(
        r"commit .*torch threads.*NeuMF-toy-none-7, NeuMF-toy-rawp-7\n\nOf all other records:\n\nbefore", page
    )
    build.build(toy, tmp_path / "runs")
    assert toy.page.read_text() == page
    assert build.stale(tmp_path / "experiments") == []
    toy.page.write_text(page.replace("0.250000", "0.260000"))
    assert build.stale(tmp_path / "experiments") == ["toy"]


def test_what_a_page_said_on_other_runs_stays():
    said = "- recbole_rawp 1, device: cpu; 2026-11-29: A-1, A-10\n- recbole_rawp 0, device: cpu; 2026-11-28: B-1\n"
    left = build.earlier(f"{said}\n{build.OTHERS}\n\nCommit: A-1, long ago.\n", "- recbole_rawp 2: A-1, C-1\n- 3: B-1")
    assert left == "- recbole_rawp 1, device: cpu; 2026-11-29: A-10\n\nCommit: A-1, long ago."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["page", "publish"], r"there is no '.*publish.yaml'\. Known: families, .*published"),
        (["run", "published", "mpl"], r"run: 'mpl' is none of mlp, mlp-512, .*\. Name one, or none for all\."),
    ],
)
def test_a_name_that_is_none_is_said(words, message):
    with pytest.raises(InputError, match=message):
        build.main(words)


def test_a_page_without_the_marker_and_a_misspelt_key_are_said(toy):
    toy.page.write_text("nothing")
    with pytest.raises(InputError, match="no '<!-- table: toy -->'"):
        build.build(toy, Path("runs"))
    file = toy.home / "experiments/toy.yaml"
    file.write_text(file.read_text().replace("level:", "levle:"))
    with pytest.raises(InputError, match="levle"):
        load(file)


def test_the_page_of_production_is_what_its_records_give():
    from results import production

    page = production.PAGE.read_text(encoding="utf-8")
    assert build.fill(page, production.parts()) == page, "python results/production.py page"
