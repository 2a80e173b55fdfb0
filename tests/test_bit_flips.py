"""Does the search for the worst bits find them, and is a model measured with exactly those flipped?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recbole_rawp.config.suites import completed
from recbole_rawp.core.losses.attack_loss import AttackLoss, Judged, Source
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.threats.bit_flips import BitFlips
from recbole_rawp.threats.bit_search import BITS, BitSearch, Stored, added, at_random, candidate
from recbole_rawp.threats.number_formats import FORMATS
from tests.test_evaluation import outcome, trained


def test_a_flipped_bit_adds_what_it_does_in_twos_complement():
    numbers = torch.arange(-128, 128, dtype=torch.float32)
    stored = numbers.numpy().astype(np.int8)
    for bit in range(BITS):
        expected = (stored.view(np.uint8) ^ np.uint8(1 << bit)).view(np.int8)
        assert torch.equal(numbers + added(numbers, bit), torch.from_numpy(expected).float())


def test_the_candidate_is_the_best_of_all_bits_of_all_entries():
    draw = torch.Generator().manual_seed(4)
    numbers = torch.randint(-128, 128, (5, 7), generator=draw).float()
    slopes = torch.randn(5, 7, generator=draw)
    slopes[0, 0] = torch.nan
    every = [
        (float(slopes.flatten()[entry].double() * added(numbers, bit).flatten()[entry].double()), entry)
        for entry in range(1, 35)
        for bit in range(BITS)
    ]
    rise, flip = candidate("w", numbers, slopes)
    assert rise == pytest.approx(max(every)[0]) and flip.entry == max(every)[1] and flip.name == "w"
    assert candidate("w", numbers, torch.zeros(5, 7))[0] == 0.0


class Linear(nn.Module):
    """L(w) = sum of a w over two tensors: what a flip adds does not depend on others."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        shapes = {"one": (3, 4), "two": (2, 5)}
        self.a = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        self.w = nn.ParameterDict({name: torch.randn(shape, generator=draw) for name, shape in shapes.items()})

    def loss(self, _: object = None) -> torch.Tensor:
        return torch.stack([(self.a[name] * self.w[name]).sum() for name in self.a]).sum()


def search_of(model):
    weights = dict(model.named_parameters())
    loss = AttackLoss(model, Source("training", (model.loss,), [None]), weights)
    return BitSearch.begin(loss, {name: weight.detach() for name, weight in weights.items()})


def test_where_the_loss_is_linear_the_worst_flips_come_one_after_the_other():
    model = Linear()
    search = search_of(model)
    stored = search.stored
    rises = sorted(
        max(float(a[i] * s[i] * added(q, bit)[i]) for bit in range(BITS))
        for name in model.a
        for a, q, s in [
            (
                model.a[name].flatten(),
                stored.numbers[f"w.{name}"].flatten(),
                stored.steps[f"w.{name}"].expand(stored.numbers[f"w.{name}"].shape).flatten(),
            )
        ]
        for i in range(len(a))
    )
    before = search.value[0]
    for count in range(1, 8):
        assert search.step()
        assert search.value[0] - before == pytest.approx(sum(rises[-count:]), rel=1e-4)
    assert len(search.flips) == search.useful == 7
    changed = [(search.best[name] != value).sum() for name, value in stored.values().items()]
    assert int(sum(changed)) == 7, "no entry was flipped twice"
    while search.step():  # until every entry that can raise the loss was flipped
        pass
    assert search.value[0] - before == pytest.approx(sum(rise for rise in rises if rise > 0), rel=1e-4)


def test_random_flips_are_of_different_bits():
    weights = {"a": torch.randn(3, 4), "b": torch.randn(2, 2)}
    begun = Stored.of(weights)
    every = at_random(begun, 1000, seed=1)
    assert len(every) == BITS * 16
    assert at_random(begun, 20, seed=1) == at_random(begun, 20, seed=1) != at_random(begun, 20, seed=2)
    stored = begun
    for flip in every:
        stored = stored.after(flip)
    for name, numbers in begun.numbers.items():
        assert torch.equal(stored.numbers[name], -1 - numbers), "all bits of each entry were flipped once"


def test_flips_reach_tensors_that_lie_otherwise_in_memory():
    weight = torch.randn(6, 4).t()
    begun = Stored.of({"w": weight})
    assert torch.equal(begun.values()["w"], FORMATS["int8"](weight, True))
    flip = at_random(begun, 1, seed=3)[0]
    assert (begun.after(flip).numbers["w"] != begun.numbers["w"]).sum() == 1


def test_where_every_rank_stays_the_smooth_form_tells_flips_apart():
    model = Linear()
    weights = dict(model.named_parameters())
    stepped = lambda _: Judged(model.loss(), 0.0)  # noqa: E731
    loss = AttackLoss(model, Source("ranking", (stepped,), [None]), weights)
    search = BitSearch.begin(loss, {name: weight.detach() for name, weight in weights.items()})
    assert search.step() and search.step() and search.useful == 2
    changed = sum(int((search.best[name] != value).sum()) for name, value in Stored.of(weights).values().items())
    assert changed == 2


def test_a_search_does_more_than_chance_and_leaves_the_weights_as_they_were(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("DCN", defense="none", epochs=5)))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    threat = BitFlips(("bit_flips", "bit_flips_random"), "all", (0.0, 1.0, 6.0), ("training",))
    found = outcome(trainer, data, threat)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    values = {(r.threat, r.level, r.metric): r.value for r in found.records}
    losses = {key[:2]: value for key, value in values.items() if key[2] == "loss"}
    assert losses["bit_flips", 6] > losses["bit_flips", 1] > losses["bit_flips", 0]
    assert losses["bit_flips", 6] > losses["bit_flips_random", 6]
    assert any(note.startswith("Bits of all weights that a search along the training loss") for note in found.notes)


def test_a_suite_reads_it_back():
    threat = BitFlips(("bit_flips",), "all", (0.0, 3.0, 9.0), ("training", "ranking"))
    entry = completed(threat.entry()) | {"variants": ("bit_flips",), "optional": False}
    assert entry["loss"] == "worst" and BitFlips.of(entry) == threat
    assert BitFlips.check(entry | {"flips": [0]}).startswith("attack: flips: [0] is not valid")
    assert BitFlips.check(entry | {"target": "activations"}).startswith("attack_target: activations are not stored")
    assert torch.equal(Stored.of({"w": torch.ones(2, 3)}).values()["w"], FORMATS["int8"](torch.ones(2, 3), True))
