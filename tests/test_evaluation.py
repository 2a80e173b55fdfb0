"""Does the attack measure what it says, and leave everything as it was?"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from recbole_rawp.config.settings import Attack
from recbole_rawp.core import restoring
from recbole_rawp.core.gradients import total
from recbole_rawp.core.losses.attack_loss import AttackLoss, Source
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import robustness
from recbole_rawp.evaluation.records import COLUMNS
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.quirks import training_loss
from recbole_rawp.host.ranking.habits import habits
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.threats.adversarial.method import METHODS
from recbole_rawp.threats.adversarial.perturbation import Perturbation
from recbole_rawp.threats.setting import TRAINING
from tests.oracle import searched
from tests.training import made

RADII = (0.0, 0.1, 0.5)


def trained(config):
    trainer, data = made(config)
    trainer.fit(data.train, data.valid, saved=False)
    return trainer, data


def threat(**options):
    fields = {"variants": ("noise", "fgsm", "bim"), "target": "hidden", "levels": RADII}
    return Perturbation(**(fields | options))


def outcome(trainer, data, *threats, batches=2):
    return robustness.under_attack(trainer, data, Attack(threats, batches, negatives=20), defense="none")


def attacked(trainer, data, **options):
    return outcome(trainer, data, threat(**options)).records


def values(records, attack, metric):
    return {r.level: r.value for r in records if r.threat == attack and r.metric == metric}


def test_fgsm_is_the_gradient_of_the_summed_loss_written_in_place(settings):
    """The oracle: sum the losses, one backward pass, add to the weights themselves, evaluate, copy back."""
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    records = attacked(trainer, data)
    model = trainer.model.eval()
    batches = fixed_batches(data.train, 2, trainer.device)
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


def test_scores_that_an_attack_drives_to_where_a_sigmoid_is_one_are_ranked_all_the_same(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", metric_decimal_place=17)))
    model = trainer.model.eval()
    with torch.no_grad():
        model.predict_layer.weight *= 1e4
        model.predict_layer.bias += 100.0  # all probabilities are 1
    records = attacked(trainer, data, variants=("noise",), levels=(0.0, 1e-6))
    by_items = trainer.evaluate(data.test, load_best_model=False)
    model.predict = lambda batch: model.forward(batch[model.USER_ID], batch[model.ITEM_ID])
    by_logits = trainer.evaluate(data.test, load_best_model=False)
    for metric in ("ndcg@10", "hit@10"):
        found = values(records, "noise", metric)
        assert found[0.0] == by_items[metric] != by_logits[metric]  # clean: RecBole's own
        assert found[1e-6] == pytest.approx(by_logits[metric], abs=1e-3)


def test_bim_is_projected_ascent_and_no_weaker_than_fgsm(settings):
    """The oracle: step along the gradient, shrink each tensor back into its ball, in place."""
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    records = attacked(trainer, data, iterations=4)
    model = trainer.model.eval()
    batches = fixed_batches(data.train, 2, trainer.device)
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
        assert expected > values(records, "fgsm", "loss")[radius] > values(records, "noise", "loss")[radius]
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved[name])
    assert {r.steps for r in records if r.threat == "bim"} == {4}


@pytest.mark.parametrize("method", ["fgsm", "bim", "pgd", "mim"])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_each_attack_on_neumf_in_float64_equals_the_one_written_in_place(granularity, method, settings):
    """The oracle: losses summed by hand, weights moved in place, each group shrunk back into its ball in a loop."""
    data, model = prepare(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    model = model.double().eval()
    batches = fixed_batches(data.train, 2, torch.device("cpu"))
    for batch in batches:
        batch["label"] = batch["label"].double()
    weights = perturbed_weights(model, "hidden")
    loss = AttackLoss(model, Source(TRAINING, (training_loss(model),), batches), weights)
    bound = loss.ball(0.3, granularity=granularity)
    generator = torch.Generator().manual_seed(5)
    start = METHODS[method].start(weights, bound, generator)
    generator.manual_seed(5)
    delta = searched(METHODS[method], loss.gradient, weights, bound, steps=3, generator=generator)

    saved = {name: weight.detach().clone() for name, weight in weights.items()}
    steps, momentum = (1 if method == "fgsm" else 3), dict.fromkeys(weights, 0.0)
    with torch.no_grad():
        for name, first in (start or {}).items():
            weights[name] += first
    for _ in range(steps):
        total_loss = sum(model.calculate_loss(batch) for batch in batches)
        for (name, weight), g in zip(weights.items(), torch.autograd.grad(total_loss, list(weights.values()))):
            momentum[name] = momentum[name] + g / g.abs().sum()
            uphill, length = (momentum[name] if method == "mim" else g), 1.0 if steps == 1 else 2.5 / steps
            with torch.no_grad():
                groups = range(len(weight)) if granularity == "row" else [slice(None)]
                for group in groups:
                    radius = 0.3 * saved[name][group].norm()
                    moved = weight[group] - saved[name][group]
                    if uphill[group].norm() > 0:
                        moved = moved + length * radius * uphill[group] / uphill[group].norm()
                    weight[group] = saved[name][group] + moved * min(
                        1.0, float(radius / moved.norm().clamp_min(1e-300))
                    )
    for name, weight in weights.items():
        torch.testing.assert_close(delta[name], weight.detach() - saved[name], rtol=1e-9, atol=1e-12)


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
    before_rng = restoring.rng_state()
    loader = data.train.generator.get_state()
    expected = torch.rand(1), np.random.rand(), random.random()
    restoring.set_rng_state(before_rng)
    records = attacked(trainer, data, target=target)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert torch.equal(loader, data.train.generator.get_state())
    assert trainer.model.training
    after = trainer.model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert trainer.evaluate(data.test, load_best_model=False) == clean
    assert len({r.value for r in records if r.threat == "fgsm" and r.metric == "loss"}) == len(RADII)


def test_a_cache_of_embeddings_does_not_hide_the_attack(settings):
    config = RAWPConfig(config_dict=settings("LightGCN", defense="none", rawp_target="embeddings", epochs=5))
    trainer, data = trained(config)
    trainer.evaluate(data.test, load_best_model=False)  # fills the cache
    records = attacked(trainer, data, target="embeddings", levels=(0.0, 5.0))
    ndcg = values(records, "noise", "ndcg@10")
    assert ndcg[5.0] != ndcg[0.0]


def test_a_cache_that_loading_leaves_stale_is_cleared_at_radius_zero_too(settings):
    config = RAWPConfig(config_dict=settings("LightGCN", defense="none", rawp_target="embeddings"))
    trainer, data = trained(config)
    trainer.evaluate(data.test, load_best_model=False)
    with torch.no_grad():
        trainer.model.user_embedding.weight.normal_()  # as loading a checkpoint does, behind the cache's back
    records = attacked(trainer, data, target="embeddings", levels=(0.0, 1e-9))
    ndcg = values(records, "fgsm", "ndcg@10")
    assert ndcg[0.0] == pytest.approx(ndcg[1e-9], abs=1e-3)


def test_attacked_batches_are_the_same_on_every_call_also_where_python_draws(settings):
    data, _ = prepare(RAWPConfig(config_dict=settings("BERT4Rec", defense="none")))
    one, two = (fixed_batches(data.train, 1, torch.device("cpu"))[0] for _ in range(2))
    assert all(torch.equal(one[field], two[field]) for field in one.interaction)


def test_a_random_loss_is_the_same_function_on_every_call(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("DiffRec", defense="none")))
    batches = fixed_batches(data.train, 1, trainer.device)
    loss = AttackLoss(
        trainer.model,
        Source(TRAINING, (training_loss(trainer.model),), batches),
        perturbed_weights(trainer.model, "hidden"),
    )
    first = loss.value({})
    torch.rand(7), random.random(), np.random.rand()
    assert loss.value({}) == first


def test_sampled_candidates_are_the_same_at_every_radius(settings):
    args = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "uni20"}
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", eval_args=args)))
    records = attacked(trainer, data, levels=(0.0, 1e-9))
    assert values(records, "fgsm", "ndcg@10")[0.0] == values(records, "fgsm", "ndcg@10")[1e-9]
    assert attacked(trainer, data, levels=(0.0, 1e-9)) == records


def test_records_have_the_schema_and_every_combination_once(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    records = attacked(trainer, data)
    assert all(list(vars(r)) == COLUMNS for r in records)
    keys = [(r.threat, r.level, r.metric) for r in records]
    assert len(set(keys)) == len(keys) == 3 * 3 * 6  # attacks x radii x (five metrics and the loss)
    assert {r.split for r in records if r.metric == "loss"} == {"train"}


def test_what_a_model_lacks_is_passed_over_or_refused(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("LightGCN", defense="none")))
    weights, hidden = threat(target="embeddings"), threat(optional=True)
    found = outcome(trainer, data, hidden, weights)
    assert {r.target for r in found.records} == {"embeddings"}
    assert "Passed over: target 'hidden': LightGCN has no hidden weight" in found.notes[0]
    with pytest.raises(InputError, match="LightGCN has no hidden weight"):
        outcome(trainer, data, threat())


def test_what_the_loss_does_not_depend_on_is_noted(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    with torch.no_grad():
        trainer.model.predict_layer.weight.zero_()
        trainer.model.predict_layer.bias.fill_(60.0)
    notes = outcome(trainer, data, threat()).notes
    assert any("no usable gradient by mlp_layers.mlp_layers.1.weight" in note for note in notes)


def test_of_several_random_starts_the_strongest_counts(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    one, five = (
        values(attacked(trainer, data, variants=("pgd",), iterations=2, restarts=number), "pgd", "loss")
        for number in (1, 5)
    )
    assert all(five[radius] >= one[radius] for radius in RADII) and five != one


def test_users_add_up_to_the_metrics_and_top_lists_overlap(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    found = outcome(trainer, data, threat())
    users = found.users["universal"]
    wide = {(c.threat, c.level): row for c, row in zip(users.conditions, users.values)}
    for record in found.records:
        if record.metric != "loss":
            mean = wide[record.threat, record.level][users.metrics.index(record.metric)].mean()
            assert mean == pytest.approx(record.value, rel=1e-5)
    radii = np.array([cell.level for cell in users.conditions])
    assert (users.overlap[radius_is(radii, 0)] == 1).all()
    assert 0 < users.overlap[radius_is(radii, 0.5)].mean() < 1
    history = data.train._dataset.inter_feat
    assert [int((history["user_id"] == u).sum()) for u in users.user] == users.activity.tolist()


def radius_is(radii, value):
    return np.isclose(radii, value)


def test_popularity_is_the_mean_count_of_the_test_items(settings):
    data, _ = prepare(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    _, popularity = habits(data.train, data.test)
    history, test = data.train._dataset.inter_feat["item_id"], data.test._dataset.inter_feat
    for user, found in zip(data.test.uid_list.tolist(), popularity):
        items = test["item_id"][test["user_id"] == user]
        assert found == pytest.approx(np.mean([(history == item).sum() for item in items]))


def test_models_without_full_ranking_are_measured_by_their_own_metrics(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("DCN", defense="none")))
    assert {r.metric for r in attacked(trainer, data)} == {"auc", "logloss", "loss"}


def test_an_interrupted_evaluation_leaves_no_rows_behind(settings, monkeypatch):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", eval_batch_size=200)))
    clean = trainer.evaluate(data.test, load_best_model=False)
    calls = []

    def interrupted(interaction):
        calls.append(1)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return type(trainer.model).predict(trainer.model, interaction)

    monkeypatch.setattr(trainer.model, "predict", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        attacked(trainer, data)
    monkeypatch.undo()
    assert trainer.evaluate(data.test, load_best_model=False) == clean


def test_the_first_item_of_a_sequence_counts_as_activity(settings):
    data, _ = prepare(RAWPConfig(config_dict=settings("SASRec", defense="none")))
    activity, popularity = habits(data.train, data.test)
    whole = data.train._dataset.inter_feat
    for user, found in zip(data.test._dataset.inter_feat["user_id"].tolist(), activity):
        lengths = whole["item_length"][whole["user_id"] == user]
        assert found == len(lengths) + 1  # one row for each interaction but the first
    assert (popularity > 0).any()


def test_places_after_the_candidates_do_not_count_as_overlap(settings):
    args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni5"}
    config = settings("NeuMF", defense="none", eval_args=args, topk=[3, 20], valid_metric="NDCG@3", epochs=5)
    trainer, data = trained(RAWPConfig(config_dict=config))
    assert outcome(trainer, data, threat()).users["universal"].k == 6
