"""A run that was killed, at whatever moment, ends as if it had not been."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recbole.trainer.trainer import Trainer
from torch import nn

from recbole_rawp import continue_run, run_recbole_rawp
from recbole_rawp.errors import InputError
from recbole_rawp.training.outside_state import Outside, put_outside
from recbole_rawp.training.plain_values import plain
from recbole_rawp.training.radius import rule
from recbole_rawp.training.radius.rule import RadiusSearch
from recbole_rawp.training.stage2 import repair, valid_scores

ROOT = Path(__file__).parent.parent


class Killed(BaseException):
    """Stands for the kill: nothing catches it."""


def options(settings, name, folder, **overrides):
    return settings(
        name, epochs=3, rawp_output_dir=folder, attack_radii=[0.2], attack_batches=2, attack_steps=2, **overrides
    )


def content(folder):
    """Return what must be equal: the checkpoint's tensors and numbers, and the records."""
    checkpoint = torch.load(Path(folder, "model.pth"), weights_only=False)
    records = Path(folder, "records.csv").read_text()
    return checkpoint["state_dict"], checkpoint["optimizer"]["state"], checkpoint["best_valid_score"], records


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return all(map(equal, a, b))
    return a == b


def kill_at(monkeypatch, moment):
    """Raise at the given call of what every batch, save and measurement passes; return the counter."""
    calls = [0]

    def counting(function):
        def wrapped(*args, **kwargs):
            calls[0] += 1
            if calls[0] == moment:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(Trainer, "_check_nan", counting(Trainer._check_nan))
    monkeypatch.setattr(os, "replace", counting(os.replace))  # a file is written, not yet in its place
    monkeypatch.setattr(valid_scores, "ranked", counting(valid_scores.ranked))
    return calls


SPECIAL = {
    "NeuMF": {"rawp_layer_weights": "criticality", "criticality_every": 2},
    "DCN": {"rawp_direction": "adam"},
    "DiffRec": {"rawp_start": "last"},
    "MKR": {"rawp_start": "free"},
}


def phase(folder):
    """Return the stage in which a run was killed, or of stage 1 with a search which half."""
    state = torch.load(Path(folder, "resume.pt"), weights_only=True)
    state = state["training"]
    if state["stage"] > 1 or not state["search"]:
        return state["stage"]
    return "search" if state["search"]["trained_plainly"] else "plain"


AUTO = {"rawp_radius": "auto", "rawp_clean_budget": 0.2, "rawp_start": "free"}


@pytest.mark.parametrize(
    ("name", "special"),
    [
        *((name, SPECIAL.get(name, {})) for name in ("NeuMF", "DCN", "DiffRec", "MKR", "RecVAE")),
        *((name, AUTO) for name in ("NeuMF", "RecVAE")),
    ],
)
def test_runs_killed_at_arbitrary_moments_end_bit_equal(name, special, settings, monkeypatch):
    monkeypatch.setattr(rule, "FIRST", 4)  # a short jump and ramp
    monkeypatch.setattr(rule, "FEWEST", 3)
    with monkeypatch.context() as patch:
        calls, spans, tune = kill_at(patch, None), [], repair.repair

        def noting(trainer):
            begun = calls[0]
            tune(trainer)
            spans.append((begun, calls[0]))

        patch.setattr(repair, "repair", noting)
        whole = run_recbole_rawp(config_dict=options(settings, name, "whole", **special))
        total = calls[0]
    expected = content("whole")
    phases = set()
    several = (total // 8, total // 2, sum(spans[0]) // 2) if special is AUTO else (total // 2, total - 12)
    for moment in several if name == "NeuMF" else (total // 2,):
        folder = f"killed-{moment}"
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            with pytest.raises(Killed):
                run_recbole_rawp(config_dict=options(settings, name, folder, **special))
        phases.add(phase(folder))
        with monkeypatch.context() as patch:  # once more, soon after
            kill_at(patch, 9)
            with pytest.raises(Killed):
                continue_run(folder)
        result = continue_run(folder)
        assert equal(expected, content(folder)), moment
        assert result["best_valid_result"] == whole["best_valid_result"]
        assert result["records"] == whole["records"] and result["repair"] == whole["repair"]
    assert special is not AUTO or name != "NeuMF" or phases == {"plain", "search", 2}


UNI = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "uni5"}}


