"""Does each defense compute the formula of its paper?  One batch, float64, against the formula written out."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from recbole.config import Config
from torch import nn

from recbole_rawp import attack_checkpoint, continue_run, run_recbole_rawp
from recbole_rawp.config.properties import defenses
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.jobs.checkpoints import settings_of
from recbole_rawp.training.trainer import RAWPFTTrainer

UNIT = {"rawp_radius_jitter": 0.0, "rawp_mask_probability": 1.0}


class Toy(nn.Module):
    """Two embedding tables and a hidden layer that is called twice: a pairwise loss with everything in it."""

    n_users, n_items = 11, 13

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.user, self.item = nn.Embedding(11, 4), nn.Embedding(13, 4)
        self.first, self.last = nn.Linear(8, 5), nn.Linear(5, 1, bias=False)

    def score(self, user, item):
        return self.last(torch.tanh(self.first(torch.cat([self.user(user), self.item(item)], 1)))).squeeze(1)

    def calculate_loss(self, batch):
        user, better, worse = batch.T
        return nn.functional.softplus(self.score(user, worse) - self.score(user, better)).mean()


def batch():
    rows = torch.Generator().manual_seed(2)
    return torch.stack([torch.randint(high, (9,), generator=rows) for high in (11, 13, 13)], 1)


def hardened(defense, settings, **options):
    """Return the settings, the toy, and its gradients after one call of the objective that the defense sets up."""
    config = RAWPConfig(config_dict=settings("NeuMF", defense=defense, **UNIT, **options))
    _, network = prepare(config)
    trainer = RAWPFTTrainer(config, network)
    trainer.model = model = Toy().double()
    trainer.hardening.build(trainer)(model.calculate_loss, batch()).backward()
    return config, model, {name: parameter.grad for name, parameter in model.named_parameters()}


def slopes(model):
    """Return the gradients of the plain loss."""
    return dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(model.calculate_loss(batch()), model.parameters()))
    )


def slopes_at(model, delta):
    """Return the gradients of the plain loss at w + delta."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, change in delta.items():
            twin.get_parameter(name).add_(change)
    return slopes(twin)


def assert_close(found, wanted):
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-10, atol=1e-13), name


HIDDEN, TABLES = ("first.weight", "last.weight"), ("user.weight", "item.weight")


def test_awp_moves_each_hidden_weight_by_a_share_of_its_norm(settings):
    config, model, found = hardened("awp", settings)
    g, gamma = slopes(model), config["rawp_radius"]
    delta = {n: gamma * model.get_parameter(n).norm() * g[n] / g[n].norm() for n in HIDDEN}
    clean = config["rawp_clean_weight"]
    wanted = slopes_at(model, delta)
    assert_close(found, {n: wanted[n] + clean * g[n] for n in g})


def test_sam_takes_one_norm_over_all_weights(settings):
    _, model, found = hardened("sam", settings)
    g, rho = slopes(model), 0.05
    norm = sum(g[n].square().sum() for n in (*HIDDEN, *TABLES)).sqrt()
    assert_close(found, slopes_at(model, {n: rho * g[n] / norm for n in (*HIDDEN, *TABLES)}))


def test_asam_scales_each_entry_by_its_size(settings):
    _, model, found = hardened("asam", settings)
    g, rho = slopes(model), 0.5
    t = {n: model.get_parameter(n).detach().abs() + 0.01 for n in (*HIDDEN, *TABLES)}
    norm = sum((t[n] * g[n]).square().sum() for n in t).sqrt()
    assert_close(found, slopes_at(model, {n: rho * t[n] ** 2 * g[n] / norm for n in t}))


