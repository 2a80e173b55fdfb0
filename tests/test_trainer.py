"""Hardening enters RecBole's epoch, and only where it should."""

from __future__ import annotations

from pathlib import Path

import pytest
import recbole.trainer
import torch
from recbole.config import Config
from recbole.trainer.trainer import DecisionTreeTrainer, NCLTrainer, RecVAETrainer, TraditionalTrainer, Trainer
from recbole.utils import get_trainer

import recbole_rawp
from recbole_rawp.core import objective
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.training.registration import robustify
from recbole_rawp.training.trainer import RAWPFTTrainer, RAWPTrainer
from tests.training import fit, same

MODELS = ["NeuMF", "SASRec", "DeepFM", "SGL", "BERT4Rec", "DCN", "GRU4Rec", "RecVAE", "MultiVAE", "DiffRec"]


@pytest.mark.parametrize("name", MODELS)
def test_delta_times_zero_equals_plain_with_the_full_ascent_executed(name, settings, monkeypatch):
    target = {"rawp_target": "all"} if name == "SGL" else {}
    _, plain = fit(RAWPConfig(config_dict=settings(name, defense="none", **target)))
    ascend, calls, batches = objective.ascend, [], []

    def zero(*args, **kwargs):
        delta = ascend(*args, **kwargs)
        assert any(d.any() for d in delta.values())
        batches.append(1)
        return {key: d * 0 for key, d in delta.items()}

    monkeypatch.setattr(objective, "ascend", zero)
    config = RAWPConfig(config_dict=settings(name, defense="awp", rawp_clean_weight=0.0, **target))
    data, model = prepare(config)
    loss_function = model.calculate_loss
    model.calculate_loss = lambda batch, **flags: calls.append(1) or loss_function(batch, **flags)
    _, hardened = fit(config, (data, model))
    passes = 4 if name == "RecVAE" else 1  # three over its encoder, one over its decoder
    assert len(batches) == 2 * passes * len(data.train)
    assert len(calls) == 2 * len(batches) + 1  # once to see whether changes of the weights reach the loss
    assert same(plain, hardened)


