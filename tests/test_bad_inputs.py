"""Is what cannot work told in one line, with status 2, and is nothing written? `benchmarks/bad_values.py` tries all."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from unittest import mock

import pytest

from recbole_rawp.config.command_line import literal
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.training.trainer import RAWPTrainer

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import bad_inputs
import bad_values

LATER = {  # what names a file, a suite, a defense or weights is told by who looks for it
    *("defense", "attack", "criticality_threats", "rawp_perturbation", "rawp_target", "attack_target"),
    *("attack_candidates", "attack_checkpoint", "rawp_output_dir"),
}


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - LATER))
def test_no_bad_value_of_an_option_is_accepted_nor_its_default_refused(name):
    values = bad_inputs.values(name)
    assert len(values) >= 4 and OPTIONS[name].accepts(OPTIONS[name].default)
    assert not [value for value in values if OPTIONS[name].accepts(literal(value))]


def test_broken_inputs_are_one_line_each_with_status_2_and_nothing_written(monkeypatch):
    """One of each kind; the script tries them all."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # RecBole logs where there is none
    bad_values.prepare()
    first = {}
    for case in (*bad_values.options(), *bad_values.files(Path("bad"))):
        if case.name not in OPTIONS or case.name in LATER:
            first[case.name] = case
    with mock.patch.object(RAWPTrainer, "fit", side_effect=bad_values.Accepted):
        assert {name: failing for name, case in first.items() if (failing := bad_values.failings(case))} == {}
        good = bad_values.Case("a good one", "nothing", (*bad_values.BASE, "--rawp_output_dir=good"), "")
        assert bad_values.failings(good) == "accepted"