@pytest.mark.parametrize(
    ("name", "special", "words"),
    [("NeuMF", {}, ["--eval_batch_size=62"]), ("RecVAE", UNI, [])],
)
def test_a_kill_in_validation_costs_no_epoch(name, special, words, settings, monkeypatch, caplog):
    """Also where validation draws random numbers (uniN), and an epoch has several passes (RecVAE).

    After a kill by memory a run goes on with smaller batches, which rank alike.
    """
    caplog.set_level("WARNING")
    monkeypatch.setattr(rule, "FIRST", 4)
    monkeypatch.setattr(rule, "FEWEST", 3)
    passes, validations = [0], [0]
    train, validate = Trainer._train_epoch, Trainer._valid_epoch

    def counting(*args, **kwargs):
        passes[0] += 1
        return train(*args, **kwargs)

    def killing(*args, **kwargs):
        result = validate(*args, **kwargs)
        validations[0] += 1
        if validations[0] == 2:
            raise Killed
        return result

    monkeypatch.setattr(Trainer, "_train_epoch", counting)
    quick = {**special, "defense": "rawp", "attack": ["mim"]}
    run_recbole_rawp(config_dict=options(settings, name, "whole", **quick))
    whole, passes[0] = passes[0], 0
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_valid_epoch", killing)
        with pytest.raises(Killed):
            run_recbole_rawp(config_dict=options(settings, name, "killed", **quick))
    continue_run("killed", argv=words)
    assert passes[0] == whole
    assert equal(content("whole"), content("killed"))
    assert bool(words) == ("eval_batch_size: 62 from here on, 8192 before" in caplog.text)


def test_a_run_killed_after_a_refusal_ends_bit_equal(settings, monkeypatch):
    decide = RadiusSearch.decide

    def by_radius(trainer, *_, **__):
        search = trainer.state.search
        score = 0.1 if search.trained_plainly and search.radius > 0.05 else 0.5
        trainer.state.valid_result = {"mrr@10": score}
        return score, trainer.state.valid_result

    def killed(self, epoch, score):
        if self.path and not self.path[-1].passed:
            raise Killed
        return decide(self, epoch, score)

    monkeypatch.setattr(Trainer, "_valid_epoch", by_radius)
    special = {"defense": "rawp", "rawp_radius": "auto"}
    run_recbole_rawp(config_dict=options(settings, "NeuMF", "whole", **special) | {"epochs": 6})
    with monkeypatch.context() as patch:
        patch.setattr(RadiusSearch, "decide", killed)
        with pytest.raises(Killed):
            run_recbole_rawp(config_dict=options(settings, "NeuMF", "killed", **special) | {"epochs": 6})
    assert torch.load("killed/resume.pt", weights_only=True)["training"]["search"]["path"][-1]["passed"] is False
    continue_run("killed")
    assert equal(content("whole"), content("killed"))
    assert Path("whole/radius.csv").read_text() == Path("killed/radius.csv").read_text()


