"""MAGIC: its rule against a literal re-implementation, parts by hand, its signals as a stage."""

import dataclasses
import math
import shutil
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from test_selectors import pool_of
from test_shallow import unfitted
from toy import ROWS, TEXT_ONLY, Toy

from xmas.features.answer_layers import AnswerLayers, sharpness
from xmas.features.losses.answers import Answers
from xmas.selection.methods.magic import Magic
from xmas.selection.rules.buckets import best_of_buckets, quotas, robust
from xmas.store import Store, content


@dataclasses.dataclass(frozen=True)
class GivenAnswers(Answers):
    """Losses out of a file."""

    kind: ClassVar[str] = "given_answers"

    file: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        shutil.copy(self.file, out / "values.npy")


@dataclasses.dataclass(frozen=True)
class GivenLayers(AnswerLayers):
    """Signals out of two files."""

    kind: ClassVar[str] = "given_layers"

    bridging: str = content("")
    signature: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        shutil.copy(self.bridging, out / "bridging.npy")
        shutil.copy(self.signature, out / "neurons.npy")


def magic(toy: Toy, folder: Path, gain, bridging, signatures, **options) -> Magic:
    """MAGIC on given signals; the loss with the image is 1."""
    answers = np.ones((len(gain), 5), dtype=np.float32)
    answers[:, 4] += gain
    np.save(folder / "answers.npy", answers)
    np.save(folder / "bridging.npy", np.array(bridging, dtype=np.float32).reshape(len(gain), -1))
    np.save(folder / "neurons.npy", np.array(signatures, dtype=np.int32).reshape(len(gain), -1))
    model = unfitted(toy)
    layers = GivenLayers(
        model, bridging=str(folder / "bridging.npy"), signature=str(folder / "neurons.npy")
    )
    return Magic(GivenAnswers(model, file=str(folder / "answers.npy")), layers, **options)


