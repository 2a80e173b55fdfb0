"""RecBole's training settings work with a defense, or are refused before training.

Of each: a run whose delta is multiplied by 0, the ascent done all the same, is plain RecBole's bit for bit, and a real
delta is not; or RecBole itself fails, and we say so in one line before training.
"""

from __future__ import annotations

import copy
import random

import pytest
import torch
from recbole.data.transform import UserDefinedTransform
from recbole.model.general_recommender import BPR
from torch import nn

from recbole_rawp import attack_checkpoint, run_recbole_rawp
from recbole_rawp.config.settings import Attack
from recbole_rawp.core.losses.attack_loss import AttackLoss
from recbole_rawp.core.selection import select
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import robustness
from recbole_rawp.evaluation.records import LOSS
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data, prepare
from recbole_rawp.host.rehearsal import check_training
from recbole_rawp.threats.adversarial.perturbation import Perturbation
from recbole_rawp.training.callbacks import OtherLoss
from recbole_rawp.training.stage2 import criticality, interpolation
from recbole_rawp.training.trainer import RAWPFTTrainer
from tests import oracle
from tests.training import QUICK, fit, run, same, stage_1

DYNAMIC = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": True, "candidate_num": 2}
POPULAR = {"distribution": "popularity", "sample_num": 2, "alpha": 0.5}

ZERO = {
    "mixed precision": {"enable_amp": True},
    "mixed precision, clipping": {"enable_amp": True, "clip_grad_norm": {"max_norm": 0.1}, "learner": "sgd"},
    "clipping": {"clip_grad_norm": {"max_norm": 0.1, "norm_type": 1}, "learner": "sgd", "learning_rate": 0.1},
    **{name: {"learner": name, "weight_decay": 1e-3} for name in ("adam", "adamw", "sgd", "adagrad", "rmsprop")},
    "dynamic negatives": {"train_neg_sample_args": DYNAMIC},
    "popular negatives": {"train_neg_sample_args": POPULAR},
    "in order": {"shuffle": False},
    "repeatable": {"repeatable": True},
    "one batch": {"train_batch_size": 100_000},
}


@pytest.mark.parametrize("name", ZERO)
def test_delta_times_zero_is_plain_recbole_and_a_real_delta_is_not(name, settings, zero):
    trainer, plain = stage_1(settings, defense="none", **ZERO[name])
    _, hardened = stage_1(settings, defense="awp", rawp_clean_weight=0.0, rawp_radius=0.5, **ZERO[name])
    norms = zero()
    _, zeroed = stage_1(settings, defense="awp", rawp_clean_weight=0.0, rawp_radius=0.5, **ZERO[name])
    assert norms and min(norms) > 0
    assert same(plain, zeroed) and not same(plain, hardened)
    if "learner" in ZERO[name]:
        assert type(trainer.optimizer).__name__.lower() == ZERO[name]["learner"]


# --- clipping


def test_the_clipped_gradient_is_that_of_the_whole_loss(settings):
    clip, rate = 0.01, 0.5
    config = RAWPConfig(
        config_dict=settings(
            "NeuMF",
            **{"defense": "awp", "ft_rounds": 0, "rawp_clean_weight": 0.7, "rawp_radius": 0.3, "dropout_prob": 0.0},
            **{
                "rawp_radius_jitter": 0.0,
                "learner": "sgd",
                "learning_rate": rate,
                "clip_grad_norm": {"max_norm": clip},
            },
            **{"epochs": 1, "train_batch_size": 100_000},
        )
    )
    data, model = prepare(config)
    before, batches, loss_function = copy.deepcopy(model), [], model.calculate_loss
    model.calculate_loss = lambda batch: batches.append(batch) or loss_function(batch)
    fit(config, (data, model))
    _, slow, _ = oracle.hardened_gradient(
        before, lambda m, b: m.calculate_loss(b), batches[0], select(before, "hidden"), 0.3, clean_weight=0.7
    )
    length = torch.stack([g.norm() for g in slow.values()]).norm()
    assert length > 2 * clip
    for name, weight in before.named_parameters():
        expected = weight - rate * slow[name] * clip / length
        torch.testing.assert_close(model.get_parameter(name), expected, rtol=1e-4, atol=1e-7)


