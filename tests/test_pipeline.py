"""Does one call do the whole job, as RecBole would have done its part?"""

from __future__ import annotations

import csv
import logging
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recbole.quick_start import load_data_and_model, run_recbole

from recbole_rawp import attack_checkpoint, continue_run, harden_checkpoint, run_recbole_rawp
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.records import COLUMNS
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare, start_log
from recbole_rawp.jobs import output_folder, train

FILES = {
    ".lock",
    "model.pth",
    "resume.pt",
    "digests.json",
    "settings.yaml",
    "suite.yaml",
    "environment.txt",
    "report.md",
    "report.html",
    "report.json",
}
FILES |= {
    "robustness.png",
    "robustness.svg",
    "robustness.plotly.json",
    "records.csv",
    "records.json",
    "table.tex",
    "users.npz",
    "checks.json",
}
WORK = ("training", "attacks")
REPAIR = {f"{name}.{kind}" for name in ("criticality", "interpolation") for kind in ("csv", "png")} | {"tuning.csv"}

pytestmark = pytest.mark.drawn


def quick(settings, model="NeuMF", **overrides):
    return settings(model, attack_radii=[0.2], attack_batches=2, **overrides)


@pytest.mark.parametrize("name", ["NeuMF", "SASRec", "DeepFM", "SGL", "BERT4Rec"])
def test_defense_none_equals_recboles_own_run_bit_for_bit(name, settings):
    plain = run_recbole(config_dict=settings(name, checkpoint_dir="theirs"))
    target = {"attack_target": "all"} if name == "SGL" else {}
    ours = run_recbole_rawp(config_dict=quick(settings, name, defense="none", rawp_output_dir="ours", **target))
    for key, value in plain.items():
        assert ours[key] == value, key
    (theirs,) = Path("theirs").glob("*.pth")
    weights = torch.load(theirs, weights_only=False)["state_dict"]
    other = torch.load("ours/model.pth", weights_only=False)["state_dict"]
    assert weights.keys() == other.keys() and all(torch.equal(weights[n], other[n]) for n in weights)


