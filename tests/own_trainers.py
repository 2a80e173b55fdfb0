"""Trainers as users write them: with loops and `fit`s of their own, which take less than RecBole's, or otherwise."""

from __future__ import annotations

from recbole.trainer.trainer import Trainer


def steps(trainer, data, loss_func):
    """Run an epoch by that loss."""
    trainer.model.train()
    summed = 0.0
    for batch in data:
        trainer.optimizer.zero_grad()
        loss = loss_func(batch.to(trainer.device))
        loss.backward()
        trainer.optimizer.step()
        summed += loss.item()
    return summed


class ShortLoop(Trainer):
    """Its loop knows no `loss_func`."""

    def _train_epoch(self, data, epoch, show_progress=False):
        return steps(self, data, self.model.calculate_loss)


class OtherOrder(Trainer):
    """Its loop has the arguments in another order, and one more."""

    def _train_epoch(self, data, epoch, show_progress=False, log=None, loss_func=None):
        assert show_progress is False and log is None
        return steps(self, data, loss_func or self.model.calculate_loss)


class ShortFit(Trainer):
    """Its `fit` takes the data alone, tells nobody of scores and saves nothing."""

    def fit(self, train_data, valid_data=None):
        self.eval_collector.data_collect(train_data)
        for epoch in range(self.epochs):
            self._train_epoch(train_data, epoch)
        self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data)
        return self.best_valid_score, self.best_valid_result


class ShortBoth(ShortFit):
    """Its loop knows no more than the data."""

    def _train_epoch(self, data, epoch):
        return steps(self, data, self.model.calculate_loss)

    def _valid_epoch(self, valid_data):
        result = self.evaluate(valid_data, load_best_model=False)
        return result[self.valid_metric], result


class OwnLoss(ShortFit):
    """Its loop has a loss of its own, which nobody can put another in the place of."""

    def _train_epoch(self, data, epoch, show_progress=False):
        return steps(self, data, lambda batch: self.model.forward(batch["user_id"], batch["item_id"]).square().mean())


class Inline(Trainer):
    """Its `fit` trains by itself."""

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        self.eval_collector.data_collect(train_data)
        for _ in range(self.epochs):
            steps(self, train_data, self.model.calculate_loss)
        if saved:
            self._save_checkpoint(self.epochs - 1)
        return self._valid_epoch(valid_data)


class Passing(Trainer):
    """It passes a loss of the model's to RecBole's loop."""

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        return super()._train_epoch(train_data, epoch_idx, self.model.other_loss, show_progress)
