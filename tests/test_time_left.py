"""Does a run of several models say where it is, and about how long the rest takes?"""

from __future__ import annotations

import logging

from recbole_rawp.jobs.time_left import ATTACKS, TRAINING, TimeLeft
from recbole_rawp.jobs.train import run_recbole_rawp
from tests.training import QUICK


def test_what_is_left_is_counted_by_the_model_before_which_is_attacked_once_the_repaired_one_twice():
    left = TimeLeft(["plain", "rawp_ft"], [1, 2])
    assert left.at(1, TRAINING) == "Model 1 of 2, plain: training."
    left.took(1, TRAINING, 180.0)
    assert left.at(1, ATTACKS) == "Model 1 of 2, plain: attacks."  # nobody knows yet what they take
    left.took(1, ATTACKS, 60.0)
    assert left.at(2, TRAINING).endswith("rawp_ft: training. About 5 minutes left, if all takes as long as before.")
    assert left.left(2, ATTACKS) == 120.0
    left.took(2, ATTACKS, 240.0)
    assert left.seconds[ATTACKS] == 120.0


def test_less_than_a_minute_is_not_worth_a_word():
    left = TimeLeft(["plain", "rawp_ft"], [1, 1])
    left.took(1, TRAINING, 1.0)
    left.took(1, ATTACKS, 1.0)
    assert left.left(2, TRAINING) is None and left.left(2, ATTACKS) is None


def test_settings_are_told_once_and_of_the_second_model_what_differs(settings, caplog):
    caplog.set_level(logging.INFO)
    given = settings("NeuMF", **QUICK) | {"state": "INFO"}
    run_recbole_rawp(config_dict=given, baseline=True, argv=[])
    lines = [record.getMessage() for record in caplog.records]
    assert sum("General Hyper Parameters" in line for line in lines) == 1
    (differing,) = [line for line in lines if line.startswith("The same settings, but ")]
    assert "defense = rawp_ft" in differing and "learning_rate" not in differing
    order = [i for i, line in enumerate(lines) if line.startswith("Model ")]
    assert [lines[i] for i in order][:2] == ["Model 1 of 2, plain: training.", "Model 1 of 2, plain: attacks."]
