"""Models that are trained in several runs are told which one this is, and what it goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_rawp import attack_checkpoint, run_recbole_rawp
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.quirks.earlier_runs import pretrained
from recbole_rawp.jobs.trainers import check_hardens
from recbole_rawp.training.trainer import RAWPFTTrainer
from tests import zoo


@pytest.mark.parametrize("model", pretrained())
def test_a_stage_that_the_model_does_not_have_is_refused_with_a_suggestion(model):
    runs = pretrained()[model]
    with pytest.raises(InputError, match=rf"^{runs.key}: .* Did you mean '{runs.names[-1]}'\?$"):
        RAWPConfig(model, "toy", config_dict={runs.key: runs.names[-1][:-1], "train_neg_sample_args": None})


@pytest.mark.parametrize("model", pretrained())
def test_a_later_stage_wants_the_checkpoint_of_an_earlier_one(model, tmp_path):
    runs = pretrained()[model]
    for missing in ("", "nowhere.pth", str(tmp_path)):
        options = {runs.key: runs.names[1], runs.file: missing, "train_neg_sample_args": None}
        with pytest.raises(InputError, match=rf"^{runs.file}: .*{runs.first} first"):
            RAWPConfig(model, "toy", config_dict=options)
    (tmp_path / "earlier.pth").touch()
    RAWPConfig(model, "toy", config_dict=options | {runs.file: str(tmp_path / "earlier.pth")})
    RAWPConfig(model, "toy", config_dict=options | {runs.key: runs.names[0]})


@pytest.mark.parametrize("asked", [False, True])
def test_pretraining_is_plain_unless_asked_and_says_so(settings, asked):
    config = RAWPConfig(config_dict=settings("NeuMF", defense="awp", rawp_pretraining=asked))
    data, model = prepare(config)
    model.train_stage = "pretrain"
    trainer = RAWPFTTrainer(config, model)
    trainer.fit(data.train, data.valid, saved=False)
    assert (trainer.objective is not None) == asked
    assert trainer.defense == ("awp" if asked else "none")
    assert trainer.state.progress is None


@pytest.mark.parametrize("asked", [False, True])
def test_a_pretraining_to_be_hardened_with_plain_epochs_only_is_refused(settings, asked):
    plain = {"rawp_pretraining": asked, "rawp_warmup_epochs": 2, "pretrain_epochs": 2, "epochs": 3}
    config = RAWPConfig(config_dict=settings("NeuMF", defense="awp", **plain))
    data, model = prepare(config)
    model.train_stage = "pretrain"
    if not asked:
        check_hardens(config, model, data)
        RAWPFTTrainer(config, model)
        return
    for begin in (lambda: check_hardens(config, model, data), lambda: RAWPFTTrainer(config, model)):
        with pytest.raises(InputError, match="^rawp_warmup_epochs: 2 of 2 epochs of pretraining"):
            begin()


def test_a_fine_tuned_checkpoint_can_be_attacked_without_the_file_it_went_on_from(zoo_path, tmp_path):
    case = zoo.cases()["KD_DAGFM, finetuning"]
    attack = {"attack_radii": [0.1], "attack": ["fgsm"]}
    options = case.config | attack | {"data_path": zoo_path, "defense": "none"}
    teacher = run_recbole_rawp(config_dict=options | {"phase": "teacher_training", "rawp_output_dir": "teacher"})
    file = Path(teacher["output_dir"], "model.pth")
    tuned = run_recbole_rawp(config_dict=options | {"warm_up": str(file), "rawp_output_dir": "tuned"})
    file.unlink()
    again = attack_checkpoint("tuned/model.pth", config_dict=attack | {"rawp_output_dir": "again"})
    assert again["records"] == tuned["records"]


def test_convncf_goes_on_from_the_embeddings_of_bpr_and_is_attacked_without_them(settings):
    """Its embeddings begin as BPR's, and its checkpoint needs BPR's file no more."""
    attack = {"attack_radii": [0.1], "attack": ["fgsm"], "attack_target": "all"}
    size = attack | {"embedding_size": 32}
    bpr = Path(run_recbole_rawp(config_dict=settings("BPR", **size, defense="none"))["output_dir"], "model.pth")
    shape = {"cnn_channels": [1, 4, 4], "cnn_kernels": [4, 8], "cnn_strides": [4, 8]}
    options = settings("ConvNCF", **size, **shape, train_method="after_pretrain", pre_model_path=str(bpr))
    begun = prepare(RAWPConfig(config_dict=options | {"defense": "none"}))[1]
    assert torch.equal(begun.item_embedding.weight, checkpoint.read(bpr)["state_dict"]["item_embedding.weight"])
    run = run_recbole_rawp(config_dict=options | {"defense": "rawp_reference", "rawp_output_dir": "on"})
    bpr.unlink()
    again = attack_checkpoint("on/model.pth", config_dict=attack)
    assert again["records"] == run["records"]
