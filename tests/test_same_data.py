"""Is a checkpoint that meets other rows or ids than those of its training told so, before the verdict?"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recbole.quick_start import run_recbole
from recbole.utils import get_trainer

from recbole_rawp import attack_checkpoint, continue_run, harden_checkpoint, run_recbole_rawp
from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.data import fingerprint
from recbole_rawp.host.preparation import prepare
from recbole_rawp.jobs.checkpoints import same_data, settings_of
from recbole_rawp.jobs.trainers import ready
from recbole_rawp.training.registration import robustify

QUICK = {"attack": ["noise"], "attack_radii": [0.2], "attack_batches": 1, "criticality_steps": 1}
SAME, SCORES = "rows and ids are those of its training", "it scores on valid data what it scored when it was saved"
UNI = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"}


@pytest.fixture
def other(data_path):
    """A folder with the same interactions in another order: RecBole's ids are other ones, as many as before."""
    shutil.copytree(data_path, "other")
    file = Path("other/toy/toy.inter")
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *reversed(rows)]) + "\n")
    return "other"


def check(file, **options):
    """Return the check of data that every command makes of a checkpoint, without what comes after it."""
    content = checkpoint.read(file)
    config = settings_of(content, config_dict=options)
    data, model = prepare(config)
    checkpoint.load_into(model, content)
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    ready(trainer, data)
    (found,) = same_data(content, trainer, data)
    return found.name, found.status, found.detail


@pytest.fixture
def ours(settings):
    """A checkpoint of a run of ours."""
    run_recbole_rawp(config_dict=settings("NeuMF", defense="none", rawp_output_dir="run", **QUICK))
    return "run/model.pth"


def test_a_checkpoint_of_ours_tells_by_content_and_no_killed_run_goes_on_with_other_data(ours, other, capsys):
    assert check(ours) == (SAME, "passed", "")
    moved = "the internal ids of user_id, item_id stand for others than in training"
    assert check(ours, data_path=other) == (SAME, "failed", moved)
    assert check(ours, val_interval={"timestamp": "[100,inf)"})[1] == "failed"
    name, status, detail = check(ours, val_interval={"timestamp": "[0,690]"})  # a few rows less, and no user or item
    assert (name, status) == (SAME, "failed")
    assert re.match(r"training data: \d+ rows, digest \w+, trained with \d+ rows, digest \w+; valid data: ", detail)
    assert main(["rank", ours, f"--data_path={other}", "--criticality_steps=1"]) == 0
    assert f"SELF-CHECK FAILED (plain): {SAME}" in capsys.readouterr().out
    attack_checkpoint(ours, config_dict={"rawp_output_dir": "attacked", "data_path": other, **QUICK})
    verdict = Path("attacked/report.md").read_text().split("\n\n")[1]
    assert "Do not trust these numbers" in verdict and SAME in verdict
    with pytest.raises(InputError, match=f"resume: the data have changed .{moved}"):
        continue_run("run", argv=[f"--data_path={other}"])


def test_a_checkpoint_of_recbole_is_asked_for_its_valid_score(plain, other):
    assert check(plain) == (SCORES, "passed", "")
    name, status, detail = check(plain, data_path=other)
    assert (name, status) == (SCORES, "failed") and re.match(r"mrr@10 \S+ now, \S+ then: other rows, ids", detail)
    assert check(plain, val_interval={"timestamp": "[300,inf)"})[:2] == (SCORES, "failed")
    assert check(plain, valid_metric="NDCG@10") == (SCORES, "not applicable", "")
    options = {"rawp_output_dir": "harder", "data_path": other, "defense": "awp", "ft_rounds": 1, "ft_epochs": 1}
    harden_checkpoint(str(plain), config_dict={**QUICK, **options, "rawp_radius": 0.1})
    assert SCORES in Path("harder/report.md").read_text().split("\n\n")[1]


def test_scores_that_are_drawn_may_differ_by_their_spread(settings):
    config = settings("NeuMF", checkpoint_dir="theirs", eval_args=UNI, epochs=6)
    run_recbole(config_dict={key: value for key, value in config.items() if not key.startswith(("ft_", "defense"))})
    (file,) = Path("theirs").glob("*.pth")
    assert check(file) == (SCORES, "passed", "")
    content = torch.load(file, weights_only=False)
    torch.save(content | {"best_valid_score": 0.9}, file)
    assert check(file)[1] == "failed"


def test_an_order_is_no_content():
    class Feat(dict):
        interaction = property(dict)

        def __len__(self):
            return len(self["u"])

    class Rows:
        uid_field, iid_field, label_field = "u", "i", "label"

        def __init__(self, *pairs):
            self.inter_feat = Feat(zip("ui", torch.tensor(pairs).T))

    one = fingerprint.rows_of(Rows((1, 2), (2, 1), (3, 3)))
    assert one == fingerprint.rows_of(Rows((3, 3), (1, 2), (2, 1))) and one.startswith("3 rows, ")
    others = [
        Rows((1, 2), (2, 1)),
        Rows((2, 2), (1, 1), (3, 3)),
        Rows((1, 2), (2, 1), (2, 1)),
        Rows((2, 1), (1, 3), (3, 2)),
    ]
    assert len({one, *map(fingerprint.rows_of, others)}) == 5


def test_loaders_that_are_not_recboles_have_no_fingerprint():
    assert fingerprint.of(SimpleNamespace(_dataset=object()), None) is None
    assert fingerprint.of(object(), None) is None
