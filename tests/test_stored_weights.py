"""Is a model stored in fewer bits, pruned, or hit by bit errors measured as such, and left as it was?"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_rawp.config import settings as options
from recbole_rawp.config.settings import Attack
from recbole_rawp.config.suites import threats
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import robustness, self_checks
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.report.bearing import bearing
from recbole_rawp.report.pictures.curves import draw
from recbole_rawp.report.verdict import verdict
from recbole_rawp.threats.bit_errors import BURST, FAULTS, STORED, BitErrors, bits_hit
from recbole_rawp.threats.number_formats import BITS, FORMATS
from recbole_rawp.threats.pruning import PRUNED, Pruning
from recbole_rawp.threats.quantization import Quantization
from tests.test_evaluation import outcome, trained

SHAPES = {"a": (7, 9), "b": (5, 3, 4)}
ALL = {name: torch.randn(shape, generator=torch.Generator().manual_seed(3)) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def neumf(data_path):
    from tests.conftest import TOY

    settings = TOY | {"model": "NeuMF", "data_path": data_path, "defense": "none", "epochs": 15}
    return trained(RAWPConfig(config_dict=settings))


# --- number formats


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("mapping", ["", "_affine"])
def test_an_integer_grid_is_off_by_at_most_half_a_step_and_has_that_many_values(bits, mapping, by_row):
    weight = torch.randn(6, 2000, generator=torch.Generator().manual_seed(1)) + 0.3
    found = FORMATS[f"int{bits}{mapping}"](weight, by_row)
    spans = [(row, seen) for row, seen in zip(weight, found)] if by_row else [(weight, found)]
    for exact, seen in spans:
        width = float(exact.max() - exact.min()) if mapping else 2 * float(exact.abs().max())
        step = width / (2**bits - 1)
        bound = step / 2 if mapping else step  # a symmetric grid of an even number of values lacks its upper end
        assert float((seen - exact).abs().max()) <= 1.0001 * bound
        inside = exact.abs() < exact.abs().max() - step
        assert float((seen - exact).abs()[inside].max()) <= 1.0001 * step / 2
        assert len(seen.unique()) <= 2**bits
        assert 0.0 in [round(float(value), 6) for value in seen.unique()]


@pytest.mark.parametrize("by_row", [True, False])
def test_grids_and_rounding_are_torchaos_bit_for_bit(by_row):
    pytest.importorskip("torchao")
    from torchao.quantization import quant_primitives as theirs

    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(2)) * torch.logspace(-3, 2, 6)[:, None]
    block = (1, 32) if by_row else (6, 32)
    for name, mapping in (("", theirs.MappingType.SYMMETRIC), ("_affine", theirs.MappingType.ASYMMETRIC)):
        for bits in BITS:
            least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            eps = torch.finfo(torch.float32).eps
            scale, zero = theirs.choose_qparams_affine(weight, mapping, block, torch.int8, least, most, eps=eps)
            stored = theirs.quantize_affine(weight, block, scale, zero, torch.int8, least, most)
            expected = theirs.dequantize_affine(stored, block, scale, zero, torch.int8, least, most)
            assert torch.equal(FORMATS[f"int{bits}{name}"](weight, by_row), expected), (bits, name)


def test_int8_by_row_is_what_torchao_does_to_a_linear_layer():
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = torch.nn.Sequential(torch.nn.Linear(8, 5))
    weight = layer[0].weight.detach().clone()
    quantize_(layer, Int8WeightOnlyConfig())
    assert torch.equal(FORMATS["int8"](weight, True), layer[0].weight.dequantize())


def test_floats_are_rounded_to_the_nearest_and_ties_to_even():
    exact = torch.tensor([[1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 3.14159265, -1e-30]])
    rounded = FORMATS["bf16"](exact, True)
    assert (rounded[0, :3] == torch.tensor([1.0, 1.0, 1.0 + 2**-6])).all()
    assert ((rounded - exact).abs() <= 2.0**-8 * exact.abs()).all()
    weight = torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    for name, bits in (("fp8_e4m3", 3), ("fp8_e5m2", 2)):
        error = (FORMATS[name](weight, True) - weight).abs() / weight.abs()
        assert float(error[weight.abs() > 0.1].max()) <= 2.0 ** -(bits + 1) * 1.0001


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_zeros_stay_and_one_dimension_is_one_row(name):
    weight = torch.zeros(2, 3)
    weight[0] = torch.tensor([1.0, -2.0, 0.5])
    assert torch.equal(FORMATS[name](weight, True)[1], torch.zeros(3)) and FORMATS[name](weight, True).isfinite().all()
    assert FORMATS[name](weight[0], True).shape == (3,)


# --- pruning


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_pruning_keeps_the_largest_entries_or_rows_as_they_are(share):
    for weight in ALL.values():
        left = PRUNED["pruning"](weight, share)
        gone = left == 0
        assert int(gone.sum()) == round(share * weight.numel())
        assert torch.equal(left[~gone], weight[~gone]) and float(weight[gone].abs().max()) <= float(
            left[~gone].abs().min()
        )
        rows = PRUNED["pruning_rows"](weight, share)
        lost = (rows == 0).flatten(1).all(1)
        assert int(lost.sum()) == round(share * len(weight)) and torch.equal(rows[~lost], weight[~lost])


# --- bit errors


@pytest.mark.parametrize("form", [torch.int8, torch.int16, torch.int32])
def test_bits_flip_at_the_rate_each_once_and_flip_back(form):
    info, random = torch.iinfo(form), np.random.default_rng(0)
    stored = torch.randint(info.min, info.max, (20000,), dtype=form, generator=torch.Generator().manual_seed(1))
    width, rate = 8 * stored.element_size(), 1e-3
    bits = bits_hit(stored, rate, random).to(torch.int64) & ((1 << width) - 1)
    places = torch.stack([(bits >> bit) & 1 for bit in range(width)])
    expected = rate * 20000 * width
    assert abs(int(places.sum()) - expected) < 5 * math.sqrt(expected)
    assert (places.sum(1) > 0).all(), "every bit can flip, the sign too"
    assert bits_hit(stored, 1.0, random).eq(-1).all() and bits_hit(stored, 1e-300, random).eq(0).all()


def test_bursts_hit_neighbours_and_stuck_bits_have_one_value():
    stored = torch.randint(-128, 128, (4000,), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    hit = bits_hit(stored, 1e-2, np.random.default_rng(0), burst=BURST)
    bits = np.unpackbits(hit.numpy().view(np.uint8), bitorder="little")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bits, [0]])))
    runs = edges[1::2] - edges[::2]
    assert len(runs) > 10 and min(runs[:-1]) >= BURST and abs(int(bits.sum()) - 320) < 5 * 18 * BURST
    effects = {name: fault[2](stored, hit) for name, fault in FAULTS.items()}
    assert (effects["stuck_at_0"] & hit).eq(0).all() and (effects["stuck_at_1"] & hit).eq(hit).all()
    for after in effects.values():
        assert torch.equal(after & ~hit, stored & ~hit), "bits that were not hit stay"
    assert torch.equal(effects["bit_errors"] ^ hit, stored)


def test_without_a_flip_each_form_is_the_format():
    weight = ALL["a"]
    same = lambda bits: bits  # noqa: E731
    assert torch.equal(STORED["float32"](weight, same), weight)
    assert torch.equal(STORED["bf16"](weight, same), FORMATS["bf16"](weight, True))
    assert torch.equal(STORED["int8"](weight, same), FORMATS["int8"](weight, True))
    one = lambda bits: bits ^ (torch.arange(len(bits)) == 4).to(bits.dtype)  # noqa: E731
    for form, store in STORED.items():
        changed = (store(weight, one) != store(weight, same)).flatten()
        assert changed.nonzero().tolist() == [[4]], form


def test_of_several_draws_the_middle_and_the_worst_are_recorded_and_all_are_noted(neumf):
    trainer, data = neumf
    found = outcome(trainer, data, BitErrors(("bit_errors_int8",), "all", (0.0, 0.01), draws=5))
    at = {(r.threat, r.level): r.value for r in found.records if r.metric == "mrr@10"}
    (note,) = [note for note in found.notes if "of each draw: " in note]
    assert ": lost in 0 of 5 draws; mrr@10 of each draw: " in note
    values = [float(value) for value in note.rpartition(": ")[2].rstrip(".").split()]
    assert values == sorted(values) and len(values) == 5
    assert at["bit_errors_int8", 0.01] == pytest.approx(values[2], abs=1e-4)
    assert at["bit_errors_int8_worst", 0.01] == pytest.approx(values[0], abs=1e-4)
    assert at["bit_errors_int8", 0.0] == at["bit_errors_int8_worst", 0.0]


def test_a_draw_that_ends_the_model_is_the_worst_and_no_reason_to_distrust(neumf):
    trainer, data = neumf
    found = outcome(trainer, data, BitErrors(("bit_errors_float32",), "all", (0.0, 0.01), draws=3))
    values = {r.threat: r.value for r in found.records if r.metric == "mrr@10" and r.level == 0.01}
    assert math.isnan(values["bit_errors_float32_worst"])
    statuses = {check.name: check.status for check in self_checks.verify(found, None, decimals=4)}
    assert statuses["all values are finite"] == "passed"


# --- all of them


THREATS = (
    Quantization(("bf16", "int4", "int2_affine"), "all"),
    Pruning(("pruning", "pruning_rows"), "hidden", (0.0, 0.5)),
    BitErrors(("bit_errors_float32", "bit_errors_int8"), "embeddings", (0.0, 1e-3), draws=2),
)


def test_recboles_metrics_are_those_of_the_weights_written_in_place_and_every_bit_comes_back(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    found = outcome(trainer, data, *THREATS)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())
    rows = {(r.threat, r.level, r.metric): r.value for r in found.records}
    with torch.no_grad():
        for weight in trainer.model.parameters():
            if weight.dim() > 1:
                weight.copy_(FORMATS["int2_affine"](weight, True))
    trainer.config["metric_decimal_place"] = 17
    trainer.evaluator.metric_class = type(trainer.evaluator)(trainer.config).metric_class
    own = trainer.evaluate(data.test, load_best_model=False)
    stored = {m: v for (t, level, m), v in rows.items() if (t, level) == ("int2_affine", 1) and m != "loss"}
    clean = {m: v for (t, level, m), v in rows.items() if (t, level) == ("int2_affine", 0) and m != "loss"}
    assert stored == pytest.approx(own, abs=2e-3)  # a changed model is ranked by logits
    assert clean != pytest.approx(own, abs=2e-3)
    assert rows["bf16", 1.0, "loss"] == pytest.approx(rows["bf16", 0.0, "loss"], rel=1e-2)
    assert rows["bf16", 1.0, "loss"] != rows["bf16", 0.0, "loss"]


@pytest.mark.parametrize("name", ["DCN", "LightGCN", "MultiVAE", "SASRec"])
def test_any_model_can_be_stored(name, settings):
    trainer, data = trained(RAWPConfig(config_dict=settings(name, defense="none", epochs=1)))
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    everything = [
        Quantization(("int8", "fp8_e4m3"), "all"),
        Pruning(("pruning",), "all", (0.0, 0.3)),
        BitErrors(("bit_errors_int8",), "all", (0.0, 1e-3), draws=1),
    ]
    found = outcome(trainer, data, *everything)
    assert {r.threat for r in found.records} == {"int8", "fp8_e4m3", "pruning", "bit_errors_int8"}
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())


def test_how_far_weights_moved_is_the_radius_of_an_attack_of_equal_norm(neumf):
    trainer, data = neumf
    found = outcome(trainer, data, Pruning(("pruning",), "mlp_layers.mlp_layers.1.weight", (0.0, 0.5)))
    weight = trainer.model.get_parameter("mlp_layers.mlp_layers.1.weight").detach()
    moved = float((PRUNED["pruning"](weight, 0.5) - weight).norm() / weight.norm())
    assert any(f"pruning 50% {moved:.2g} ({moved:.2g})" in note for note in found.notes)


def test_a_report_says_what_the_model_bears_each_by_itself(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", attack=["bf16", "pruning"])))
    attack = options.read(trainer.config).attack
    found = robustness.under_attack(trainer, data, attack, defense="none")
    assert isinstance(attack, Attack) and next(r.unit for r in found.records) == "format"
    frame = pd.DataFrame(found.records)
    text = verdict(frame, "mrr@10", bigger=True)
    assert text.startswith("**plain**, all weights: ") and "bfloat16" in text and "pruning" in text
    statuses = {check.name: check.status for check in self_checks.verify(found, None, decimals=4)}
    assert statuses["the attack has a gradient"] == "not applicable"  # it climbs nothing
    (axes,) = draw(frame, "mrr@10", bigger=True).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["bfloat16"]


def frame_of(cases):
    from tests.test_answer import run_of

    return run_of({"none": cases}, granularity="", unit="share pruned").frame


def test_what_is_borne_what_is_paid_for_and_what_is_lost_are_told_apart():
    cases = {"pruning": (0.2, 0.199, 0.195, 0.15), "pruning_rows": (0.2, 0.05, 0.02, float("nan"))}
    (line,) = bearing(frame_of(cases), "ndcg@10", bigger=True)
    assert line == (
        "**plain**, hidden weights: bears pruning up to 10% (95% or more of its NDCG@10 is left); pays for pruning 20% "
        "75%; **is lost** (less than half) to pruning of rows 5% 25%, pruning of rows 10% 10%, pruning of rows 20% n/a."
    )


def test_models_are_told_apart_and_one_that_knows_nothing_has_nothing_to_lose():
    frame = frame_of({"pruning": (0.2, 0.199, 0.195, 0.15)})
    other = frame.assign(model="B", target="all")
    first, second = bearing(pd.concat([frame, other]), "ndcg@10", bigger=True)
    assert first.startswith("**M: plain**, ") and second.startswith("**B: plain**, all weights: bears")
    (line,) = bearing(frame.assign(value=0.0), "ndcg@10", bigger=True)
    assert line.endswith(": it ranks no better than chance, so there is nothing to lose.")
    (line,) = bearing(frame.assign(metric="logloss", value=[0.5, 0.51, 0.52, 0.53]), "logloss", bigger=False)
    assert "bears pruning up to 10% (95% or more of its clean LOGLOSS / changed LOGLOSS)" in line


def test_flips_that_end_a_model_are_measured_where_loss_or_metrics_refuse_nan(settings):
    given = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": "labeled"}, "metrics": ["RMSE", "MAE"]}
    given |= {"valid_metric": "RMSE", "threshold": {"rating": 4}, "train_neg_sample_args": None, "epochs": 1}
    for name in ("DCNV2", "DeepFM"):
        trainer, data = trained(RAWPConfig(config_dict=settings(name, defense="none", **given)))
        found = outcome(trainer, data, BitErrors(("bit_errors_float32",), "all", (0.0, 0.1), draws=2))
        at = {(r.threat, r.level, r.metric): r.value for r in found.records}
        assert math.isnan(at["bit_errors_float32_worst", 0.1, "rmse"])
        assert math.isfinite(at["bit_errors_float32", 0.0, "rmse"])


def test_a_comparison_does_not_rank_defenses_by_formats(settings):
    from recbole_rawp.jobs.comparison.compare import compare

    with pytest.raises(InputError, match="^attack: a comparison ranks defenses by the strongest attack"):
        compare(["NeuMF"], ["toy"], ["none", "awp"], [1], [], settings("NeuMF", attack="production"), folder="cmp")


def test_formats_without_a_grid_know_no_granularity(settings):
    given = {"attack": ["apgd", "bf16"], "attack_granularity": "global", "attack_radii": [0.1]}
    *_, bf16 = options.read(RAWPConfig(config_dict=settings("NeuMF", **given))).attack.threats
    assert bf16.setting.granularity == "" and bf16.setting.title.endswith("stored in another number format")


@pytest.mark.parametrize("suite", ["production", "production_full"])
def test_the_suites_that_ship_are_read_and_written_as_they_are(suite, settings):
    found = options.read(RAWPConfig(config_dict=settings("NeuMF", attack=suite))).attack.threats
    count = sum(len(t.variants) * (len(t.levels) - 1) * t.draws for t in found)
    assert count == {"production": 52, "production_full": 534}[suite]
    assert {t.name for t in found} >= {
        "hidden/row/format",
        "all/tensor/format",
        "all/share pruned",
        "all/bit error rate",
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{methods: [int8], granularity: sign}", "^attack_granularity: 'sign' does not go with int8"),
        ("{methods: [pruning], shares: [1.5]}", r"^attack: shares: \[1.5\] is not valid; expected a list of numbers"),
        ("{methods: [pruning], shares: 0.5}", "^attack: shares: 0.5 is not valid"),
        ("{methods: [bit_errors_int8], rates: []}", r"^attack: rates: \[\] is not valid"),
        ("{methods: [bit_errors_int8], draws: 0}", "^attack: draws: 0 is not valid; expected int >= 1"),
        ("{methods: [bit_errors_int8_worst]}", "^attack: bit_errors_int8_worst is measured beside bit_errors_int8"),
        ("{methods: [int8], target: activations}", "^attack_target: activations are not stored, so int8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(entry, message, settings, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"- {entry}\n")
    config = RAWPConfig(config_dict=settings("NeuMF", attack=str(tmp_path / "mine.yaml")))
    with pytest.raises(InputError, match=message):
        threats(options.read(config).values)
