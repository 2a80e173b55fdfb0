"""Is a checkpoint with odd content, or with weights that nothing can be made of, one line?"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.data.fingerprint import KEY
from tests.training import made

WEIGHT = "mlp_layers.mlp_layers.1.weight"


def weights(change):
    return lambda content: content["state_dict"].update({WEIGHT: change(content["state_dict"][WEIGHT])})


def entry(key, value):
    return lambda content: content.update({key: value})


def setting(key, value):
    return lambda content: content["config"].final_config_dict.update({key: value})


ODD = (
    *((entry("state_dict", value), "its state_dict holds what is no weight") for value in ([1], None, "x", {1: 2})),
    (weights(lambda weight: "x"), "its state_dict holds what is no weight"),
    *((entry("other_parameter", value), "its other_parameter is no mapping") for value in (5, [1])),
    (entry("epoch", "x"), "its epoch is 'x'"),
    (setting("model", None), "its config has model None"),
    (setting("dataset", 5), "its config has dataset 5"),
    (setting("eval_args", 5), "its config has eval_args 5"),
    *((setting(KEY, value), f"its {KEY} is none") for value in ("x", {"x": 1}, {"ids": {}, "rows": {"a": 1}})),
    (lambda content: vars(content["config"]).clear(), "its config has no settings"),
    (lambda content: vars(content["config"]).update(external_config_dict="x"), "its config has no settings"),
    (weights(lambda weight: weight.int()), f"its {WEIGHT} is of torch.int32, and the model's of torch.float32"),
    (weights(lambda weight: weight.to(torch.complex64)), f"its {WEIGHT} is of torch.complex64"),
    (weights(lambda weight: weight * math.nan), f"{WEIGHT} of its weights hold NaN or infinity: its training diverged"),
    (weights(lambda weight: weight / 0), f"{WEIGHT} of its weights hold NaN or infinity"),
)


def test_odd_content_is_one_line(plain, settings):
    trainer, _ = made(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    whole = trainer.model.state_dict()
    for damage, reason in ODD:
        content = torch.load(plain, weights_only=False)
        damage(content)
        torch.save(content, "odd.pth")
        with pytest.raises(InputError) as error:
            checkpoint.load_into(trainer.model, checkpoint.read("odd.pth"))
        assert str(error.value).startswith("checkpoint: ") and reason in str(error.value)
        assert "\n" not in str(error.value)
    checkpoint.load_into(trainer.model, checkpoint.read(plain))  # which none of them spoiled
    assert all(torch.isfinite(weight).all() for weight in whole.values())


def test_a_count_of_numpys_and_a_frozen_mask_of_infinity_are_not_odd(plain, settings):
    trainer, _ = made(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    content = torch.load(plain, weights_only=False)
    content["epoch"] = np.int64(3)
    weights(lambda weight: torch.full_like(weight, -math.inf))(content)
    torch.save(content, "masked.pth")
    mask = trainer.model.get_parameter(WEIGHT)
    mask.requires_grad = False
    checkpoint.load_into(trainer.model, checkpoint.read("masked.pth"))
    assert (mask == -math.inf).all()
    content["state_dict"][WEIGHT].fill_(math.nan)
    with pytest.raises(InputError, match="hold NaN"):
        checkpoint.load_into(trainer.model, content)


@pytest.mark.parametrize("command", ["attack", "rank", "harden"])
def test_every_command_refuses_weights_of_nan_before_it_writes(command, plain, capsys):
    content = torch.load(plain, weights_only=False)
    weights(lambda weight: weight * math.nan)(content)
    torch.save(content, "nan.pth")
    assert main([command, "nan.pth", "--rawp_output_dir=out"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("recbole-rawp: ")]
    assert not Path("out").exists()
    assert len(errors) == 1 and "hold NaN or infinity: its training diverged" in errors[0]


def test_a_ranking_of_weights_beyond_measure_fails_its_check(plain, capsys):
    content = torch.load(plain, weights_only=False)
    for name in content["state_dict"]:
        content["state_dict"][name] *= 1e25
    torch.save(content, "huge.pth")
    assert main(["rank", "huge.pth", "--rawp_output_dir=out", "--criticality_steps=1"]) == 0
    assert "SELF-CHECK FAILED (plain): the loss rises by a number (" in capsys.readouterr().out


def test_digests_that_are_none_fit_no_file(plain):
    Path(plain.parent, "digests.json").write_text(json.dumps({plain.name: 5}))
    with pytest.raises(InputError, match="which tells what the files beside it were, is damaged"):
        checkpoint.read(plain)


def test_a_module_may_keep_extra_state_of_any_kind():
    class Keeping(torch.nn.Linear):
        def get_extra_state(self):
            return {"seen": 3}

        def set_extra_state(self, state):
            self.seen = state["seen"]

        def load_other_parameter(self, parameter):
            pass

    model = Keeping(2, 3)
    checkpoint.load_into(model, {"state_dict": Keeping(2, 3).state_dict()})
    assert model.seen == 3