def literal(gain, bridging, signatures, budget: int) -> set[int]:
    """The published rule, row by row, with our normalisation and ties."""

    def normalised(values):
        centre = sorted(values)[len(values) // 2]  # odd numbers of rows
        spread = 1.4826 * sorted(abs(value - centre) for value in values)[len(values) // 2]
        return [min(max((value - centre) / spread, -3), 3) / 6 + 0.5 for value in values]

    rows = range(len(gain))
    quality = [
        0.5 * g + 0.5 * b for g, b in zip(normalised(gain), normalised(bridging), strict=True)
    ]
    eligible = sorted(rows, key=lambda row: (-gain[row], row))[: math.ceil(0.6 * len(gain))]
    best = sorted(eligible, key=lambda row: (-quality[row], row))
    shortlist = best[: min(math.ceil(2 * budget), len(eligible))]
    buckets = defaultdict(list)
    for row in shortlist:
        buckets[tuple(signatures[row])].append(row)
    mass = {key: sum(math.exp(quality[row] / 0.2) for row in buckets[key]) for key in buckets}
    total = sum(mass.values())
    most = math.ceil(0.05 * budget)
    quota = {
        key: min(len(buckets[key]), most, math.floor(budget * mass[key] / total)) for key in buckets
    }
    remainders = sorted(
        buckets,
        key=lambda key: (
            -(budget * mass[key] / total - math.floor(budget * mass[key] / total)),
            key,
        ),
    )
    left = budget - sum(quota.values())
    for key in remainders:
        if left and quota[key] < min(len(buckets[key]), most):
            quota[key] += 1
            left -= 1
    chosen = {row for key in buckets for row in buckets[key][: quota[key]]}
    for row in [*shortlist, *best]:
        if len(chosen) < budget:
            chosen.add(row)
    return chosen


@pytest.mark.parametrize("seed", range(7))
def test_the_rule_is_that_of_a_literal_re_implementation(toy, tmp_path, seed):
    rng = np.random.default_rng(seed)
    count, kinds = 401, (5, 29, 397)[seed % 3]
    gain = rng.normal(0.3, 0.5, count)
    bridging = rng.beta(2, 5, count)
    signatures = np.sort(rng.integers(0, 9, (kinds, 3)), axis=1)[rng.integers(0, kinds, count)]
    selector = magic(toy, tmp_path, gain, bridging, signatures)
    filled = 0
    for budget in (1, 7, 40, 83, 150, 240):
        chosen = selector.chosen(gain, bridging, signatures, budget).tolist()
        assert chosen == sorted(literal(gain.tolist(), bridging.tolist(), signatures, budget))
        assert len(chosen) == budget
        best = np.argsort(-(0.5 * robust(gain) + 0.5 * robust(bridging)), kind="stable")
        filled += set(best[:budget].tolist()) != set(chosen)
    assert filled  # or buckets would not matter


def test_quotas_by_hand():
    """10 rows at shares .5 .26 .24: floors 5 2 2, the tenth to the remainder .6."""
    masses = np.array([5.0, 2.6, 2.4])
    assert quotas(masses, np.array([9, 9, 9]), 10, 9).tolist() == [5, 3, 2]
    assert quotas(masses, np.array([9, 2, 9]), 10, 9).tolist() == [5, 2, 3]  # the next has room
    assert quotas(masses, np.array([9, 9, 9]), 10, 3).tolist() == [3, 3, 3]  # one is left over


def test_buckets_by_hand():
    """Five candidates of budget 3; bucket 7 has three, 4 has two; at most two each."""
    quality = np.array([0.9, 0.1, 0.8, 0.7, 0.6, 0.5, 0.0])
    signatures = np.array([[7], [4], [7], [7], [4], [4], [9]])
    options = {"candidates": 5, "temperature": 0.2}
    # exp(q / .2): 90.0 54.6 33.1 of bucket 7, 20.1 12.2 of 4; 3 x .846 = 2.54, 3 x .154 = .46
    chosen = best_of_buckets(quality, signatures, 3, cap=1.0, **options)
    assert chosen.tolist() == [0, 2, 3]  # floors 2 and 0, the remainder .54 takes the third
    chosen = best_of_buckets(quality, signatures, 3, cap=0.5, **options)
    assert chosen.tolist() == [0, 2, 4]  # at most 2 of a bucket
    chosen = best_of_buckets(quality, signatures, 3, cap=0.2, **options)
    assert chosen.tolist() == [0, 2, 4]  # one of each, and the best of the rest
    assert best_of_buckets(quality, signatures, 7, cap=0.1, **options).tolist() == [*range(7)]


def test_normalised_values_by_hand():
    values = np.array([2.0, 1, 3, 30, 2.5])  # median 2.5, deviations .5 1.5 .5 27.5 0: .5
    third = 1.4826 * 0.5 * 6
    wanted = [0.5 - 0.5 / third, 0.5 - 1.5 / third, 0.5 + 0.5 / third, 1.0, 0.5]
    assert robust(values) == pytest.approx(np.array(wanted))
    assert robust(np.array([0.0, 0, 0, 4, -1])).tolist() == [0.5, 0.5, 0.5, 1, 0]  # by ranks
    assert robust(np.array([3.0])).tolist() == [0]


def test_sharpness_by_hand():
    """All on one of four tokens: the mass; spread evenly: 0; on two of four: half the mass."""
    attention = torch.tensor([[[0.5, 0, 0, 0], [0.1, 0.1, 0.1, 0.1], [0.2, 0, 0.2, 0], [0.0] * 4]])
    values = sharpness(attention, torch.tensor([4]))
    assert values[0].tolist() == pytest.approx([0.5, 0, 0.2, 0], abs=1e-6)
    assert sharpness(torch.tensor([[[0.3, 0.0]]]), torch.tensor([1])).item() == pytest.approx(0.3)


def test_rows_without_a_signal_are_never_chosen(toy, tmp_path):
    nan = np.nan
    gain = np.array([0.5, 0.9, nan, 0.1, 0.3, 0.2])
    bridging = [0.5, nan, 0.9, 0.1, 0.3, 0.2]
    selector = magic(toy, tmp_path, gain, bridging, [[1], [-1], [2], [1], [3], [2]])
    pool = pool_of(tmp_path, [True, False, True, True, True, True])
    rng = np.random.default_rng(0)
    assert selector.select(pool, 4, rng, toy.store).tolist() == [0, 3, 4, 5]
    assert selector.select(pool, 1, rng, toy.store).tolist() == [0]
    message = "a budget of 5 image rows exceeds the 4 that have an image and an answer, of 6 rows"
    with pytest.raises(ValueError, match=message):
        selector.select(pool, 5, rng, toy.store)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eligible": 0.0}, r"selector\.eligible=0\.0 is not within \(0, 1\]"),
        ({"gain_share": 1.5}, r"selector\.gain_share=1\.5 is not within \[0, 1\]"),
        ({"candidates": 0.5}, r"selector\.candidates=0\.5: at least the budget"),
        ({"temperature": 0.0}, r"selector\.temperature=0\.0 is not above 0"),
    ],
)
def test_values_out_of_range_are_refused(toy, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        magic(toy, tmp_path, np.ones(2), [0.1, 0.2], [[1], [2]], **options)
    assert magic(toy, tmp_path, np.ones(2), [0.1, 0.2], [[1], [2]], gain_share=0.0)


# The signals as a stage; their values are those of `test_features_of_families`.


def answer_layers(toy: Toy, **options) -> AnswerLayers:
    how = {"layers": (0, 1), "neurons": (1, 2), "batch_tokens": 700}
    return AnswerLayers(unfitted(toy), **(how | options))


def test_rows_without_an_image_have_no_signals(toy):
    folder = toy.store.get(answer_layers(toy))
    bridging, neurons = np.load(folder / "bridging.npy"), np.load(folder / "neurons.npy")
    assert (bridging.shape, bridging.dtype) == ((ROWS, 2), np.float32)
    assert (neurons.shape, neurons.dtype) == ((ROWS, 3), np.int32)
    assert np.flatnonzero(np.isnan(bridging).all(axis=1)).tolist() == [*TEXT_ONLY]
    assert np.flatnonzero((neurons == -1).all(axis=1)).tolist() == [*TEXT_ONLY]
    pictured = np.delete(np.arange(ROWS), TEXT_ONLY)
    assert ((bridging[pictured] >= 0) & (bridging[pictured] <= 1)).all()
    assert neurons[pictured].min() >= 0
    assert (neurons[pictured, 1] < neurons[pictured, 2]).all()
    alone = np.load(toy.store.get(answer_layers(toy, batch_tokens=1)) / "bridging.npy")
    np.testing.assert_allclose(alone, bridging, rtol=1e-4, atol=1e-6)


def test_a_row_without_an_answer_has_no_signals(toy, monkeypatch):
    stage = answer_layers(toy, batch_tokens=699)
    seen = []
    original = AnswerLayers.signals

    def unlabelled(self, parts, batch):
        values, neurons = original(self, parts, batch)
        seen.append(np.isfinite(values).all())
        return values, neurons

    monkeypatch.setattr(AnswerLayers, "signals", unlabelled)
    whole = stage.model.tokens().open(toy.store)
    monkeypatch.setattr(type(whole), "__getitem__", without_answer(type(whole).__getitem__, row=8))
    folder = toy.store.get(stage)
    bridging = np.load(folder / "bridging.npy")
    assert np.flatnonzero(np.isnan(bridging).any(axis=1)).tolist() == sorted([8, *TEXT_ONLY])
    assert np.load(folder / "neurons.npy")[8].tolist() == [-1] * 3
    assert not all(seen)


def without_answer(read, row: int):
    """Tokens of a table of which one row has no label."""

    def changed(self, number: int):
        tokens = read(self, number)
        if number != row:
            return tokens
        return dataclasses.replace(tokens, labelled=np.zeros_like(tokens.labelled))

    return changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (1, 0)}, "expected ascending layers"),
        ({"layers": (), "neurons": ()}, "expected ascending layers"),
        ({"neurons": (1,)}, r"neurons=\[1\]: expected a number from 1 up for each of the 2 layers"),
        ({"neurons": (1, 0)}, r"neurons=\[1, 0\]: expected a number from 1 up"),
    ],
)
def test_layers_and_neurons_that_do_not_match_are_refused(toy, options, message):
    with pytest.raises(ValueError, match=message):
        answer_layers(toy, **options)


def test_a_layer_beyond_the_model_is_refused_with_the_setting(toy):
    message = r"layer 8: .* layers 0 to 1; set features\.answer_layers\.layers"
    with pytest.raises(ValueError, match=message):
        toy.store.get(answer_layers(toy, layers=(1, 8)))