def test_apr_moves_each_embedding_row_by_an_absolute_radius_beside_the_clean_loss(settings):
    _, model, found = hardened("apr", settings)
    g, epsilon = slopes(model), 0.5
    delta = {n: epsilon * nn.functional.normalize(g[n], dim=1) for n in TABLES}
    used = delta["user.weight"].norm(dim=1)
    assert set(used.round(decimals=9).tolist()) == {0.0, 0.5}
    wanted = slopes_at(model, delta)
    assert_close(found, {n: g[n] + wanted[n] for n in g})


@pytest.mark.parametrize("clean", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_rat_moves_each_rows_activations_along_their_gradient(clean, steps, settings):
    options = {"rawp_clean_weight": clean, "rawp_steps": steps, "rawp_radius": 0.3}
    _, model, found = hardened("rat", settings, **options)
    shapes = {"first": 5, "last": 1}

    def loss(shift):
        """The loss with the shifts of both calls (the worse item's first) of both layers written into it."""

        def score(user, item, call):
            z = model.first(torch.cat([model.user(user), model.item(item)], 1)) + shift["first", call]
            return z, model.last(torch.tanh(z)) + shift["last", call]

        user, better, worse = batch().T
        (z0, s0), (z1, s1) = score(user, worse, 0), score(user, better, 1)
        outputs = {("first", 0): z0, ("last", 0): s0, ("first", 1): z1, ("last", 1): s1}
        return nn.functional.softplus(s0 - s1).mean(), outputs

    shift = {(name, call): torch.zeros(9, width).double() for name, width in shapes.items() for call in (0, 1)}
    _, z = loss(shift)
    radius = {key: 0.3 * value.detach().norm(dim=1, keepdim=True) for key, value in z.items()}
    for _ in range(steps):
        value, outputs = loss(shift)
        gradients = dict(zip(outputs, torch.autograd.grad(value, list(outputs.values()))))
        for key, g in gradients.items():
            length = radius[key] * (1 if steps == 1 else 2.5 / steps)
            moved = shift[key] + length * nn.functional.normalize(g, dim=1)
            shift[key] = moved * (radius[key] / moved.norm(dim=1, keepdim=True)).clamp(max=1)
    names = dict(model.named_parameters())
    wanted = dict(zip(names, torch.autograd.grad(loss(shift)[0], model.parameters())))
    assert_close(found, {n: wanted[n] + clean * g for n, g in slopes(model).items()})


def test_rat_draws_its_layers_and_leaves_the_others_alone(settings):
    config = RAWPConfig(config_dict=settings("NeuMF", defense="rat", rawp_clean_weight=0.0, rawp_mask_every="epoch"))
    _, network = prepare(config)
    trainer = RAWPFTTrainer(config, network)
    trainer.model = model = Toy().double()
    objective = trainer.hardening.build(trainer)
    objective.mask = {"first.weight": False, "last.weight": False}
    objective(model.calculate_loss, batch()).backward()
    assert_close({n: p.grad for n, p in model.named_parameters()}, slopes(model))
    objective.mask["last.weight"] = True
    objective(model.calculate_loss, batch())
    assert {name.partition("#")[0] for name in objective.norms} == {"last.weight"}


@pytest.mark.parametrize("defense", defenses())
def test_every_defense_trains_and_its_target_is_attacked_among_weights(defense, settings):
    config = RAWPConfig(config_dict=settings("NeuMF", defense=defense, epochs=1))
    data, network = prepare(config)
    trainer = RAWPFTTrainer(config, network)
    trainer.fit(data.train, data.valid, saved=False)
    assert (trainer.objective is None) == (defense == "none")
    if trainer.objective is not None:
        assert trainer.objective.perturbed == 0  # reset after each epoch
        assert set(trainer.objective.weights) <= set(dict(network.named_parameters()))


def test_a_defense_may_be_a_file_of_ones_own(settings):
    Path("mine.yaml").write_text("rawp_mask_probability: 1.0\nrawp_radius: 3e-1\nft_rounds: 0\n")
    config = RAWPConfig(config_dict=settings("NeuMF", defense="mine.yaml", rawp_steps=2))
    found = config.settings.training
    assert (found.defense, found.recipe.radius, found.recipe.mask_probability, found.recipe.steps) == (
        "mine",
        0.3,
        1,
        2,
    )
    Path("all.yaml").write_text("defense: mine.yaml\n")
    assert RAWPConfig("NeuMF", "toy", ["all.yaml"])["rawp_radius"] == 0.3
    assert RAWPConfig("NeuMF", "toy", argv=["--defense=./mine.yaml"])["rawp_radius"] == 0.3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.yaml", None, "defense: there is no file 'gone.yaml'. Name a YAML file of yours, or one of apr, asam"),
        ("list.yaml", "- 1", "defense: 'list.yaml' holds no 'key: value' lines"),
        ("empty.yaml", "# nothing", "defense: 'empty.yaml' holds no 'key: value' lines"),
        ("broken.yaml", "a: [", "defense: cannot read 'broken.yaml'"),
        ("typo.yaml", "rawp_raduis: 1", "defense: 'typo.yaml': rawp_raduis: no such option. Did you mean 'rawp_radius"),
        ("theirs.yaml", "epochs: 3", "defense: 'theirs.yaml': epochs: no such option."),
        ("wide.yaml", "attack_radii: [0.1]", "defense: 'wide.yaml': attack_radii: not for a defense to say"),
        ("value.yaml", "rawp_radius: big", "rawp_radius: 'big' is not valid; expected float in (0, 1e6] or auto"),
        ("none.yaml", "rawp_steps: 1", "defense: 'none.yaml' has the name of a defense that ships with the package"),
    ],
)
def test_a_file_that_is_no_defense_is_one_line(name, text, message, settings):
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(InputError) as refused:
        RAWPConfig(config_dict=settings("NeuMF", defense=name))
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_a_run_with_a_file_is_called_by_its_stem_and_goes_on_without_it(settings):
    Path("own").mkdir()
    Path("own/mine.yaml").write_text("rawp_radius: 0.3\nft_rounds: 1\n")
    short = {
        "epochs": 1,
        "ft_epochs": 1,
        "ft_learning_rate": 0.1,
        "ft_modules": 3,
        "ft_steps": 3,
        "ft_attack_steps": 5,
        "ft_radius": 0.5,
        "attack_radii": [0.1],
        "attack_batches": 1,
        "attack": ["noise", "fgsm"],
    }
    first = run_recbole_rawp(config_dict=settings("NeuMF", defense="own/mine.yaml", **short), baseline=True)
    home = Path(first["output_dir"])
    assert home.name.startswith("NeuMF-toy-mine-")
    assert {row.defense for row in first["records"]} == {"none", "mine"} and "| mine repaired" in first["table"]
    Path("own/mine.yaml").write_text("rawp_radius: 0.7\n")  # changed,
    assert continue_run(str(home))["records"] == first["records"]
    shutil.rmtree("own")  # and gone
    assert continue_run(str(home))["records"] == first["records"]
    again = attack_checkpoint(f"{home}/model.pth", config_dict=short)
    assert {row.defense for row in again["records"]} == {"mine"}
    content = checkpoint.read(home / "model.pth")
    assert (
        settings_of(content).settings.training
        == RAWPConfig(config_file_list=[str(home / "settings.yaml")]).settings.training
    )
    assert Config(config_file_list=[str(home / "settings.yaml")])["rawp_radius"] == 0.3


@pytest.mark.parametrize(
    "option",
    [{"rawp_granularity": "tensor"}, {"rawp_direction": "adam"}, {"rawp_ascent_fraction": 0.5}, {"rawp_start": "last"}],
)
def test_what_activations_cannot_have_is_refused(option, settings):
    (key,) = option
    with pytest.raises(InputError, match=f"^{key}: .* does not go with rawp_target=activations"):
        RAWPConfig(config_dict=settings("NeuMF", defense="rat", **option))
