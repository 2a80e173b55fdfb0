"""Is the logit found, whatever shape predict gives it, and does it keep its gradient?"""

from __future__ import annotations

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import nn
from torch.nn import functional as F

from recbole_rawp.core.overlay import overlay
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.ranking.logits import ends_in_sigmoid, predict_logits, ranked_by_logits
from recbole_rawp.host.weights import perturbed_weights

X = torch.linspace(-2, 2, 12).reshape(6, 2)

ENDINGS = {
    "torch.sigmoid": lambda z: torch.sigmoid(z),
    "by keyword": lambda z: torch.sigmoid(input=z),
    "Tensor.sigmoid": lambda z: z.sigmoid(),
    "functional": lambda z: F.sigmoid(z),
    "expit": lambda z: torch.special.expit(z),
    "module, squeezed": lambda z: nn.Sigmoid()(z).squeeze(-1),
    "viewed": lambda z: torch.sigmoid(z).view(-1),
    "one of many": lambda z: torch.sigmoid(torch.cat([-z, z], dim=1))[torch.arange(len(z)), 1],
}
RAW = {
    "no sigmoid": lambda z: z.squeeze(-1),
    "a gate": lambda z: (z * torch.sigmoid(z)).view(-1),
    "one that is not returned": lambda z: [z.view(-1), torch.sigmoid(z)][0],
    "softmax": lambda z: z.softmax(dim=0).view(-1),
    "two classes, by softmax": lambda z: torch.cat([-z, z], dim=1).softmax(dim=1)[:, 1],
}


class Tiny(nn.Module):
    """A linear layer, a gate, and an ending."""

    def __init__(self, ending, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.ending, self.scale = nn.Linear(2, 1), ending, scale

    def logit(self, x):
        return self.scale * torch.sigmoid(self.layer(x)) * self.layer(x)

    def predict(self, x):
        return self.ending(self.logit(x))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_sigmoid_at_the_end_is_seen_and_left_out(ending):
    model = Tiny(ENDINGS[ending])
    assert ends_in_sigmoid(model, X)
    logits = predict_logits(model, X, True)
    assert torch.equal(logits, model.logit(X).view(-1))
    assert torch.equal(torch.sigmoid(logits), model.predict(X).view(-1))
    assert torch.autograd.grad(logits.sum(), model.layer.weight)[0].norm() > 0


@pytest.mark.parametrize("ending", RAW)
def test_any_other_ending_is_a_raw_score(ending):
    model = Tiny(RAW[ending])
    assert not ends_in_sigmoid(model, X)
    assert torch.equal(predict_logits(model, X, False), model.predict(X))


def test_a_sigmoid_that_was_promised_and_is_missing_is_an_error():
    class Plain(Tiny):
        def logit(self, x):
            return self.layer(x)

    with pytest.raises(RuntimeError, match="Plain.predict was said to end in a sigmoid"):
        predict_logits(Plain(RAW["no sigmoid"]), X, True)


def test_a_saturated_probability_keeps_its_logit_and_its_gradient():
    model = Tiny(ENDINGS["viewed"], scale=1e3)
    probabilities, logits = model.predict(X), predict_logits(model, X, ends_in_sigmoid(model, X))
    saturated = logits.abs() > 60
    assert saturated.any() and set(probabilities[saturated].tolist()) <= {0.0, 1.0}
    flipped = (logits < 0).float()  # labels that the model contradicts
    loss = F.binary_cross_entropy_with_logits(logits[saturated], flipped[saturated])
    assert loss > 60
    assert torch.autograd.grad(loss, model.layer.weight)[0].norm() > 1


@pytest.mark.parametrize("ending", [*ENDINGS, *RAW])
def test_within_the_context_predict_and_full_sort_predict_leave_out_the_sigmoid_that_they_end_in(ending):
    model = Tiny({**ENDINGS, **RAW}[ending])
    model.full_sort_predict = lambda x: model.ending(model.logit(x)).reshape(-1)
    kept, scores = model.full_sort_predict, model.predict(X)
    with ranked_by_logits(model):
        for found in (model.predict(X), model.full_sort_predict(X)):
            expected = model.logit(X) if ending in ENDINGS else scores
            assert torch.equal(found.view(-1), expected.view(-1))
        assert model.predict(X).shape == scores.shape
    assert model.full_sort_predict is kept and "predict" not in vars(model) and torch.equal(model.predict(X), scores)


@pytest.mark.parametrize("ending", ["viewed", "one of many"])
def test_vmap_sees_the_sigmoid_too(ending):
    model = Tiny(ENDINGS[ending])

    def loss(weight, x):
        with overlay(model, {"layer.weight": weight}):
            return predict_logits(model, x, True).square().sum()

    weight, users = model.layer.weight.detach(), torch.stack([X, X.flip(0), 2 * X])
    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, users)
    for user, x in enumerate(users):
        alone = torch.autograd.grad(model.logit(x).square().sum(), model.layer.weight)[0]
        torch.testing.assert_close(together[user], alone)