def test_one_folder_holds_everything_and_settings_repeat_the_run(settings):
    first = run_recbole_rawp(config_dict=quick(settings, rawp_output_dir="first", epochs=3))
    assert {path.name for path in Path("first").iterdir()} == FILES | REPAIR | {"model-stage1.pth", "MODEL_CARD.md"}
    card = Path("first/MODEL_CARD.md").read_text()
    assert card.startswith("# NeuMF on toy, hardened by rawp_ft_reference\n") and first["table"] in card
    assert "training data: " in card and "perturbed in training: " in card and "\nplain" not in card
    assert all("- " + line.replace("CHECKPOINT", "model.pth") + "\n" in card for line in first["answer"])
    second = run_recbole_rawp(config_file_list=["first/settings.yaml"], config_dict={"rawp_output_dir": "second"})
    assert first["records"] == second["records"]
    with open("first/records.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [float(row["value"]) for row in rows] == [r.value for r in first["records"]]
    report = Path("first/report.md").read_text()
    assert first["table"] in report and "](robustness.png)" in report and "level 0 equals" in report
    assert Path("first/robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "command: " in Path("first/environment.txt").read_text()
    assert load_data_and_model("first/model.pth")[1].state_dict()


def test_the_baseline_joins_table_picture_and_records(settings, caplog):
    caplog.set_level("INFO")
    both = run_recbole_rawp(config_dict=quick(settings, rawp_output_dir="both", defense="awp"), baseline=True)
    assert [r.defense for r in both["records"]] == sorted((r.defense for r in both["records"]), reverse=True)
    places = [line for line in caplog.messages if line.startswith("Model ")]
    assert places == [f"Model {which}: {what}." for which in ("1 of 2, plain", "2 of 2, awp") for what in WORK]
    assert both["table"].count("| plain ") == 3 and both["table"].count("| awp ") == 5
    assert {"settings.yaml", "suite.yaml", "model.pth", "resume.pt", "digests.json"} == {
        path.name for path in Path("both/baseline").iterdir()
    }
    assert yaml.safe_load(Path("both/baseline/settings.yaml").read_text())["defense"] == "none"
    alone = run_recbole_rawp(config_dict=quick(settings, rawp_output_dir="alone", defense="none"), baseline=True)
    assert not Path("alone/MODEL_CARD.md").exists()
    assert "- radius: 0.1\n- at most " in Path("both/MODEL_CARD.md").read_text()
    scores = Path("both/MODEL_CARD.md").read_text().partition("## Clean scores")[2].partition("##")[0]
    assert re.findall(r"^\| (\w+)", scores, re.MULTILINE) == ["model", "plain", "awp"]
    assert alone["records"] == [r for r in both["records"] if r.defense == "none"]


def test_bad_patterns_are_found_before_the_baseline_trains(settings, monkeypatch):
    monkeypatch.setattr("recbole_rawp.training.trainer.RAWPTrainer._train_epoch", lambda *_: pytest.fail("trained"))
    for wrong in ({"rawp_layer_weights": {"foo*": 2}}, {"rawp_target": "mpl*", "attack_target": "hidden"}):
        with pytest.raises(InputError, match=rf"^{next(iter(wrong))}: pattern '.*' matches no weight of NeuMF"):
            run_recbole_rawp(config_dict=quick(settings, rawp_output_dir="out", **wrong), baseline=True)
    assert not Path("out").exists()


def test_a_warm_up_that_leaves_nothing_to_harden_is_refused_where_something_was_to_be(settings, monkeypatch):
    warm = quick(settings, rawp_output_dir="out", rawp_warmup_epochs=2, epochs=2)
    with monkeypatch.context() as patched:
        patched.setattr("recbole_rawp.training.trainer.RAWPTrainer._train_epoch", lambda *_: pytest.fail("trained"))
        for radius in (0.1, "auto"):
            with pytest.raises(InputError, match="^rawp_warmup_epochs: 2 of 2 epochs, .*leave no hardened"):
                run_recbole_rawp(config_dict={**warm, "rawp_radius": radius}, baseline=True)
        with pytest.raises(InputError, match="^eval_step: 0 validates never"):
            run_recbole_rawp(config_dict=quick(settings, rawp_radius="auto", eval_step=0), baseline=True)
    assert not Path("out").exists()
    run_recbole_rawp(config_dict={**warm, "defense": "none"})


def test_what_recbole_only_notices_while_building_is_one_line(settings):
    with pytest.raises(InputError, match="RecBole cannot make its"):
        run_recbole_rawp(config_dict=quick(settings, mlp_hidden_size=5))
    with pytest.raises(InputError, match="^state: 3 is not valid"):
        run_recbole_rawp(config_dict=quick(settings, state=3))
    with pytest.raises(InputError, match="^learner: 3 is not valid"):
        run_recbole_rawp(config_dict=quick(settings, learner=3, rawp_output_dir="out"))
    assert not Path("out").exists()


def test_what_recbole_took_is_not_asked_for_its_type_again(settings):
    took = {"show_progress": 0, "stopping_step": 10.0, "epochs": 1, "checkpoint_dir": "theirs"}
    run_recbole(config_dict=settings("NeuMF", **took))
    (file,) = Path("theirs").glob("*.pth")
    result = attack_checkpoint(str(file), config_dict={"attack": ["noise"], "attack_radii": [0.1]})
    assert result["records"]
    with pytest.raises(InputError, match="^stopping_step: 2.5 is not valid"):
        attack_checkpoint(str(file), config_dict={"stopping_step": 2.5})


def test_a_suite_of_ones_own_is_found_from_another_folder(settings, monkeypatch):
    Path("mine.yaml").write_text("- {methods: [noise], target: hidden, radii: [0.1]}\n")
    run_recbole_rawp(config_dict=quick(settings, attack="mine.yaml", rawp_output_dir="out"))
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert continue_run("../out", argv=[])["records"]
    hardened = harden_checkpoint("../out/model.pth", argv=["--ft_epochs=1", "--rawp_output_dir=repaired"])
    assert {record.threat for record in hardened["records"]} == {"noise"}


def test_settings_of_numpy_and_paths_are_written_and_another_defense_brings_its_own(settings, data_path):
    run_recbole_rawp(
        config_dict=quick(
            settings,
            rawp_output_dir="out",
            rawp_radius=np.float64(0.2),
            data_path=Path(data_path),
            defense="rawp_reference",
        )
    )
    written = yaml.safe_load(Path("out/settings.yaml").read_text())
    assert written["rawp_radius"] == 0.2 and "rawp_mask_probability" not in written
    assert "# rawp_mask_probability: 0.5" in Path("out/settings.yaml").read_text()
    other = RAWPConfig(config_file_list=["out/settings.yaml"], config_dict={"defense": "awp"})
    assert other["rawp_mask_probability"] == 1.0


def test_a_users_log_handlers_stay(settings):
    mine = logging.FileHandler("mine.log")
    logging.getLogger().addHandler(mine)
    for _ in range(2):
        prepare(RAWPConfig(config_dict=settings("NeuMF")))
    assert mine in logging.getLogger().handlers


def test_many_runs_in_one_process_do_not_wrap_the_output_ever_deeper(settings):
    import colorama

    for _ in range(3):
        start_log(RAWPConfig(config_dict=settings("NeuMF")))
    assert not isinstance(colorama.initialise.orig_stdout, colorama.ansitowin32.StreamWrapper)
    colorama.deinit()


def test_two_rivals_never_get_one_folder():
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: output_folder.reserve(None, "M", "D", "rawp", environment="e"), range(24)))
    assert len(set(given)) == 24
    output_folder.reserve("named", "M", "D", "rawp", environment="e")
    with pytest.raises(InputError, match="in use"):
        output_folder.reserve("named", "M", "D", "rawp", environment="e")


