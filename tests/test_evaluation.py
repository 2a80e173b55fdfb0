"""Does the attack measure what it says, and leave everything as it was?"""

import random

import numpy as np
import pytest
import torch
from recbole.utils import get_trainer

from recbole_rawp import checks, evaluation, preserve
from recbole_rawp.config import RAWPConfig
from recbole_rawp.objective import total
from recbole_rawp.prepare import prepare
from recbole_rawp.trainer import robustify
from recbole_rawp.weights import perturbed_weights

RADII = (0.0, 0.1, 0.5)


def trained(config, epochs=True):
    data, model = prepare(config)
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.fit(data.train, data.valid, saved=False)
    return trainer, data


def attacked(trainer, data, **options):
    target = options.pop("target", "hidden")
    weights = perturbed_weights(trainer.model, target)
    return evaluation.under_attack(
        trainer,
        data.train,
        data.test,
        **{"weights": weights, "radii": RADII, "batches": 2, "defense": "none", "target": target, **options},
    )


def values(records, attack, metric):
    return {r["radius"]: r["value"] for r in records if r["attack"] == attack and r["metric"] == metric}


def test_fgsm_is_the_gradient_of_the_summed_loss_written_in_place(settings):
    """The oracle: sum the losses, one backward pass, add to the weights themselves, evaluate, copy back."""
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    records = attacked(trainer, data)
    model = trainer.model.eval()
    batches = evaluation.fixed_batches(data.train, 2, trainer.device)
    weights = perturbed_weights(model, "hidden")
    loss = sum(total(model.calculate_loss(batch)) for batch in batches)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    saved = {name: weight.detach().clone() for name, weight in weights.items()}
    for radius in RADII:
        with torch.no_grad():
            for (name, weight), g in zip(weights.items(), gradients):
                weight.copy_(saved[name] + radius * saved[name].norm() * g / g.norm())
            expected = float(sum(model.calculate_loss(batch) for batch in batches)) / 2
            assert values(records, "fgsm", "loss")[radius] == pytest.approx(expected, rel=1e-5)
        trainer.config["metric_decimal_place"] = 4
        result = trainer.evaluate(data.test, load_best_model=False)
        for metric, value in result.items():
            assert values(records, "fgsm", metric)[radius] == pytest.approx(value, abs=0.51e-4)


def test_bim_is_projected_ascent_and_no_weaker_than_fgsm(settings):
    """The oracle: step along the gradient, shrink each tensor back into its ball, in place."""
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    records = attacked(trainer, data, steps=4)
    model = trainer.model.eval()
    batches = evaluation.fixed_batches(data.train, 2, trainer.device)
    weights = perturbed_weights(model, "hidden")
    saved = {name: weight.detach().clone() for name, weight in weights.items()}
    for radius in RADII[1:]:
        for _ in range(4):
            loss = sum(model.calculate_loss(batch) for batch in batches)
            gradients = torch.autograd.grad(loss, list(weights.values()))
            with torch.no_grad():
                for (name, weight), g in zip(weights.items(), gradients):
                    bound = radius * saved[name].norm()
                    delta = weight - saved[name] + 2.5 / 4 * bound * g / g.norm()
                    weight.copy_(saved[name] + delta * min(1.0, float(bound / delta.norm())))
        expected = sum(model.calculate_loss(batch).item() for batch in batches) / 2
        assert values(records, "bim", "loss")[radius] == pytest.approx(expected, rel=1e-4)
        assert expected > values(records, "fgsm", "loss")[radius] > values(records, "random", "loss")[radius]
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved[name])
    assert {r["steps"] for r in records if r["attack"] == "bim"} == {4}


def test_radius_zero_is_recboles_own_evaluation_unrounded(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    result = trainer.evaluate(data.test, load_best_model=False)
    records = attacked(trainer, data)
    for metric, value in result.items():
        clean = values(records, "fgsm", metric)[0.0]
        assert round(clean, 4) == value
    assert any(round(clean, 4) != clean for clean in (values(records, "fgsm", m)[0.0] for m in result))
    assert trainer.evaluate(data.test, load_best_model=False) == result


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("NeuMF", "hidden"),
        ("GRU4Rec", "hidden"),
        ("RecVAE", "hidden"),
        ("DCN", "hidden"),
        ("LightGCN", "embeddings"),
        ("SGL", "all"),
    ],
)
def test_nothing_is_left_behind(name, target, settings):
    config = RAWPConfig(config_dict=settings(name, defense="none", rawp_target=target))
    trainer, data = trained(config)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    clean = trainer.evaluate(data.test, load_best_model=False)
    trainer.model.train()
    before_rng = preserve.rng_state()
    loader = data.train.generator.get_state()
    expected = torch.rand(1), np.random.rand(), random.random()
    preserve.set_rng_state(before_rng)
    records = attacked(trainer, data, target=target)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert torch.equal(loader, data.train.generator.get_state())
    assert trainer.model.training
    after = trainer.model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert trainer.evaluate(data.test, load_best_model=False) == clean
    assert len({r["value"] for r in records if r["attack"] == "fgsm" and r["metric"] == "loss"}) == len(RADII)