def test_hardening_changes_the_weights_and_repeats_itself(settings):
    _, plain = fit(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    _, hardened = fit(RAWPConfig(config_dict=settings("NeuMF", defense="rawp_reference")))
    assert not same(plain, hardened)
    _, repeated = fit(RAWPConfig(config_dict=settings("NeuMF", defense="rawp_reference")))
    assert same(hardened, repeated)


def test_warm_up_epochs_are_plain(settings):
    losses = {}
    for defense, warm_up in (("none", 0), ("awp", 2), ("awp", 1)):
        given = {"defense": defense, "rawp_warmup_epochs": warm_up, "epochs": 3}
        trainer, _ = fit(RAWPConfig(config_dict=settings("NeuMF", **given)))
        losses[warm_up] = list(trainer.train_loss_dict.values())
    plain, warm, hardened = losses[0], losses[2], losses[1]
    assert plain[:2] == warm[:2] and plain[2] != warm[2]
    assert plain[0] == hardened[0] and plain[1] != hardened[1]


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("bigger", [True, False])
def test_a_plain_epoch_is_never_the_best_of_a_hardened_training_and_uses_up_no_patience(
    settings, monkeypatch, bigger, saved
):
    scores = [9.0, 8.0, 7.0, 6.0, 3.0, 4.0, 2.0, 1.0, 0.5] if bigger else [1.0, 2.0, 3.0, 4.0, 8.0, 7.0, 9.0, 9.5, 9.9]
    given = {"defense": "awp", "rawp_warmup_epochs": 4, "epochs": 9, "stopping_step": 1, "checkpoint_dir": "saved"}
    config = RAWPConfig(config_dict=settings("NeuMF", **given))
    data, model = prepare(config)
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.valid_metric_bigger, seen = bigger, []
    monkeypatch.setattr(trainer, "_valid_epoch", lambda *_, **__: (scores[len(seen)], {"epoch": len(seen)}))
    best, result = trainer.fit(
        data.train, data.valid, saved=saved, verbose=False, callback_fn=lambda *row: seen.append(row)
    )
    assert [epoch for epoch, _ in seen] == list(range(8))  # stopped by its patience, counted from the fifth epoch on
    assert best == scores[5] and result == {"epoch": 5}
    if saved:
        assert torch.load(trainer.saved_model_file, weights_only=False)["epoch"] == 5


def empty_at_first(monkeypatch, epochs):
    """Leave the masks of the first epochs empty, and perturb everything afterwards."""
    drawn = []

    def draw_mask(names, *_):
        drawn.append(1)  # the first draw is the constructor's
        return dict.fromkeys(names, len(drawn) > 1 + epochs)

    monkeypatch.setattr(objective, "draw_mask", draw_mask)


@pytest.mark.parametrize("name", ["NeuMF", "MKR"])
def test_an_epoch_before_which_no_weight_was_drawn_is_as_plain_as_a_warm_up(settings, monkeypatch, name):
    _, plain = fit(RAWPConfig(config_dict=settings(name, defense="none", epochs=2)))
    config = RAWPConfig(
        config_dict=settings(name, defense="rawp_reference", epochs=5, stopping_step=0, rawp_mask_every="epoch")
    )
    data, model = prepare(config)
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    scores, seen = [9.0, 8.0, 5.0, 6.0, 4.0], []

    def scored(*_, **__):
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
        return scores[len(seen) - 1], {}

    monkeypatch.setattr(trainer, "_valid_epoch", scored)
    empty_at_first(monkeypatch, 2)
    best, _ = trainer.fit(data.train, data.valid, saved=False, verbose=False)
    assert same(seen[1], plain) and best == 6.0 and trainer.state.plain_until == 2


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_model_of_empty_masks_alone_is_called_plain(settings, monkeypatch, caplog, epochs):
    caplog.set_level("WARNING")
    empty_at_first(monkeypatch, 1)
    fit(RAWPConfig(config_dict=settings("NeuMF", defense="rawp_reference", epochs=epochs, rawp_mask_every="epoch")))
    assert ("The model is plain: nothing was perturbed" in caplog.text) == (epochs == 1)


@pytest.mark.parametrize("defense", ["none", "awp"])
def test_a_plain_checkpoint_that_is_resumed_is_not_the_best_of_the_hardened_training(settings, monkeypatch, defense):
    """One of a hardened training is, as RecBole resumes it."""
    scores, file = iter([0.9, 0.3, 0.2]), ""
    monkeypatch.setattr(Trainer, "_valid_epoch", lambda *_, **__: (next(scores), {}))
    for kind, epochs in ((defense, 1), ("awp", 3)):
        config = RAWPConfig(config_dict=settings("NeuMF", defense=kind, epochs=epochs, checkpoint_dir="saved"))
        data, model = prepare(config)
        trainer = RAWPFTTrainer(config, model)
        if file:
            trainer.resume_checkpoint(file)
        best, _ = trainer.fit(data.train, data.valid)
        file = trainer.saved_model_file
    kept = torch.load(file, weights_only=False)
    assert (best, kept["epoch"]) == ((0.3, 1) if defense == "none" else (0.9, 0))
    assert kept["best_valid_score"] == best and kept["config"]["defense"] == "awp"


def test_a_plain_checkpoint_without_an_epoch_after_it_is_called_plain(settings, plain, caplog):
    caplog.set_level("WARNING")
    config = RAWPConfig(config_dict=settings("NeuMF", defense="awp"))
    data, model = prepare(config)
    trainer = RAWPFTTrainer(config, model)
    trainer.resume_checkpoint(plain)  # both of its two epochs
    trainer.fit(data.train, data.valid, saved=False)
    assert "The model is plain: nothing was perturbed" in caplog.text


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"epochs": 2}, True),
        ({"epochs": 3}, False),
        ({"epochs": 5, "eval_step": 2}, False),
        ({"epochs": 5, "eval_step": 9}, False),
        ({"epochs": 3, "eval_step": 2}, True),
        ({"epochs": 3, "eval_step": 0}, False),
        ({"epochs": 2, "eval_step": 0}, True),
    ],
)
def test_a_warm_up_after_which_no_model_is_kept_is_refused(settings, given, refused):
    config = RAWPConfig(config_dict=settings("NeuMF", defense="awp", rawp_warmup_epochs=2, **given))
    if refused:
        with pytest.raises(InputError, match=f"^rawp_warmup_epochs: 2 of {given['epochs']} epochs, "):
            fit(config)
    else:
        trainer, _ = fit(config)
        assert trainer.objective is not None