def test_a_process_killed_again_and_again_ends_bit_equal(data_path, tmp_path):
    """SIGKILL at moments that the clock decides, the plain baseline first."""
    common = [sys.executable, ROOT / "run_recbole_rawp.py"]
    begin = [*("-m", "NeuMF", "-d", "toy", f"--data_path={data_path}", "--epochs=6", "--ft_epochs=6", "--baseline")]
    begin += ["--attack_radii=[0.2]", "--attack_batches=2", "--state=error", "--show_progress=False"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(*words):
        return subprocess.Popen(
            [*common, *words], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    whole = start(*begin, "--rawp_output_dir=whole")
    output, _ = whole.communicate(timeout=200)
    assert whole.returncode == 0, output
    process = start(*begin, "--rawp_output_dir=killed")
    for wait in (1.0, 0.7, 1.6):
        deadline = time.time() + 100
        states = {path: path.stat().st_mtime_ns for path in Path(tmp_path, "killed").rglob("resume.pt")}
        while process.poll() is None and time.time() < deadline:  # until it has moved on
            now = {path: path.stat().st_mtime_ns for path in Path(tmp_path, "killed").rglob("resume.pt")}
            if now != states:
                break
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start("--resume=killed", "--show_progress=False")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    for part in ("", "baseline"):
        pair = [torch.load(Path(tmp_path, run, part, "model.pth"), weights_only=False) for run in ("whole", "killed")]
        assert equal(*(checkpoint["state_dict"] for checkpoint in pair))
    assert Path(tmp_path, "whole/records.csv").read_text() == Path(tmp_path, "killed/records.csv").read_text()
    assert "continued:" in Path(tmp_path, "killed/environment.txt").read_text()


@pytest.fixture
def finished(settings):
    run_recbole_rawp(config_dict=options(settings, "NeuMF", "run"))
    return Path("run")


def test_the_file_loads_with_weights_only_and_is_rewritten_whole(finished):
    state = torch.load(finished / "resume.pt", weights_only=True)
    assert state["training"]["stage"] == 3 and not list(finished.rglob("*.partial"))
    assert {"optimizers", "rng", "generators", "training", "weights", "outside", "counters"} <= state.keys()
    assert state["training"].keys() >= {"masks", "plain_until", "search", "progress", "seconds"}


def test_a_finished_run_is_reported_again_without_training(finished, monkeypatch):
    before = content(finished)
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *_, **__: pytest.fail("trained"))
    continue_run("run")
    assert equal(before, content(finished))


def test_the_report_of_a_finished_search_names_the_radius_of_its_stage_2_again(settings):
    run_recbole_rawp(config_dict=options(settings, "NeuMF", "auto", ft_radius=None, **AUTO))
    reports = [Path("auto/report.md").read_text()]
    continue_run("auto")
    reports.append(Path("auto/report.md").read_text())
    said = [next(line for line in report.splitlines() if "moves every ranked" in line) for report in reports]
    assert said[0] == said[1]


def test_settings_of_another_run_are_refused(finished, monkeypatch):
    for words, message in (
        (["--epochs=9"], "epochs: 9, but the run in 'run' has 3. A run goes on as it began: leave --epochs out"),
        (["--model=DCN"], "model: 'DCN', but the run in 'run' has 'NeuMF'"),
        (["--rawp_steps=2"], "rawp_steps: 2, but the run in 'run' has 1"),
    ):
        monkeypatch.setattr(sys, "argv", ["test", *words])
        with pytest.raises(InputError) as refused:
            continue_run("run")
        assert str(refused.value).startswith(message)
    monkeypatch.setattr(sys, "argv", ["test", "--epochs=3", "--state=error"])  # what agrees or changes nothing is fine
    continue_run("run")
    file = finished / "settings.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"learning_rate": 0.5}))
    with pytest.raises(InputError, match="belongs to a run with other settings"):
        continue_run("run")


def test_a_folder_without_a_run_and_a_damaged_file_are_one_line(finished):
    Path("empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(InputError, match=f"resume: '{folder}' holds no settings.yaml"):
            continue_run(folder)
    file = finished / "resume.pt"
    for damaged in (file.read_bytes()[: len(file.read_bytes()) // 2], b"", b"nonsense"):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="resume: 'run/resume.pt' is damaged"):
            continue_run("run")


EDITED = (
    (("counters", "start_epoch"), "x", "start_epoch is 'x'"),
    (("counters", "cur_step"), -1, "cur_step is -1"),
    (("counters", "best_valid_score"), float("nan"), "best_valid_score is nan"),
    (("training", "stage"), 7, "stage is 7"),
    (("training", "masks"), torch.zeros(3), "another version wrote the saved state, or it was edited"),
    (("training", "search", "path"), 5, "or it was edited"),
    (("weights",), {}, "does not fit the model"),
    (("weights",), [], "weights is list"),
    (("optimizers", "optimizer"), {}, "does not fit the model"),
    (("optimizer_names",), {"optimizer": "none"}, "does not fit the model"),
    (("generators",), [torch.zeros(2)], "random generators"),
    (("rng",), (1, 2), "or it was edited"),
)


def test_the_state_of_another_version_is_refused_in_one_line(settings):
    run_recbole_rawp(config_dict=options(settings, "NeuMF", "auto", **AUTO, defense="rawp"))
    Path("auto/digests.json").unlink()  # else it is told by that
    state = torch.load("auto/resume.pt", weights_only=True)
    state["training"]["search"]["path"][0]["hurries"] = True
    torch.save(state, "auto/resume.pt")
    with pytest.raises(InputError, match=r"^resume: another version wrote the saved state, .*'hurries'"):
        continue_run("auto")
    del state["training"]["search"]["path"][0]["hurries"]
    for place, value, reason in EDITED:
        found = state
        for key in place[:-1]:
            found = found[key]
        before, found[place[-1]] = found[place[-1]], value
        torch.save(state, "auto/resume.pt")
        with pytest.raises(InputError, match=r"^resume: ") as error:
            continue_run("auto")
        assert reason in str(error.value) and "\n" not in str(error.value), error.value
        found[place[-1]] = before
    del state["counters"]["stopping_step"]
    torch.save(state, "auto/resume.pt")
    with pytest.raises(InputError, match=r"^resume: 'auto/resume.pt' is damaged \(KeyError: 'stopping_step'\)"):
        continue_run("auto")


def test_a_state_that_its_run_did_not_write_is_told_and_so_is_one_that_is_gone(finished):
    file = finished / "resume.pt"
    state = torch.load(file, weights_only=True)
    state["counters"]["best_valid_score"] = 0.5
    torch.save(state, file)
    with pytest.raises(InputError, match="'run/resume.pt' is damaged or was changed: it is not what its run wrote"):
        continue_run("run")
    file.unlink()
    with pytest.raises(InputError, match="'run/resume.pt' is gone"):
        continue_run("run")


def test_a_pickle_in_place_of_the_state_is_not_executed(finished):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, ("hacked",))

    torch.save({"fingerprint": Evil()}, finished / "resume.pt")
    with pytest.raises(InputError, match="is damaged"):
        continue_run("run")
    assert not Path("hacked").exists()


def test_a_run_killed_before_its_first_epoch_starts_anew(finished):
    before = content(finished)
    shutil.copytree("run", "fresh")
    for path in Path("fresh").iterdir():
        if path.name != "settings.yaml":
            path.unlink()
    continue_run("fresh")
    assert equal(before, content("fresh"))


def test_state_outside_the_state_dict_is_what_changed():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = torch.eye(3).to_sparse()
            self.history = torch.zeros(2)
            self.pairs = np.arange(4)
            self.pointer = 0
            self.share = 0.5
            self.restore_user_e = torch.ones(1)
            self.attention = torch.eye(2).to_sparse()
            self.late = None
            self.register_buffer("scratch", torch.zeros(1), persistent=False)

    def changed(model):
        model.history += 1
        model.pairs[::2] = 7
        model.pointer, model.late = 3, torch.ones(2)
        model.attention = torch.ones(2, 2).to_sparse()
        model.scratch += 2
        model.restore_user_e = torch.zeros(1)
        return model

    model = Stateful()
    watch = Outside(model)
    assert watch.changed() == {}
    state = (changed(model), plain(watch.changed()))[1]
    assert set(state) == {"/history", "/pairs", "/pointer", "/late", "/attention", "/scratch"}
    torch.save(state, "state.pt")
    twin = Stateful()
    alias = twin.history
    put_outside(twin, torch.load("state.pt", weights_only=True))
    assert alias.tolist() == [1.0, 1.0] and twin.history is alias  # in place
    assert twin.pairs.tolist() == [7, 1, 7, 3] and twin.pairs.dtype == model.pairs.dtype
    assert (twin.pointer, twin.share, twin.late.tolist()) == (3, 0.5, [1.0, 1.0])
    assert torch.equal(twin.attention.to_dense(), torch.ones(2, 2)) and twin.scratch.item() == 2
