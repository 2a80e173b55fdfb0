"""A trainer whose methods are decorated is hardened, or refused aloud; it is never plain in silence."""

from __future__ import annotations

import functools

import pytest
from recbole.trainer.trainer import Trainer

from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.training.registration import register, robustify, unregister
from recbole_rawp.training.trainer import RAWPTrainer
from tests.test_trainer import OwnLoop
from tests.training import same


def wrapping(method):
    """A decorator as it should be."""

    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        return method(*args, **kwargs)

    return wrapper


def nameless(method):
    """One that does not say what it wraps."""
    return lambda *args, **kwargs: method(*args, **kwargs)


def holding(method):
    """One that holds the method in an object."""
    return functools.partialmethod(wrapping(method))


class Timed:
    """One that is an object."""

    def __init__(self, method):
        functools.update_wrapper(self, method)
        self.method = method

    def __call__(self, *args, **kwargs):
        return self.method(*args, **kwargs)

    def __get__(self, owner, kind=None):
        return functools.partial(self, owner)


def replacing(method):
    """One that takes the method's name, and has a loop of its own."""

    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        return OwnLoop._train_epoch(*args, **kwargs)

    return wrapper


def tripled(decorate):
    """Return a trainer whose decorated method calls `super()`, with a loss of its own."""

    class Tripled(Trainer):
        @decorate
        def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
            return super()._train_epoch(train_data, epoch_idx, lambda batch: 3 * self.model.calculate_loss(batch))

    return Tripled


def looping(decorate):
    """Return a trainer whose decorated method is a loop of its own."""
    return type("Looping", (Trainer,), {"_train_epoch": decorate(OwnLoop._train_epoch)})


def trained(settings, cls, defense="awp"):
    """Return the trainer, and the weights that it trained."""
    config = RAWPConfig(config_dict=settings("NeuMF", defense=defense))
    data, model = prepare(config)
    trainer = robustify(cls)(config, model)
    trainer.fit(data.train, data.valid, saved=False)
    return trainer, model.state_dict()


@pytest.mark.parametrize("decorate", [wrapping, nameless, holding, Timed, lambda f: wrapping(nameless(wrapping(f)))])
@pytest.mark.parametrize("make", [tripled, looping])
def test_a_decorated_trainer_is_hardened_as_it_is_without(settings, make, decorate):
    _, expected = trained(settings, make(lambda method: method))
    trainer, weights = trained(settings, make(decorate))
    assert trainer.objective is not None and same(weights, expected)
    assert not same(weights, trained(settings, make(decorate), "none")[1])


def test_a_decorator_with_a_loop_of_its_own_is_not_taken_for_what_it_decorates(settings):
    _, expected = trained(settings, OwnLoop)
    trainer, weights = trained(settings, tripled(replacing))
    assert trainer.objective is not None and same(weights, expected)


def test_a_method_that_nobody_can_look_into_is_hardened(settings):
    class Opaque:
        def __init__(self, method):
            self.method = method

        def __get__(self, owner, kind=None):
            return functools.partial(self.method, owner)

    assert same(trained(settings, looping(Opaque))[1], trained(settings, OwnLoop)[1])
    trainer, weights = trained(settings, tripled(Opaque))
    assert trainer.objective is not None and not same(weights, trained(settings, tripled(Opaque), "none")[1])


def test_an_epoch_that_does_not_reach_us_is_warned_of(settings, caplog):
    class Sometimes(Trainer):
        def _train_epoch(self, train_data, epoch_idx, *args, **kwargs):
            if epoch_idx == 1:
                return OwnLoop._train_epoch(self, train_data, epoch_idx)
            return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)

    caplog.set_level("WARNING")
    trained(settings, Sometimes)
    assert "epoch 1 did not reach the hardened loss; it was plain" in caplog.text
    assert "epoch 0 did not" not in caplog.text


def test_a_trainer_that_is_made_with_keywords_is_hardened_too(settings):
    config = RAWPConfig(config_dict=settings("NeuMF", defense="awp"))
    _, model = prepare(config)
    register()
    try:
        made = Trainer(config=config, model=model)
    finally:
        unregister()
    assert isinstance(made, RAWPTrainer) and made.hardens