@pytest.mark.parametrize("saved", [True, False])
def test_where_no_hardened_score_is_a_number_the_plain_model_is_not_kept_in_silence(settings, monkeypatch, saved):
    scores = iter([0.9, float("nan"), float("nan")])
    monkeypatch.setattr(Trainer, "_valid_epoch", lambda *_, **__: (next(scores), {}))
    config = RAWPConfig(config_dict=settings("NeuMF", defense="rawp_ft_reference", rawp_warmup_epochs=1, epochs=3))
    data, model = prepare(config)
    with pytest.raises(InputError, match="^valid_metric: mrr@10 of no hardened model was a number"):
        RAWPFTTrainer(config, model).fit(data.train, data.valid, saved=saved)


def test_a_target_that_the_loss_does_not_use_is_told(settings, caplog):
    caplog.set_level("WARNING")
    unused = "first_order_linear.token_embedding_table.embedding.weight"
    fit(RAWPConfig(config_dict=settings("DCN", defense="awp", rawp_target=[unused, "predict_layer.weight"])))
    assert "nothing moved" not in caplog.text
    fit(RAWPConfig(config_dict=settings("DCN", defense="awp", rawp_target=unused)))
    assert caplog.text.count("rawp_target: nothing moved in epoch") == 2


def test_tensorboard_gets_loss_mask_and_norms_for_each_epoch(settings):
    config = RAWPConfig(config_dict=settings("NeuMF", defense="rawp_reference", epochs=4, rawp_mask_every="epoch"))
    data, model = prepare(config)
    trainer = RAWPFTTrainer(config, model)
    seen = {}
    trainer.tensorboard.add_scalar = lambda tag, value, step: seen.setdefault(tag, []).append((step, value))
    trainer.fit(data.train, data.valid, saved=False)
    assert [step for step, _ in seen["Loss/Train"]] == [0, 1, 2, 3]
    used = {step for tag in seen if tag.startswith("RAWP/mask/") for step, value in seen[tag] if value}
    assert {step for step, _ in seen["RAWP/adversarial_loss"]} == used  # an epoch without a mask has no such loss
    assert min(loss for _, loss in seen["RAWP/adversarial_loss"]) > 0.3  # about log 2, not diluted
    masks = [value for tag in seen if tag.startswith("RAWP/mask/") for _, value in seen[tag]]
    assert len(masks) == 12 and set(masks) == {0, 1}
    norms = [value for tag in seen if tag.startswith("RAWP/delta_norm/") for _, value in seen[tag]]
    assert len(norms) == sum(masks) and min(norms) > 0


def test_the_table_of_weights_is_logged_once(settings, caplog):
    caplog.set_level("INFO")
    fit(RAWPConfig(config_dict=settings("NeuMF", defense="rawp_reference", state="info")))
    tables = [r.message for r in caplog.records if "Defense rawp_reference perturbs 3 weights of NeuMF" in r.message]
    assert len(tables) == 1 and "predict_layer.weight" in tables[0] and "1 x 128" in tables[0]


def test_robustify_is_cached_and_idempotent():
    assert robustify(Trainer) is RAWPFTTrainer and robustify(RAWPTrainer) is RAWPTrainer
    hardened = robustify(RecVAETrainer)
    assert robustify(RecVAETrainer) is hardened and robustify(hardened) is hardened
    assert issubclass(hardened, RecVAETrainer) and issubclass(hardened, RAWPFTTrainer)


