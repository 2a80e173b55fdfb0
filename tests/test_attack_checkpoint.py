"""Is any RecBole checkpoint attacked, reported, and never touched?  Are several reports put side by side?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from recbole.quick_start import run_recbole

from recbole_rawp import attack_checkpoint, harden_checkpoint, register, run_recbole_rawp
from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.training.registration import unregister

QUICK = {"attack_radii": [0.2], "attack_batches": 2, "attack_steps": 2, "attack_negatives": 20}
UNI = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"}
REPORT = {"report.md", "report.html", "report.json", "records.csv", "records.json", "table.tex", "checks.json"}
REPORT |= {"users.npz", "robustness.png", "robustness.svg", "environment.txt"}


def test_a_plain_checkpoint_is_attacked_by_the_standard_suite(plain):
    before = plain.read_bytes()
    result = attack_checkpoint(
        str(plain), config_dict={"rawp_output_dir": "out", "attack": "standard", "attack_restarts": 1, **QUICK}
    )
    assert plain.read_bytes() == before and list(Path("theirs").iterdir()) == [plain]
    names = {path.name for path in Path("out").iterdir()}
    assert REPORT | {"settings.yaml", "suite.yaml", "candidates.npz"} <= names and "model.pth" not in names
    frame = pd.DataFrame(result["records"])
    assert set(frame["defense"]) == {"none"} and set(frame["labels"]) == {"", "pseudo", "truth"}
    assert set(frame["target"]) == {"hidden", "embeddings", "activations", "all"}
    assert set(frame["threat"]) == {"noise", "fgsm", "mim", "apgd", "bf16"}
    assert "**plain** is " in Path("out/report.md").read_text()
    page = Path("out/report.html").read_text().partition("<script>")[0]  # plotly's own text names addresses
    assert "<h1" in page and "http://" not in page.replace("http://www.w3.org", "") and 'src="robustness' not in page


def test_the_suite_finds_the_same_in_a_run_and_in_its_checkpoint(settings):
    trained = run_recbole_rawp(config_dict=settings("NeuMF", defense="rawp", rawp_output_dir="run", **QUICK))
    attacked = attack_checkpoint("run/model.pth", config_dict={"rawp_output_dir": "again", **QUICK})
    assert attacked["records"] == trained["records"]
    assert {record.defense for record in attacked["records"]} == {"rawp"}


def test_test_data_that_the_model_may_have_been_trained_on_are_not_trusted(plain):
    for name, options in {"alike": {}, "seed": {"seed": 7}, "split": {"eval_args": UNI}}.items():
        attack_checkpoint(str(plain), config_dict={"rawp_output_dir": name, **QUICK, **options})
        text = Path(name, "report.md").read_text()
        assert ("test data were no training data" in text.split("\n\n")[1]) == (name != "alike")
    assert "seed: 7, trained with 2020" in Path("seed/report.md").read_text()
    harden_checkpoint(str(plain), config_dict={"rawp_output_dir": "harder", **QUICK, "seed": 7})
    assert "(plain: test data were no training data" in Path("harder/report.md").read_text()


def test_a_checkpoint_tells_its_own_defense_also_of_a_search_and_of_recboles_own_run(settings):
    run_recbole_rawp(config_dict=settings("NeuMF", defense="rawp", rawp_radius="auto", rawp_output_dir="run", **QUICK))
    files = []
    for folder, given in (("theirs", {}), ("named", {"defense": "awp"})):
        register()
        try:
            run_recbole(config_dict=settings("NeuMF", checkpoint_dir=folder, **given))
        finally:
            unregister()
        files += [path for path in Path(folder).glob("*.pth") if not path.stem.endswith("-stage1")]
    told = {"run/model.pth": "rawp", "run/model-plain.pth": "none", files[0]: "rawp_ft_reference", files[1]: "awp"}
    for path, defense in told.items():
        records = attack_checkpoint(str(path), config_dict=QUICK)["records"]
        assert {record.defense for record in records} == {defense}, path


def test_candidates_are_drawn_once_saved_and_can_be_given(settings):
    config = {**QUICK, "attack": "standard", "attack_target": "hidden", "attack_granularity": "row", "eval_args": UNI}
    config |= {"attack_restarts": 1}
    one = run_recbole_rawp(config_dict=settings("NeuMF", defense="none", rawp_output_dir="one", **config))
    statuses = {check.name: check.status for check in one["checks"]}
    assert statuses["level 0 equals RecBole's own evaluation"] == "passed"
    other = run_recbole_rawp(config_dict=settings("NeuMF", defense="none", rawp_output_dir="two", seed=7, **config))
    files = [np.load(f"{run}/candidates.npz") for run in ("one", "two")]
    assert all(np.array_equal(files[0][name], files[1][name]) for name in files[0].files)
    assert other["records"] != one["records"]
    again = {key: value for key, value in config.items() if key.startswith("attack")}
    again |= {"rawp_output_dir": "three", "attack_candidates": "two/candidates.npz"}
    assert attack_checkpoint("one/model.pth", config_dict=again)["records"] == one["records"]
    whole = {**again, "rawp_output_dir": "four", "attack": "published", "attack_radii": None}
    frame = pd.DataFrame(attack_checkpoint("one/model.pth", config_dict=whole)["records"])
    assert set(frame["scope"]) == {"per_user"} and frame["level"].max() == 0.1


def test_published_candidates_are_ranked(settings, data_path):
    rows = [line.split("\t") for line in Path(data_path, "toy/toy.inter").read_text().splitlines()[1:]]
    last = {user: item for user, item, *_ in sorted(rows, key=lambda row: float(row[3]))}
    seen = {user: {row[1] for row in rows if row[0] == user} for user in last}
    lines = [
        "\t".join([f"({user},{item})", *[f"i{i}" for i in range(61) if f"i{i}" not in seen[user]][:20]])
        for user, item in last.items()
    ]
    Path("toy.test.negative").write_text("\n".join(lines) + "\n")
    config = {**QUICK, "eval_args": UNI, "attack_candidates": "toy.test.negative", "rawp_output_dir": "out"}
    result = run_recbole_rawp(config_dict=settings("NeuMF", defense="none", **config))
    assert {c.name: c.status for c in result["checks"]}["level 0 equals RecBole's own evaluation"] == "passed"
    wrong = config | {"rawp_output_dir": "no", "attack_candidates": "none.npz"}
    with pytest.raises(InputError, match="attack_candidates: cannot read 'none.npz'"):
        run_recbole_rawp(config_dict=settings("NeuMF", defense="none", **wrong))
    assert not Path("no").exists()


def test_runs_are_put_side_by_side(settings, capsys):
    for defense in ("none", "awp"):
        run_recbole_rawp(config_dict=settings("NeuMF", defense=defense, rawp_output_dir=defense, **QUICK))
    assert main(["report", "none", "awp", "--rawp_output_dir=both"]) == 0
    out = capsys.readouterr().out
    assert "| plain " in out and "| awp " in out and "both/report.html" in out
    assert REPORT - {"environment.txt"} <= {path.name for path in Path("both").iterdir()}
    assert json.loads(Path("both/report.json").read_text())["metric"] == "mrr@10"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attack"], "attack: name a .pth file that RecBole saved, hardened or not, as in `recbole-rawp"),
        (["attack", "none.pth"], "checkpoint: there is no file 'none.pth'"),
        (["attack", "PLAIN", "--attack=standrad"], "attack: there is no suite 'standrad'. Did you mean 'standard'?"),
        (["attack", "PLAIN", "--attack_target=mpl*"], "attack_target: pattern 'mpl*' matches no weight of NeuMF"),
        (["attack", "PLAIN", "--attack_scope=per_user"], "attack_granularity: the suite's 'tensor' does not"),
        (["attack", "PLAIN", "--attack_candidates=none.npz"], "attack_candidates: nothing here ranks 'none.npz'"),
        (["attack", "PLAIN", "--attack=[[noise]]"], "attack: [['noise']] is not valid; expected suite"),
        (["attack", "PLAIN", "--baseline"], "--baseline: goes with train, not with attack"),
        (["report"], "report: name a run's folder, as in `recbole-rawp report runs/NeuMF`"),
        (["report", "nowhere"], "report: there is no folder 'nowhere'"),
        (["attack", "theirs"], "checkpoint: 'theirs' is a folder. Name a file in it, such as 'theirs/model.pth'"),
        (["report", "theirs", "--epochs=3"], "--epochs: report takes folders and --rawp_output_dir alone"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(words, message, plain, capsys):
    assert main([str(plain) if word == "PLAIN" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recbole-rawp: ") and message in error and error.count("\n") == 1, error
    assert not Path("runs").exists() and not Path("reports").exists()


def test_a_suite_that_holds_nothing_for_a_model_is_refused_before_training(settings):
    with pytest.raises(InputError, match="attack_scope: per_user ranks candidates, and eval mode labeled has none"):
        run_recbole_rawp(config_dict=settings("DeepFM", defense="none", attack="published"))
    Path("mine.yaml").write_text("- {methods: [noise], target: hidden, radii: [0.1]}")
    with pytest.raises(InputError, match="mine.yaml' holds nothing that LightGCN has"):
        run_recbole_rawp(config_dict=settings("LightGCN", defense="none", attack="mine.yaml"))
    assert not Path("runs").exists()