def built(settings, name):
    config = RAWPConfig(config_dict=settings(name, defense="none"))
    data, model = prepare(config)
    return data, model.eval(), batch_of(data)


def batch_of(data):
    """Rows as a sampled evaluation would give them: the same users beside other items."""
    rows = data.test._dataset[:12]
    rows.update(data.test._dataset.join(Interaction({data.test.iid_field: torch.arange(1, 13)})))
    return rows


@pytest.mark.parametrize("name", ["NeuMF", "DeepFM", "DMF", "NNCF", "CDAE", "NFM"])
def test_these_models_of_recbole_end_in_a_sigmoid(name, settings):
    _, model, batch = built(settings, name)
    assert ends_in_sigmoid(model, batch)
    logits = predict_logits(model, batch, True)
    scores = model.predict(batch)
    assert torch.equal(torch.sigmoid(logits), scores.view(-1)) and not torch.equal(logits, scores.view(-1))
    assert logits.shape == (12,) and logits.requires_grad


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "SASRec", "GRU4Rec", "ConvNCF", "MKR", "MultiVAE"])
def test_these_models_of_recbole_return_raw_scores(name, settings):
    _, model, batch = built(settings, name)
    assert not ends_in_sigmoid(model, batch)
    assert torch.equal(predict_logits(model, batch, False), model.predict(batch).view(-1))


def test_neumf_with_logits_of_60_still_has_a_gradient(settings):
    _, model, batch = built(settings, "NeuMF")
    with torch.no_grad():
        model.predict_layer.bias.fill_(60.0)
    assert set(model.predict(batch).tolist()) == {1.0}
    logits = predict_logits(model, batch, ends_in_sigmoid(model, batch))
    loss = F.binary_cross_entropy_with_logits(logits, torch.zeros(12))
    assert logits.min() > 55 and torch.autograd.grad(loss, model.predict_layer.weight)[0].norm() > 1e-4


@pytest.mark.parametrize("name", ["NeuMF", "DeepFM", "SASRec"])
def test_vmap_of_grad_over_users_equals_a_loop(name, settings):
    data, model, _ = built(settings, name)
    rows = data.test._dataset[:12]
    sigmoid = ends_in_sigmoid(model, batch_of(data))
    fields = {field: values.reshape(3, 4, *values.shape[1:]) for field, values in rows.interaction.items()}
    weights = {key: weight.detach().clone() for key, weight in perturbed_weights(model, "hidden").items()}

    def loss(shifted, user):
        with overlay(model, shifted):
            logits = predict_logits(model, Interaction(user), sigmoid)
        return F.binary_cross_entropy_with_logits(logits, (logits > 0).float())

    gradient = torch.func.grad(loss)
    together = torch.func.vmap(gradient, in_dims=(None, 0))(weights, fields)
    for user in range(3):
        alone = gradient(weights, {field: values[user] for field, values in fields.items()})
        for key in weights:
            assert alone[key].norm() > 0
            torch.testing.assert_close(together[key][user], alone[key], rtol=1e-4, atol=1e-7)