def test_in_stage_2_the_clipped_gradient_is_that_of_the_repaired_module_alone(settings, monkeypatch):
    clip, rate = 0.001, 0.5
    config = RAWPConfig(
        config_dict=settings(
            "NeuMF",
            **{"ft_epochs": 1, "ft_learning_rate": rate, "ft_weight_decay": 0.0, "ft_radius": 0.3, "dropout_prob": 0.0},
            **{"rawp_clean_weight": 0.0, "rawp_radius_jitter": 0.0, "clip_grad_norm": {"max_norm": clip}},
            **{"train_batch_size": 100_000, **QUICK},
        )
    )
    data, model = prepare(config)
    trainer, start, batches, loss_function = (
        RAWPFTTrainer(config, model),
        copy.deepcopy(model),
        [],
        model.calculate_loss,
    )
    tuned = {}
    trainer.skip_stage_1()

    def noted(batch):
        if isinstance(trainer.callbacks[0], OtherLoss):
            batches.append(batch)
        return loss_function(batch)

    model.calculate_loss = noted
    interpolate = interpolation.interpolate

    def spy(model, names, scores, progress, **shown):
        tuned.update(progress.best)
        return interpolate(model, names, scores, progress, **shown)

    monkeypatch.setattr(interpolation, "interpolate", spy)
    for parameter in model.parameters():  # what an epoch of stage 1 leaves behind, and clipping would count
        parameter.grad = torch.full_like(parameter, 100.0)
    trainer.fit(data.train, data.valid, saved=False)
    weights = {name: weight for name, weight in select(start, "hidden").items() if name in tuned}
    _, slow, _ = oracle.hardened_gradient(start, lambda m, b: m.calculate_loss(b), batches[0], weights, 0.3)
    length = torch.stack([slow[name].norm() for name in tuned]).norm()
    assert length > 2 * clip and len(weights) == 1
    for name, weight in tuned.items():
        expected = start.get_parameter(name) - rate * slow[name] * clip / length
        torch.testing.assert_close(weight, expected.detach(), rtol=1e-4, atol=1e-7)


def test_clipping_that_torch_does_not_know_is_refused_in_one_line(settings):
    for wrong in (5, {"max_nrm": 1.0}):
        with pytest.raises(InputError, match="^clip_grad_norm: .* cannot be used"):
            run_recbole_rawp(config_dict=settings("NeuMF", clip_grad_norm=wrong))


# --- learners


def test_a_learner_that_recbole_does_not_know_is_adam(settings):
    _, adam = stage_1(settings, defense="awp")
    _, unknown = stage_1(settings, defense="awp", learner="nonsense")
    assert same(adam, unknown)