def test_a_base_that_calls_super_comes_first_and_one_with_its_own_loop_last():
    def order(cls):
        return [c.__name__ for c in robustify(cls).__mro__]

    assert order(RecVAETrainer).index("RecVAETrainer") < order(RecVAETrainer).index("RAWPTrainer")
    assert order(NCLTrainer).index("NCLTrainer") > order(NCLTrainer).index("RAWPTrainer")

    class Grandchild(NCLTrainer):
        def _train_epoch(self, *args, **kwargs):
            return super()._train_epoch(*args, **kwargs)

    class CallsAnother(Trainer):
        def _train_epoch(self, *args, **kwargs):
            return super()._valid_epoch(*args, **kwargs)

    assert order(Grandchild).index("Grandchild") > order(Grandchild).index("RAWPTrainer")
    assert order(CallsAnother).index("CallsAnother") > order(CallsAnother).index("RAWPTrainer")


@pytest.mark.parametrize("cls", [TraditionalTrainer, DecisionTreeTrainer, dict])
def test_a_trainer_without_gradient_is_refused(cls):
    with pytest.raises(InputError, match="does not train by gradient descent"):
        robustify(cls)


def test_a_users_own_trainer_is_hardened(settings):
    class Mine(Trainer):
        epochs_seen = 0

        def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
            self.epochs_seen += 1
            return super()._train_epoch(
                train_data, epoch_idx, lambda b: 2 * self.model.calculate_loss(b), show_progress
            )

    config = RAWPConfig(config_dict=settings("NeuMF", defense="awp"))
    data, model = prepare(config)
    trainer = robustify(Mine)(config, model)
    losses = []
    trainer.tensorboard.add_scalar = lambda tag, value, step: losses.append(value) if "adversarial" in tag else None
    trainer.fit(data.train, data.valid, saved=False)
    assert trainer.epochs_seen == 2 and len(losses) == 2


def test_a_users_own_loss_is_the_one_that_is_hardened(settings):
    class OtherLoss(Trainer):
        def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
            return super()._train_epoch(train_data, epoch_idx, loss_func=self.model.other_loss)

    def trained(cls, name):
        config = RAWPConfig(config_dict=settings("NeuMF", defense="awp"))
        data, model = prepare(config)
        usual_loss = model.calculate_loss
        setattr(model, name, lambda batch: 3 * usual_loss(batch).square())
        robustify(cls)(config, model).fit(data.train, data.valid, saved=False)
        return model.state_dict()

    other = trained(OtherLoss, "other_loss")
    assert same(other, trained(Trainer, "calculate_loss"))
    assert not same(other, trained(Trainer, "nobody_uses_it"))


class OwnLoop(Trainer):
    """A loop of the user's own that takes its loss from `loss_func`."""

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        self.model.train()
        loss_func = loss_func or self.model.calculate_loss
        summed = 0.0
        for batch in train_data:
            self.optimizer.zero_grad()
            loss = loss_func(batch.to(self.device))
            loss.backward()
            self.optimizer.step()
            summed += loss.item()
        return summed


class OwnFit(Trainer):
    """A `fit` of the user's own, without early stopping."""

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        self.eval_collector.data_collect(train_data)
        for epoch in range(self.epochs):
            self.train_loss_dict[epoch] = self._train_epoch(train_data, epoch)
        self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data)
        return self.best_valid_score, self.best_valid_result


class OwnFitOverOurs(Trainer):
    """A `fit` that does something and leaves the rest to RecBole's."""

    def fit(self, *args, **kwargs):
        self.began = True
        return super().fit(*args, **kwargs)


class Both(OwnLoop, OwnFit):
    """A loop and a `fit` of the user's own."""


@pytest.mark.parametrize("cls", [OwnLoop, OwnFit, OwnFitOverOurs, Both])
def test_a_trainer_with_a_loop_or_a_fit_of_its_own_passes_through_both_stages(cls, settings):
    def run(cls):
        config = RAWPConfig(config_dict=settings("NeuMF", eval_step=2, ft_learning_rate=0.1, attack_batches=2))
        data, model = prepare(config)
        trainer = robustify(cls)(config, model)
        trainer.fit(data.train, data.valid, saved=False)
        return trainer, {name: value.clone() for name, value in model.state_dict().items()}

    (trainer, weights), (usual, expected) = run(cls), run(Trainer)
    assert len(trainer.state.progress.epochs) == 2 and trainer.state.progress.epochs == usual.state.progress.epochs
    assert same(weights, expected)


