"""Is any RecBole checkpoint read, ranked and hardened, and never touched?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recbole.quick_start import load_data_and_model

from recbole_rawp import harden_checkpoint, rank_checkpoint
from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.jobs.checkpoints import settings_of
from tests import toy_data
from tests.training import made

QUICK = {"attack_radii": [0.2], "attack_batches": 2, "attack_steps": 2, "ft_epochs": 2, "ft_modules": 1, "ft_steps": 1}


def test_a_plain_checkpoint_is_ranked(plain):
    before = plain.read_bytes()
    result = rank_checkpoint(str(plain), config_dict={"rawp_output_dir": "out", **QUICK})
    rises = [row.rise for row in result["rows"]]
    assert rises == sorted(rises, reverse=True) and len(rises) == 3 and rises[0] > 0
    assert {row.metric for row in result["rows"]} == {"mrr@10"}
    names = {path.name for path in Path("out").iterdir()}
    assert {"criticality.csv", "criticality.png", "environment.txt"} == names
    assert plain.read_bytes() == before and list(Path("theirs").iterdir()) == [plain]


def test_a_plain_checkpoint_is_hardened_beside_not_over_it(plain):
    before = plain.read_bytes()
    result = harden_checkpoint(
        str(plain), config_dict={"rawp_output_dir": "out", "ft_learning_rate": 0.1, "rawp_radius": 0.1, **QUICK}
    )
    assert plain.read_bytes() == before == Path("out/original.pth").read_bytes()
    assert list(Path("theirs").iterdir()) == [plain]
    assert len(result["repair"]) == 1 and Path("out/interpolation.png").exists()
    theirs, ours = (torch.load(file, weights_only=False)["state_dict"] for file in (plain, "out/model.pth"))
    different = {name.rpartition(".")[0] for name in theirs if not torch.equal(theirs[name], ours[name])}
    assert len(different) <= 1
    stages = {record.stage for record in result["records"]}
    assert stages == ({1, 2} if different else {2})
    assert {record.defense for record in result["records"]} == {"none"}
    assert load_data_and_model("out/model.pth")[1].state_dict()


def test_hardening_again_takes_the_hardened_file(plain):
    harden_checkpoint(str(plain), config_dict={"rawp_output_dir": "one", **QUICK})
    result = harden_checkpoint("one/model.pth", config_dict={"rawp_output_dir": "two", **QUICK})
    assert result["records"] and Path("two/model.pth").exists()


def test_a_hardening_that_was_killed_early_goes_on_as_hardening(plain):
    from recbole_rawp import continue_run

    harden_checkpoint(str(plain), config_dict={"rawp_output_dir": "whole", **QUICK})
    Path("killed").mkdir()
    for name in ("settings.yaml", "original.pth"):
        Path("killed", name).write_bytes(Path("whole", name).read_bytes())
    continue_run("killed")
    one, two = (torch.load(f"{run}/model.pth", weights_only=False)["state_dict"] for run in ("whole", "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_no_checkpoint_is_one_line_and_status_2(plain, tmp_path, capsys):
    Path("half.pth").write_bytes(plain.read_bytes()[:5000])
    Path("text.pth").write_text("hello")
    torch.save({"weights": 1}, "other.pth")
    torch.save([1, 2], "list.pth")
    for command in ("rank", "harden"):
        for words, message in (
            ([], f"{command}: name a .pth file"),
            (["none.pth"], "checkpoint: there is no file 'none.pth'"),
            (["half.pth"], "checkpoint: 'half.pth' cannot be read"),
            (["text.pth"], "checkpoint: 'text.pth' cannot be read"),
            (["other.pth"], "checkpoint: 'other.pth' is not a RecBole checkpoint (config, state_dict, epoch missing)"),
            (["list.pth"], "checkpoint: 'list.pth' is not a RecBole checkpoint"),
            ([str(plain), "--model=DCN"], "model: DCN is asked for, but the checkpoint holds NeuMF"),
            ([str(plain), "--dataset=ml-100k"], "dataset: ml-100k is asked for, but the checkpoint holds toy"),
            ([str(plain), "more.pth"], "'more.pth': not a command or option"),
            ([str(plain), "--ft_epoch=3"], "ft_epoch: no such option. Did you mean 'ft_epochs'?"),
            ([str(plain), "--rawp_target=mpl*"], "rawp_target: pattern 'mpl*' matches no weight of NeuMF"),
        ):
            assert main([command, *words]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"recbole-rawp: {message}") and error.count("\n") == 1, error
    assert not Path("runs").exists()


def test_weights_that_do_not_fit_the_data_are_one_line(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(toy_data, "USERS", 40)
    other = toy_data.write(tmp_path / "smaller")
    with pytest.raises(InputError, match="its weights do not fit the model on this data .*size mismatch"):
        rank_checkpoint(str(plain), config_dict={"data_path": str(other), **QUICK})


@pytest.mark.parametrize("name", ["DIN", "DIEN", "GRU4RecF", "SASRecF", "FDSA"])
def test_after_a_load_every_embedding_keeps_training(name, settings):
    """RecBole swaps in modules that its optimizer does not hold."""
    config = RAWPConfig(config_dict=settings(name, defense="rawp_reference", epochs=1))
    trainer, data = made(config)
    model = trainer.model
    first = {n: p.detach().clone() for n, p in model.named_parameters() if "embed" in n}
    trainer.fit(data.train, data.valid)
    trained = {n for n, p in model.named_parameters() if n in first and not torch.equal(p, first[n])}
    assert any("item" in n or "genre" in n for n in trained)
    for load in (
        lambda: trainer.evaluate(data.valid),
        lambda: trainer.resume_checkpoint(trainer.saved_model_file),
        lambda: checkpoint.load_into(model, checkpoint.read(trainer.saved_model_file)),
    ):
        load()
        before = {n: p.detach().clone() for n, p in model.named_parameters() if n in trained}
        trainer._train_epoch(data.train, 1)
        still = {n for n, p in model.named_parameters() if n in before and torch.equal(p, before[n])}
        assert not still


def test_what_is_saved_holds_no_cached_embeddings(settings):
    config = RAWPConfig(config_dict=settings("LightGCN", defense="awp", rawp_target="embeddings", epochs=1))
    trainer, data = made(config)
    model = trainer.model
    trainer.fit(data.train, data.valid)
    trainer.evaluate(data.valid, load_best_model=False)
    assert model.restore_user_e is not None
    trainer._save_checkpoint(0)
    assert checkpoint.read(trainer.saved_model_file)["other_parameter"] == {
        "restore_user_e": None,
        "restore_item_e": None,
    }


def test_files_options_and_command_line_win_over_the_checkpoints_settings(plain, monkeypatch):
    import sys

    Path("mine.yaml").write_text("seed: 7\nft_rounds: 3\neval_batch_size: 99\n")
    content = checkpoint.read(plain)
    config = settings_of(content, ["mine.yaml"], {"eval_batch_size": 98}, ours={"ft_rounds": 1})
    assert (config["seed"], config["ft_rounds"], config["eval_batch_size"]) == (7, 3, 98)
    monkeypatch.setattr(sys, "argv", ["test", "--seed=8"])
    assert settings_of(content, ["mine.yaml"])["seed"] == 8
    theirs = content["config"]
    config = settings_of(content)
    for key in (
        "eval_args",
        "metrics",
        "topk",
        "load_col",
        "mlp_hidden_size",
        "train_neg_sample_args",
        "learning_rate",
    ):
        assert config[key] == theirs[key], key


def test_hardening_without_a_round_or_valid_data_is_refused_before_anything_is_written(plain, capsys):
    no_valid = "--eval_args={'split': {'RS': [0.9, 0, 0.1]}}"
    for words, message in (
        (["--ft_rounds=0", "--rawp_radius=0.1"], "ft_rounds: 0 leaves nothing to do for harden"),
        ([no_valid], "eval_args: the choice is made on valid data"),
        (["--baseline"], "--baseline: goes with train, not with harden"),
    ):
        assert main(["harden", str(plain), *words]) == 2
        assert message in capsys.readouterr().err
    assert not Path("runs").exists()
