"""The trainer is no global: what may write its attributes, and in what order callbacks are called."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import recbole_rawp
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.training.callbacks import Callback
from tests.training import made

ROOT = Path(recbole_rawp.__file__).parent
# What measuring changes for a moment of RecBole's own, and puts back at once.
PUT_BACK = {
    "host/ranking/measurement.py": {"evaluator", "log_wandb", "eval_batch_collect"},
    "host/ranking/item_chunks.py": {"setattr", "vars"},
    "training/seams/validations.py": {"setattr", "vars", "trained_before"},
    "evaluation/each_user.py": {"tot_item_num"},
}


def owner(node: ast.expr) -> str:
    """Return the last name of what an attribute belongs to: `trainer` of `self.trainer.x`, unless it is a package."""
    if ast.unparse(node) == "recbole.trainer":
        return ""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def written(tree: ast.AST) -> set[str]:
    """Return the attributes of a trainer that code assigns or deletes; `vars` for those it writes in that way."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and owner(node.value) == "trainer":
            found.add(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            found |= {"setattr"} if owner(node.args[0]) == "trainer" else set()
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and owner(node.args[0]) == "trainer":
            found.add("vars")
    return found


def test_the_check_sees_every_way_of_writing():
    ways = ["trainer.a = 1", "self.trainer.a, b = 1, 2", "trainer.a += 1", "del trainer.a", "with x as trainer.a: 0"]
    assert all(written(ast.parse(way)) == {"a"} for way in ways)
    assert written(ast.parse("vars(trainer).update(a=1)")) == {"vars"}
    assert written(ast.parse("setattr(trainer, 'a', 1)")) == {"setattr"}
    assert not written(ast.parse("trainer.state.a = trainer.b; trainer.set_a(1); trainer = 1"))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nobody_but_a_trainer_writes_its_attributes(path):
    allowed = PUT_BACK.get(path.relative_to(ROOT).as_posix(), set())
    assert written(ast.parse(path.read_text(encoding="utf-8"))) <= allowed


class Noting(Callback):
    """Notes which hooks were called, with the epoch."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def on_train_begin(self, trainer):
        self.calls.append((self.name, "begin"))

    def on_epoch_begin(self, trainer, train_data, epoch):
        self.calls.append((self.name, "epoch", epoch))

    def on_loss(self, trainer, loss, epoch):
        self.calls.append((self.name, "loss", epoch))
        return loss

    def on_pass_end(self, trainer, epoch):
        self.calls.append((self.name, "pass", epoch))

    def on_validation(self, trainer, epoch, score):
        assert score == trainer.state.valid_result[trainer.valid_metric]
        self.calls.append((self.name, "valid", epoch))

    def on_train_end(self, trainer):
        self.calls.append((self.name, "end"))


@pytest.mark.parametrize(("model", "passes"), [("NeuMF", 1), ("MKR", 2)])
def test_callbacks_are_called_in_order_and_end_in_reverse_before_the_users_own(settings, model, passes):
    trainer, data = made(RAWPConfig(config_dict=settings(model, defense="none", epochs=2, kge_interval=1)))
    calls = []
    trainer.callbacks += [Noting("a", calls), Noting("b", calls)]
    trainer.fit(data.train, data.valid, saved=False, callback_fn=lambda epoch, _: calls.append(("user", epoch)))

    def both(*what):
        return [("a", *what), ("b", *what)]

    expected = both("begin")
    for epoch in range(2):
        expected += both("epoch", epoch) + passes * (both("loss", epoch) + both("pass", epoch))
        expected += [*both("valid", epoch), ("user", epoch)]
    assert calls == [*expected, ("b", "end"), ("a", "end")]


def test_a_callback_may_wrap_the_loss(settings):
    class Doubled(Callback):
        def on_loss(self, trainer, loss, epoch):
            return lambda batch: 2 * loss(batch)

    losses = []
    for callbacks in ([], [Doubled()]):
        one = settings("NeuMF", defense="none", epochs=1, train_batch_size=10**6)
        trainer, data = made(RAWPConfig(config_dict=one))
        trainer.callbacks += callbacks
        trainer.fit(data.train, data.valid, saved=False)
        losses.append(trainer.train_loss_dict[0])
    assert losses[1] == pytest.approx(2 * losses[0])


def test_a_second_fit_begins_each_of_its_epochs(settings):
    """With one epoch, its number is that of the last one that began."""
    trainer, data = made(RAWPConfig(config_dict=settings("NeuMF", defense="rawp_reference", epochs=1)))
    calls = []
    trainer.callbacks.append(Noting("a", calls))
    for _ in range(2):
        trainer.fit(data.train, data.valid, saved=False)
    assert calls.count(("a", "epoch", 0)) == 2