class SparseBPR(BPR):
    """Gradients only of the rows that a batch uses, which no model of RecBole has."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        for name in ("user_embedding", "item_embedding"):
            table = getattr(self, name)
            setattr(self, name, nn.Embedding.from_pretrained(table.weight.detach(), freeze=False, sparse=True))


def sparse(settings, **overrides):
    """Return the config, the loaders and a model with sparse gradients."""
    own = {"learner": "sparse_adam", "rawp_target": "embeddings", "train_batch_size": 64, **QUICK, **overrides}
    config = RAWPConfig(config_dict=settings("BPR", **own))
    data, _ = prepare(config)
    torch.manual_seed(0)
    return config, data, SparseBPR(config, data.train._dataset)


@pytest.mark.parametrize(("target", "weight"), [("embeddings", 0.0), ("all", 0.5)])
def test_sparse_adam_and_sparse_gradients(target, weight, settings, zero):
    def trained(**own):
        config, data, model = sparse(settings, ft_rounds=0, rawp_target=target, **own)
        return fit(config, (data, model))

    def untouched(trainer):
        return [~state["exp_avg"].any(1) for state in trainer.optimizer.state.values()]

    ours = {"defense": "awp", "rawp_radius": 0.5, "rawp_clean_weight": weight, "rawp_adversarial_weight": 1 - weight}
    trainer, plain = trained(defense="none")
    hardened_trainer, hardened = trained(**ours)
    norms = zero()
    _, zeroed = trained(**ours)
    assert type(hardened_trainer.optimizer) is torch.optim.SparseAdam and min(norms) > 0
    assert not same(plain, hardened) and all(value.isfinite().all() for value in hardened.values())
    for name, value in plain.items():  # half and half add up in another order
        assert torch.equal(zeroed[name], value) if weight == 0 else torch.allclose(zeroed[name], value, atol=1e-6)
    rows = untouched(trainer)  # of the padding at least: gradients stay sparse
    assert len(rows) == 2 and all(row.any() for row in rows)
    assert all(torch.equal(*pair) for pair in zip(rows, untouched(hardened_trainer)))


def test_a_sparse_model_is_ranked_repaired_and_attacked(settings):
    config, data, model = sparse(settings, epochs=1, ft_epochs=1)
    trainer = RAWPFTTrainer(config, model)
    trainer.fit(data.train, data.valid, saved=False)
    assert {row.module for row in trainer.state.progress.ranking} == {"user_embedding", "item_embedding"}
    assert trainer.state.progress.ranking[0].rise > 0 and len(trainer.state.progress.sweep) == 3  # ft_alphas: 2
    threat = Perturbation(("noise", "fgsm"), "embeddings", (0.0, 0.5), iterations=1)
    records = robustness.under_attack(
        trainer, Data(data.train, None, data.test), Attack((threat,), batches=2), defense="x"
    ).records
    loss = {(r.threat, r.level): r.value for r in records if r.metric == LOSS}
    assert loss["fgsm", 0.5] > loss["noise", 0.5] and loss["fgsm", 0.5] > loss["fgsm", 0.0]


def test_sparse_adam_on_a_dense_model_fails_in_recbole_and_is_refused_here(settings):
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients"):
        stage_1(settings, defense="none", learner="sparse_adam")
    with pytest.raises(InputError, match="learner: sparse_adam takes sparse gradients only; .* has a dense one"):
        run_recbole_rawp(config_dict=settings("NeuMF", learner="sparse_adam"))


# --- negatives


def test_attacked_batches_do_not_depend_on_the_model_whose_negatives_are_dynamic(settings):
    config = RAWPConfig(config_dict=settings("NeuMF", train_neg_sample_args=DYNAMIC, ft_rounds=0, defense="none"))
    data, model = prepare(config)
    model.eval()
    untrained = fixed_batches(data.train, 2, torch.device("cpu"))
    fit(config, (data, model))
    assert data.train.model is model and data.train.neg_sample_args["dynamic"]
    for mode in (True, False):
        model.train(mode)
        trained = fixed_batches(data.train, 2, torch.device("cpu"))
        assert model.training is mode
        for one, other in zip(untrained, trained):
            assert all(torch.equal(one[field], other[field]) for field in one.interaction)


def test_omega_of_dynamic_negatives_is_measured_in_evaluation_mode_and_leaves_no_trace(settings, monkeypatch):
    modes, value = [], AttackLoss.value

    def spy(self, delta):
        modes.append(self.model.training)
        return value(self, delta)

    config = RAWPConfig(config_dict=settings("NeuMF", train_neg_sample_args=DYNAMIC, ft_rounds=0, defense="none"))
    data, model = prepare(config)
    trainer, _ = fit(config, (data, model))
    states = [random.getstate(), torch.get_rng_state().tolist(), data.train.generator.get_state().tolist()]
    monkeypatch.setattr(AttackLoss, "value", spy)
    weights = select(model, "hidden")
    own = trainer.settings.training.criticality
    one, two = (criticality.omega(trainer, data.train, weights=weights, settings=own) for _ in range(2))
    assert modes and not any(modes) and one == two
    assert states == [random.getstate(), torch.get_rng_state().tolist(), data.train.generator.get_state().tolist()]


@pytest.mark.parametrize("args", [DYNAMIC, POPULAR], ids=["dynamic", "popular"])
def test_other_negatives_through_both_stages_attack_and_report(args, settings):
    result = run(settings, train_neg_sample_args=args)
    again = attack_checkpoint("out/model.pth", config_dict={"rawp_output_dir": "again", **QUICK})
    assert [r.value for r in again["records"]] == [r.value for r in result["records"] if r.stage == 2]


def test_negatives_that_recbole_only_misses_in_its_first_epoch_are_refused_in_one_line(settings):
    wrong = [
        ("NeuMF", None, "needs the field 'label'"),
        ("BPR", None, "needs the field 'neg_item_id'"),
        ("MultiVAE", DYNAMIC, "MultiVAE draws no negatives"),
        ("NeuMF", {**DYNAMIC, "candidate_num": 0}, "candidate_num, which is 0"),
    ]
    for model, args, reason in wrong:
        target = {"rawp_target": "all", "train_neg_sample_args": args}
        with pytest.raises(InputError, match=f"^train_neg_sample_args: .*{reason}"):
            run_recbole_rawp(config_dict=settings(model, **target))
        with pytest.raises((KeyError, AttributeError, RuntimeError)):
            stage_1(settings, model, **target, defense="none")


def test_the_batch_that_is_tried_leaves_no_trace(settings):
    config = RAWPConfig(config_dict=settings("DCN", defense="none", ft_rounds=0))
    plain = fit(config)[1]
    data, model = prepare(config)
    check_training(config, model, data.train)
    assert same(plain, fit(config, (data, model))[1])


# --- transforms

FIELDS = {
    "mask_itemseq": ("Mask_item_id_list", {"mask_ratio": 0.3}),
    "inverse_itemseq": ("Inverse_item_id_list", {}),
    "crop_itemseq": ("Crop_item_id_list", {"eta": 0.6}),
    "reorder_itemseq": ("Reorder_item_id_list", {"beta": 0.6}),
    "user_defined": ("Mine", {}),
}


def shuffled(self, dataset, interaction):
    """A transform of the user's own, random like RecBole's."""
    rows = interaction["item_id_list"].tolist()
    interaction.interaction["Mine"] = torch.tensor([random.sample(row, len(row)) for row in rows])
    return interaction


@pytest.mark.parametrize("name", FIELDS)
def test_all_passes_see_one_transformed_batch(name, settings, zero, monkeypatch):
    monkeypatch.setattr(UserDefinedTransform, "__call__", shuffled)
    field, extra = FIELDS[name]
    seen = []

    def trained(**own):
        config = RAWPConfig(config_dict=settings("GRU4Rec", transform=name, ft_rounds=0, **extra, **own))
        data, model = prepare(config)
        loss_function = model.calculate_loss

        def of_the_transformed(batch):
            seen.append(batch[field].clone())
            items = batch[field] % model.n_items  # the mask's token is one more
            return loss_function(type(batch)({**batch.interaction, "item_id_list": items}))

        model.calculate_loss = of_the_transformed
        return fit(config, (data, model))[1]

    plain = trained(defense="none")
    seen.clear()
    norms = zero()
    assert same(plain, trained(defense="awp", rawp_clean_weight=0.0)) and min(norms) > 0
    del seen[0]  # by which it was seen whether changes of the weights reach the loss
    assert len(seen) == 2 * len(norms) and all(torch.equal(a, b) for a, b in zip(seen[::2], seen[1::2]))


def test_a_transformed_model_is_trained_repaired_and_attacked(settings):
    assert len(run(settings, "GRU4Rec", transform="reorder_itemseq", beta=0.6)["repair"]) == 1


def test_a_transform_that_fails_is_refused_in_one_line(settings):
    for model, wrong in (("NeuMF", "crop_itemseq"), ("GRU4Rec", "user_defined"), ("GRU4Rec", "unknown")):
        with pytest.raises(InputError, match=f"RecBole cannot make its .*{wrong}"):
            run_recbole_rawp(config_dict=settings(model, transform=wrong, eta=0.6))
