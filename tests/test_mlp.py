"""Is the network over interaction rows a RecBole model, and the dense one in disguise?"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_trainer
from torch import nn

from recbole_rawp import run_recbole_rawp
from recbole_rawp.config.settings import read
from recbole_rawp.config.shipped import properties
from recbole_rawp.core.hooks import watched
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import chosen_weights, hidden_layers, perturbed_weights
from recbole_rawp.model.mlp import MLP
from recbole_rawp.model.sparse_linear import SparseLinear

SIZES = [16, 8, 4]


@pytest.fixture
def built(settings):
    """Return config, data, and an MLP on the training data."""
    options = {"epochs": 4, "learning_rate": 0.01, "defense": "none", "mlp_hidden_size": SIZES}
    config = RAWPConfig(config_dict=settings("MLP", **options))
    return config, *prepare(config)


def dense(model, dataset):
    """Return the function of the model, written with dense rows: users, items -> logits."""
    rows = torch.tensor(dataset.inter_matrix(form="coo").toarray(), dtype=torch.float64).ne(0).double()

    def score(users, items):
        pair = model.pair
        x = [
            nn.functional.linear(r, layer.weight, layer.bias)
            for r, layer in ((rows[users], pair.user), (rows.T[items], pair.item))
        ]
        x = torch.cat(x, 1)
        for layer in [pair.merge, *model.hidden]:
            x = torch.relu(layer(x))
        return model.predict_layer(x).squeeze(1)

    return score


def everything(model, users):
    """Return the batch of all pairs of these users with all items."""
    pairs = torch.cartesian_prod(users, torch.arange(model.n_items))
    return Interaction({model.USER_ID: pairs[:, 0], model.ITEM_ID: pairs[:, 1]})


def test_it_equals_the_dense_network_and_its_gradients_too(built):
    _, data, model = built
    model = model.double().eval()
    batch = everything(model, torch.tensor([0, 1, 7]))
    users, items = batch[model.USER_ID], batch[model.ITEM_ID]
    want, got = dense(model, data.train._dataset)(users, items), model(users, items)
    assert torch.allclose(got, want, rtol=1e-12, atol=1e-12) and want.std() > 1e-3
    weights = list(model.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(got.sin().sum(), weights), torch.autograd.grad(want.sin().sum(), weights)
    ):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_rows_layers_lie_column_by_column_with_the_numbers_that_a_seed_always_gave(built, monkeypatch):
    config, data, _ = built
    torch.manual_seed(5)
    turned = MLP(config, data.train._dataset)
    monkeypatch.setattr(SparseLinear, "turn", lambda layer: None)
    torch.manual_seed(5)
    plain = MLP(config, data.train._dataset)
    for name, weight in plain.state_dict().items():
        assert torch.equal(turned.state_dict()[name], weight)
        assert weight.is_contiguous()
    assert turned.pair.user.weight.t().is_contiguous() and turned.pair.item.weight.t().is_contiguous()


def test_the_rows_are_those_of_the_training_data_alone(built):
    _, data, model = built
    seen = {(int(u), int(i)) for u, i in zip(*(data.train._dataset.inter_feat[f] for f in ("user_id", "item_id")))}
    rows = model.pair.user.rows
    assert set(zip(rows.numbers().tolist(), rows.indices.tolist())) == seen
    rows = model.pair.item.rows
    assert set(zip(rows.indices.tolist(), rows.numbers().tolist())) == seen


@pytest.mark.parametrize("chunk", [7, 200, 2**13])
def test_the_full_ranking_equals_predict_pair_by_pair(built, monkeypatch, chunk):
    _, _, model = built
    monkeypatch.setattr("recbole_rawp.model.mlp.CHUNK", chunk)
    users, model = torch.tensor([5, 1, 1, 40]), model.double().eval()
    got = model.full_sort_predict(Interaction({model.USER_ID: users}))
    want = torch.cat([model.predict(everything(model, user.view(1))) for user in users])
    assert torch.allclose(got, want, rtol=1e-12) and want.min() > 0 and want.max() < 1


def test_recboles_trainer_trains_and_ranks_it(built):
    config, data, model = built
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(data.train, data.valid, saved=False, show_progress=False)
    losses = [trainer.train_loss_dict[epoch] for epoch in sorted(trainer.train_loss_dict)]
    assert losses[-1] < losses[0]
    assert trainer.evaluate(data.test, load_best_model=False, show_progress=False)["ndcg@10"] > 0


def test_the_published_sizes_are_the_default_nine_layers(built):
    config, data, _ = built
    config["mlp_hidden_size"] = None
    model = MLP(config, data.train._dataset)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [512, 512, 512, 256, 128, 64, 32, 16, 1]
    assert sum(isinstance(m, SparseLinear) for m in linear) == 2


def test_the_rows_layers_are_embeddings_and_the_others_hidden(built):
    _, _, model = built
    assert list(perturbed_weights(model, "embeddings")) == ["pair.user.weight", "pair.item.weight"]
    assert list(hidden_layers(model)) == ["pair.merge", "hidden.0", "hidden.1", "predict_layer"]


def test_who_watches_hidden_layers_sees_each_layers_output_for_every_pair(built):
    _, _, model = built
    seen, batch = {}, everything(model, torch.tensor([1, 7]))
    with watched(hidden_layers(model), lambda name, output: seen.setdefault(name, []).append(output)):
        got = model.predict(batch)
    assert list(seen) == list(hidden_layers(model))
    assert all([len(output) for output in outputs] == [2 * model.n_items] for outputs in seen.values())
    assert torch.allclose(model.predict(batch), got, rtol=1e-4)


def test_recbole_finds_it_by_its_name_and_in_a_checkpoint(settings, tmp_path):
    options = settings("MLP", mlp_hidden_size=SIZES, epochs=1, ft_epochs=1, attack="published", attack_radii=[0.05])
    more = {"attack_negatives": 10, "rawp_warmup_epochs": 0, "rawp_output_dir": "run"}
    result = run_recbole_rawp(config_dict=options | more)
    assert {record.scope for record in result["records"]} == {"per_user"}
    fresh = """
import sys
import recbole_rawp
recbole_rawp.compat.apply()
assert not any(name.startswith("recbole.") for name in sys.modules)
from recbole.quick_start import load_data_and_model, run_recbole
config, model, dataset, train, valid, test = load_data_and_model("run/model.pth")
print(type(model).__module__, len(list(model.parameters())))
"""
    run = subprocess.run([sys.executable, "-c", fresh], capture_output=True, text=True, cwd=tmp_path)
    assert run.stdout.splitlines()[-1] == "recbole_rawp.model.mlp 12", run.stderr[-2000:]


def test_its_settings_move_every_layer(settings):
    file = properties() / "published/mlp.yaml"
    config = RAWPConfig(config_file_list=[str(file)], config_dict=settings("MLP"))
    _, model = prepare(config)
    weights, _ = chosen_weights(model, read(config).training)
    assert len(weights) == 9 and sum(w.dim() >= 2 for w in model.parameters()) == 9


def test_a_wrong_name_close_to_it_is_led_to_it():
    with pytest.raises(InputError, match="Did you mean 'MLP'"):
        RAWPConfig("MLPs", "toy")