def test_a_cache_of_embeddings_does_not_hide_the_attack(settings):
    config = RAWPConfig(config_dict=settings("LightGCN", defense="none", rawp_target="embeddings", epochs=5))
    trainer, data = trained(config)
    trainer.evaluate(data.test, load_best_model=False)  # fills the cache
    records = attacked(trainer, data, target="embeddings", radii=[5.0])
    ndcg = values(records, "random", "ndcg@10")
    assert ndcg[5.0] != ndcg[0.0]


def test_a_cache_that_loading_leaves_stale_is_cleared_at_radius_zero_too(settings):
    config = RAWPConfig(config_dict=settings("LightGCN", defense="none", rawp_target="embeddings"))
    trainer, data = trained(config)
    trainer.evaluate(data.test, load_best_model=False)
    with torch.no_grad():
        trainer.model.user_embedding.weight.normal_()  # as loading a checkpoint does, behind the cache's back
    records = attacked(trainer, data, target="embeddings", radii=[1e-9])
    ndcg = values(records, "fgsm", "ndcg@10")
    assert ndcg[0.0] == pytest.approx(ndcg[1e-9], abs=1e-3)


def test_attacked_batches_are_the_same_on_every_call_also_where_python_draws(settings):
    data, _ = prepare(RAWPConfig(config_dict=settings("BERT4Rec", defense="none")))
    one, two = (evaluation.fixed_batches(data.train, 1, torch.device("cpu"))[0] for _ in range(2))
    assert all(torch.equal(one[field], two[field]) for field in one.interaction)


def test_a_random_loss_is_the_same_function_on_every_call(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("DiffRec", defense="none")))
    batches = evaluation.fixed_batches(data.train, 1, trainer.device)
    loss = evaluation.AttackLoss(trainer.model, batches, perturbed_weights(trainer.model, "hidden"))
    first = loss.value({})
    torch.rand(7), random.random(), np.random.rand()
    assert loss.value({}) == first


def test_sampled_candidates_are_the_same_at_every_radius(settings):
    args = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "uni20"}
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", eval_args=args)))
    records = attacked(trainer, data, radii=[1e-9])
    assert values(records, "fgsm", "ndcg@10")[0.0] == values(records, "fgsm", "ndcg@10")[1e-9]
    assert attacked(trainer, data, radii=[1e-9]) == records


def test_records_have_the_schema_and_every_combination_once(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    records = attacked(trainer, data)
    assert all(tuple(r) == evaluation.SCHEMA for r in records)
    keys = [(r["attack"], r["radius"], r["metric"]) for r in records]
    assert len(set(keys)) == len(keys) == 3 * 3 * 6  # attacks x radii x (five metrics and the loss)
    assert {r["split"] for r in records if r["metric"] == "loss"} == {"train"}


def test_a_real_attack_passes_its_checks(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=20)))
    result = trainer.evaluate(data.test, load_best_model=False)
    found = checks.verify(attacked(trainer, data, batches=10), result, decimals=4)
    assert [c.status for c in found] == ["passed"] * 5, found


def record(attack, radius, metric, value):
    return dict.fromkeys(evaluation.SCHEMA, "") | {
        "defense": "none", "attack": attack, "radius": radius, "metric": metric, "value": value,
    }  # fmt: skip


def verified(fgsm, noise, ndcg=0.25, clean=0.25):
    records = [
        record(attack, radius, metric, value)
        for attack, losses in (("fgsm", fgsm), ("random", noise))
        for radius, loss in zip((0.0, 0.1), losses)
        for metric, value in (("loss", loss), ("ndcg@10", ndcg))
    ]
    return {c.name: (c.status, c.detail) for c in checks.verify(records, {"ndcg@10": clean}, decimals=4)}


def test_an_attack_without_gradient_fails_its_check():
    found = verified(fgsm=(0.5, 0.5), noise=(0.5, 0.6))
    assert found["the attack has a gradient"] == ("failed", "fgsm 0.1")
    assert found["the attack raises the loss more than noise of the same norm"][0] == "failed"


def test_nan_and_a_wrong_clean_value_fail_theirs():
    found = verified(fgsm=(0.5, float("nan")), noise=(0.5, 0.6), ndcg=0.2504, clean=0.24)
    assert found["all values are finite"] == ("failed", "fgsm 0.1")
    assert found["radius 0 equals RecBole's own evaluation"] == ("failed", "ndcg@10 0.24")


def test_a_sound_attack_passes_and_rounding_is_allowed():
    found = verified(fgsm=(0.5, 0.9), noise=(0.5, 0.6), ndcg=0.24996, clean=0.25)
    assert {status for status, _ in found.values()} == {"passed", "not applicable"}
    assert found["more steps are no weaker than one"][0] == "not applicable"  # bim was not asked for


def test_without_a_comparable_result_the_check_does_not_apply():
    found = checks.verify(
        [record(a, r, "loss", r + (a == "fgsm") * r) for a in ("fgsm", "random") for r in (0.0, 1.0)], None, decimals=4
    )
    assert {c.name: c.status for c in found}["radius 0 equals RecBole's own evaluation"] == "not applicable"


def test_models_without_full_ranking_are_measured_by_their_own_metrics(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("DCN", defense="none")))
    assert {r["metric"] for r in attacked(trainer, data)} == {"auc", "logloss", "loss"}
