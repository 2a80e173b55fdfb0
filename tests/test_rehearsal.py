"""Is what RecBole would only find out in its first evaluation told before anything is trained or written?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.rehearsal import check_evaluation
from recbole_rawp.jobs.train import run_recbole_rawp
from tests.toy_data import ITEMS
from tests.training import made, same

LONG = {"topk": [ITEMS + 2], "valid_metric": f"MRR@{ITEMS + 2}"}


def test_lists_longer_than_the_items_are_refused_in_every_command(plain, settings, data_path, capsys):
    words = [f"--{key}={value}" for key, value in LONG.items()]
    train = ["train", "-m", "NeuMF", "-d", "toy", f"--data_path={data_path}"]
    for command in (train, ["attack", str(plain)], ["rank", str(plain)], ["harden", str(plain)]):
        assert main([*command, *words, "--state=error"]) == 2
        assert f"topk: {ITEMS + 2} is more than the {ITEMS} items of 'toy'. Lower it." in capsys.readouterr().err
    assert not Path("runs").exists()
    prepare(RAWPConfig(config_dict=settings("NeuMF", topk=[ITEMS + 1], valid_metric=f"MRR@{ITEMS + 1}")))  # RecBole's
    alone = {"metrics": ["GAUC"], "valid_metric": "GAUC", "topk": [ITEMS + 2]}  # which looks at no list
    prepare(RAWPConfig(config_dict=settings("NeuMF", **alone)))


def test_one_batch_of_evaluation_is_rehearsed_and_leaves_no_trace(settings, monkeypatch):
    trainer, data = made(RAWPConfig(config_dict=settings("NeuMF", eval_batch_size=62)))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    rng, asked = torch.get_rng_state(), []
    theirs = trainer.model.predict
    monkeypatch.setattr(trainer.model, "predict", lambda batch: asked.append(len(batch)) or theirs(batch))
    for loader in (data.valid, [], None):
        check_evaluation(trainer, train_data=data.train, eval_data=loader, trained=False)
    assert asked == [62] and len(data.valid) > 1
    assert same(before, trainer.model.state_dict()) and torch.equal(rng, torch.get_rng_state())
    assert trainer.model.training and len(list(data.valid)) == len(data.valid)


@pytest.mark.parametrize(
    ("error", "trained", "refused"), [(KeyError, False, True), (ValueError, False, False), (ValueError, True, True)]
)
def test_what_training_may_mend_is_left_to_it(error, trained, refused, settings, monkeypatch):
    trainer, data = made(RAWPConfig(config_dict=settings("NeuMF")))

    def failing(batch):
        raise error("not\nyet")

    monkeypatch.setattr(trainer.model, "predict", failing)
    if not refused:
        return check_evaluation(trainer, train_data=data.train, eval_data=data.valid, trained=trained)
    with pytest.raises(InputError, match=f"cannot evaluate the model with these settings: {error.__name__}"):
        check_evaluation(trainer, train_data=data.train, eval_data=data.valid, trained=trained)


def test_refused_settings_leave_no_folder_that_blocks_the_corrected_command(settings, plain):
    Path("out").mkdir()
    for wrong in ({"learning_rate": -1}, {"log_wandb": True}):
        with pytest.raises(InputError, match="RecBole cannot make its trainer"):
            run_recbole_rawp(config_dict=settings("NeuMF", rawp_output_dir="out", **wrong))
        assert not Path("out").exists()
        command = [str(plain), "--rawp_output_dir=out", "--state=error", *(f"--{k}={v}" for k, v in wrong.items())]
        for name in ("attack", "rank", "harden"):
            assert main([name, *command]) == 2 and not Path("out").exists()
    with pytest.raises(InputError, match="RecBole cannot make its trainer"):
        run_recbole_rawp(config_dict=settings("NeuMF", learning_rate=-1))
    assert not Path("runs").exists()


def test_a_killed_runs_folder_stays(settings):
    run = settings("NeuMF", defense="none", rawp_output_dir="out", attack=["noise"], attack_radii=[0.1])
    run_recbole_rawp(config_dict=run)
    before = sorted(Path("out").iterdir())
    file = Path("out/settings.yaml")
    file.write_text(file.read_text().replace("learning_rate: 0.001", "learning_rate: -1"))
    assert main(["train", "--resume=out"]) == 2 and sorted(Path("out").iterdir()) == before


def test_a_log_that_cannot_be_written_is_one_line(settings, monkeypatch):
    Path("log").write_text("a file")
    with pytest.raises(InputError, match="log: RecBole writes its log into .*, and cannot .*Run where it can"):
        prepare(RAWPConfig(config_dict=settings("NeuMF")))
    Path("log").unlink()

    def read_only(folder, *rest):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.makedirs", read_only)
    with pytest.raises(InputError, match="cannot .Permission denied: './log'"):
        prepare(RAWPConfig(config_dict=settings("NeuMF")))
