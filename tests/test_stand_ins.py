"""Do KGAT and NCL, whose packages may be missing, train, load and resume as they should?  Stand-ins make them run."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from recbole.model.general_recommender import NCL

from recbole_rawp import InputError, attack_checkpoint, run_recbole_rawp
from recbole_rawp.cli.main import main
from recbole_rawp.host.compat import awaited
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.models.recboles import NEEDS
from recbole_rawp.host.quirks import counted
from tests import stand_ins
from tests.test_radius_search import fit as train
from tests.training import fit

GRAPH = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "kg": ["head_id", "relation_id", "tail_id"],
        "link": ["item_id", "entity_id"],
    },
    "embedding_size": 8,
    "kg_embedding_size": 8,
    "rawp_target": "hidden",
    "learning_rate": 0.1,  # so high that the last epoch is not the best
    "epochs": 4,
}
CLUSTERS = {"num_clusters": 5, "warm_up_step": 2, "rawp_target": "embeddings", "rawp_mask_probability": 1.0}


@pytest.fixture
def kgat(settings, monkeypatch):
    """Return a function: overrides -> settings of KGAT, for which a `dgl` is there."""
    module = stand_ins.dgl()
    awaited.old_dgl_calls(module)
    monkeypatch.setitem(sys.modules, "dgl", module)
    graph = stand_ins.Graph.adjacency_matrix
    yield lambda **overrides: settings("KGAT", **GRAPH | overrides)
    stand_ins.Graph.adjacency_matrix = getattr(graph, "__wrapped__", graph)


@pytest.fixture
def ncl(settings, monkeypatch):
    """Return a function: overrides -> settings of NCL, for which a `faiss` is there."""
    monkeypatch.setitem(sys.modules, "faiss", stand_ins.faiss())
    return lambda **overrides: settings("NCL", **CLUSTERS | overrides)


def values(result):
    """Return what each record measured."""
    keys = ("threat", "target", "granularity", "level", "metric")
    return {tuple(getattr(record, key) for key in keys): record.value for record in result["records"]}


def test_without_defense_kgats_best_epoch_is_tested_as_recbole_tests_it(kgat):
    from recbole.quick_start import run_recbole

    ours = run_recbole_rawp(config_dict=kgat(defense="none", attack="[fgsm]", attack_radii="[0.1]"))
    theirs = run_recbole(config_dict={k: v for k, v in kgat().items() if not k.startswith(("ft_", "rawp_", "defense"))})
    assert ours["test_result"] == theirs["test_result"]
    best, last = (
        torch.load(Path(ours["output_dir"]) / name, weights_only=False) for name in ("model.pth", "resume.pt")
    )
    assert best["epoch"] < last["counters"]["start_epoch"] - 1, "the attention of the last epoch would do"


@pytest.mark.parametrize("model", ["kgat", "ncl"])
def test_a_checkpoint_is_attacked_as_at_the_end_of_its_run(model, request):
    given = request.getfixturevalue(model)(attack="[fgsm]", attack_radii="[0.0, 0.3]", attack_batches=2)
    run = run_recbole_rawp(config_dict=given)
    again = attack_checkpoint(f"{run['output_dir']}/model.pth", config_dict={"attack": "[fgsm]"} | given)
    assert len(run["records"]) > 4 and values(again) == values(run)


def test_what_ncl_drops_in_its_warm_up_moves_nothing(ncl):
    def weights(**overrides):
        return fit(RAWPConfig(config_dict=ncl(defense="rawp_reference", **overrides)))[1]

    little, much = (weights(proto_reg=size) for size in (1e-8, 1e3))
    assert all(torch.equal(little[name], much[name]) for name in little)
    kept = [weights(proto_reg=size, warm_up_step=1) for size in (1e-8, 1e3)]
    assert any(not torch.equal(kept[0][name], kept[1][name]) for name in little), "afterwards it does"


def test_ncls_loss_keeps_its_length_and_gradient_in_the_warm_up(ncl):
    trainer, _ = fit(RAWPConfig(config_dict=ncl(defense="rawp_reference", epochs=1)))
    weight = torch.ones(3, requires_grad=True)
    parts = counted(trainer, lambda batch: (weight.sum(), 2 * weight.sum(), 4 * weight.sum()), 1)(None)
    assert [float(part) for part in parts] == [3, 6, 0]
    assert torch.autograd.grad(sum(parts), weight)[0].tolist() == [3, 3, 3]
    assert counted(trainer, NCL.calculate_loss, 2) is NCL.calculate_loss


def test_a_radius_is_found_in_ncls_own_loop_too(ncl):
    _, plain = train(RAWPConfig(config_dict=ncl(defense="none", epochs=3)))
    trainer, scores = train(RAWPConfig(config_dict=ncl(defense="rawp", rawp_radius="auto", epochs=3)))
    search = trainer.state.search
    assert search.plain[:3] == [float(score) for score in plain]
    assert [row.score for row in search.path] == scores[-20:] and len(search.path) == 20


def test_scores_that_are_drawn_are_compared_with_the_same_numbers_and_noted(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", stand_ins.torch_scatter())
    words = "The model draws its scores anew on each call"
    for dropout, drawn in ((0.5, True), (0.0, False)):
        given = GRAPH | {"defense": "none", "rawp_target": "embeddings", "node_dropout_rate": dropout}
        given |= {"attack": "[fgsm]", "attack_radii": "[0.1]"}
        result = run_recbole_rawp(config_dict=settings("KGIN", **given))
        statuses = {check.name: check.status for check in result["checks"]}
        assert statuses["level 0 equals RecBole's own evaluation"] == "passed"
        assert (words in Path(result["output_dir"], "report.md").read_text()) == drawn


def test_more_clusters_than_points_are_refused_before_training(ncl):
    with pytest.raises(InputError, match=r"num_clusters: 1000, but there are 48 users or items. Choose 48 at most."):
        fit(RAWPConfig(config_dict=ncl(num_clusters=1000)))


@pytest.mark.parametrize("model", NEEDS)
def test_a_model_whose_package_is_missing_or_broken_is_refused_in_one_line(
    model, settings, monkeypatch, tmp_path, capsys
):
    package, command = NEEDS[model]
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert main([f"--model={model}", "--dataset=toy"]) == 2
    line = f"recbole-rawp: model: {model} needs the package '{package}', which is not installed. Try `{command}`.\n"
    assert capsys.readouterr().err == line
    monkeypatch.delitem(sys.modules, package)
    monkeypatch.syspath_prepend(tmp_path)
    for fault in ("raise FileNotFoundError('no libgraphbolt.so\\nfor this torch')", "import absent_of_all"):
        (tmp_path / f"{package}.py").write_text(fault)
        with pytest.raises(
            InputError, match=f"'{package}', which cannot be imported .*(no libgraphbolt.so for|absent)"
        ):
            RAWPConfig(config_dict=settings(model))
        (tmp_path / f"{package}.py").unlink()


def test_a_package_is_asked_for_by_the_models_that_import_it_only():
    assert set(NEEDS) == {"KGAT", "KGIN", "MCCLK", "NCL"}
    assert isinstance(stand_ins.dgl(), types.ModuleType)