def test_a_loop_that_ignores_loss_func_is_hardened_by_the_models_own_loss(settings):
    class Deaf(Trainer):
        def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
            return OwnLoop._train_epoch(self, train_data, epoch_idx)

    def weights(cls):
        config = RAWPConfig(config_dict=settings("NeuMF", defense="awp"))
        data, model = prepare(config)
        robustify(cls)(config, model).fit(data.train, data.valid, saved=False)
        assert "calculate_loss" not in vars(model)
        return model.state_dict()

    assert same(weights(Deaf), weights(OwnLoop))


def test_a_fit_that_never_trains_an_epoch_through_us_is_an_error_too(settings, monkeypatch):
    def elsewhere(self, *_args, **_kwargs):
        self.train_loss_dict[0] = 1.0

    config = RAWPConfig(config_dict=settings("NeuMF", defense="awp"))
    data, model = prepare(config)
    monkeypatch.setattr(Trainer, "fit", elsewhere)
    with pytest.raises(InputError, match="its fit never reached the hardened loss"):
        RAWPFTTrainer(config, model).fit(data.train, data.valid, saved=False)


@pytest.fixture
def registered():
    before = dict(vars(recbole.trainer))
    recbole_rawp.register()
    recbole_rawp.register()
    yield
    recbole_rawp.unregister()
    assert dict(vars(recbole.trainer)) == before


def test_register_hardens_recboles_own_run_with_its_plain_config(settings, registered):
    from recbole.quick_start import run_recbole

    class Spy(objective.Objective):
        calls = 0

        def __call__(self, *args):
            Spy.calls += 1
            return super().__call__(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recbole_rawp.training.hardening.Objective", Spy)
        result = run_recbole(config_dict=settings("NeuMF", defense="awp", checkpoint_dir="saved"))
    assert Spy.calls > 0 and result["test_result"]


def test_under_register_a_model_without_hidden_weights_trains_plainly_with_one_warning(settings, registered, caplog):
    config = Config(config_dict=settings("BPR"))
    data, model = prepare(RAWPConfig(config_dict=settings("BPR", defense="none", attack_target="embeddings")))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(data.train, data.valid, saved=False)
    warnings = [r.message for r in caplog.records if "BPR has no hidden weight" in r.message]
    assert len(warnings) == 1 and "--rawp_target=embeddings" in warnings[0]
    config["rawp_target"] = "user_embeding*"
    with pytest.raises(InputError, match="rawp_target: pattern 'user_embeding"):
        get_trainer(config["MODEL_TYPE"], config["model"])(config, model)


def test_outside_register_the_same_model_is_refused(settings):
    config = RAWPConfig(config_dict=settings("BPR"))
    _, model = prepare(config)
    with pytest.raises(InputError, match="rawp_target: target 'hidden': BPR has no hidden weight"):
        RAWPFTTrainer(config, model)


def test_embeddings_of_such_a_model_can_be_hardened(settings):
    trainer, _ = fit(RAWPConfig(config_dict=settings("BPR", rawp_target="embeddings", defense="awp")))
    assert trainer.objective is not None


def test_a_kill_while_saving_keeps_the_checkpoint_that_was_there(settings, monkeypatch):
    config = RAWPConfig(config_dict=settings("NeuMF"))
    _, model = prepare(config)
    trainer = RAWPFTTrainer(config, model)
    trainer._save_checkpoint(0)
    before = Path(trainer.saved_model_file).read_bytes()

    def half(state, file, **_):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        trainer._save_checkpoint(1)
    assert Path(trainer.saved_model_file).read_bytes() == before


def test_checkpoints_hold_a_plain_config_that_recbole_reads(settings):
    from recbole.quick_start import load_data_and_model

    config = RAWPConfig(config_dict=settings("NeuMF", epochs=1))
    data, model = prepare(config)
    trainer = RAWPFTTrainer(config, model)
    trainer.fit(data.train, data.valid)
    loaded, twin, *_ = load_data_and_model(trainer.saved_model_file)
    assert type(loaded) is Config and b"recbole_rawp" not in Path(trainer.saved_model_file).read_bytes()
    assert same(twin.state_dict(), torch.load(trainer.saved_model_file, weights_only=False)["state_dict"])