def test_a_folder_in_which_another_process_is_at_work_is_left_alone(settings, monkeypatch):
    refused = pytest.raises(InputError, match=r"^rawp_output_dir: another process is at work in 'out'\. Wait")
    fit = train.fit

    def begun(*args):
        with refused, output_folder.held(Path("out")):
            pass
        return fit(*args)

    monkeypatch.setattr(train, "fit", begun)
    run_recbole_rawp(config_dict=quick(settings, rawp_output_dir="out"))
    script = """if True:
        import pathlib, time
        from recbole_rawp.jobs import output_folder as output
        with output.held(pathlib.Path("out")):
            print(flush=True)
            time.sleep(99)
    """
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir() if path.name != ".lock"}
            with refused:
                continue_run("out")
            assert all(path.stat().st_mtime_ns == time for path, time in before.items())
        finally:
            other.kill()
    continue_run("out")


def test_default_folders_never_collide(settings):
    names = {run_recbole_rawp(config_dict=quick(settings, epochs=1))["output_dir"] for _ in range(2)}
    assert len(names) == 2 and all(name.startswith("runs/NeuMF-toy-rawp_ft_reference-") for name in names)


def test_saved_false_leaves_no_checkpoint(settings):
    result = run_recbole_rawp(config_dict=quick(settings, rawp_output_dir="out"), saved=False)
    assert result["records"] and not list(Path("out").glob("*.pth"))


def test_a_folder_in_use_is_refused_and_untouched(settings):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="rawp_output_dir: 'mine' is in use"):
        run_recbole_rawp(config_dict=quick(settings, rawp_output_dir="mine"))
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_a_download_that_ends_in_recboles_barrier_still_counts(settings, data_path, monkeypatch):
    """RecBole 1.2.1 downloads, then waits for a process group that a single process does not have."""
    from recbole.data.dataset import Dataset

    def download(self):
        Path(self.dataset_path).mkdir(parents=True)
        for file in Path(data_path, "toy").iterdir():
            Path(self.dataset_path, file.name).write_bytes(file.read_bytes())
        torch.distributed.barrier()

    monkeypatch.setattr(Dataset, "_download", download)
    assert run_recbole_rawp(config_dict=quick(settings, data_path="fresh", epochs=1))["records"]
