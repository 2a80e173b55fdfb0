"""Is a model rounded to bfloat16 measured as such, and left as it was?"""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from recbole_rawp.config import settings as options
from recbole_rawp.config.settings import Attack
from recbole_rawp.evaluation import robustness, self_checks
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.report.verdict import verdict
from recbole_rawp.threats.bf16 import Bf16
from tests.test_evaluation import outcome, trained


def test_the_rounding_error_is_at_most_half_a_step_and_ties_go_to_even():
    exact = torch.tensor([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 3.14159265, -1e-30], dtype=torch.float32)
    rounded = exact.to(torch.bfloat16).float()
    assert (rounded[:3] == torch.tensor([1.0, 1.0, 1.0 + 2**-6])).all()
    assert ((rounded - exact).abs() <= 2.0**-8 * exact.abs()).all()


def test_recboles_metrics_are_those_of_the_weights_written_in_place_and_every_bit_comes_back(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    found = outcome(trainer, data, Bf16(("bf16",), "all"))
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())
    with torch.no_grad():
        for weight in trainer.model.parameters():
            if weight.dim() > 1:
                weight.copy_(weight.to(torch.bfloat16).float())
    trainer.config["metric_decimal_place"] = 17
    trainer.evaluator.metric_class = type(trainer.evaluator)(trainer.config).metric_class
    own = trainer.evaluate(data.test, load_best_model=False)
    rounded = {r.metric: r.value for r in found.records if r.level == 1 and r.metric != "loss"}
    assert rounded == pytest.approx(own, abs=2e-3)  # a changed model is ranked by logits
    losses = {r.level: r.value for r in found.records if r.metric == "loss"}
    assert losses[0.0] != losses[1.0] == pytest.approx(losses[0.0], rel=1e-2)


def test_a_report_speaks_of_it_in_its_own_words(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", attack=["bf16"])))
    attack = options.read(trainer.config).attack
    found = robustness.under_attack(trainer, data, attack, defense="none")
    assert isinstance(attack, Attack) and {r.unit for r in found.records} == {"format"}
    text = verdict(pd.DataFrame(found.records), "mrr@10", bigger=True)
    assert text.startswith("When bfloat16 takes the place of the number format of all weights, **plain** keeps")
    statuses = {check.name: check.status for check in self_checks.verify(found, None, decimals=4)}
    assert statuses["the attack has a gradient"] == "not applicable"  # it climbs nothing
    assert statuses["all values are finite"] == "passed"


def test_activations_are_refused(settings):
    with pytest.raises(ValueError, match="activations are not stored"):
        config = RAWPConfig(config_dict=settings("NeuMF", attack=["bf16"], attack_target="activations"))
        options.read(config).attack  # noqa: B018
