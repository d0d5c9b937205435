"""Blocks are recomputed where memory needs it, frozen ones too, and no number changes."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy import HARDWARE, RECIPE, Toy

from xmas.models.families import family_of
from xmas.models.shape import Decoder
from xmas.models.vlm import freeze_tower, head_of, language_model, load
from xmas.training.fit import recomputation
from xmas.training.fit.batch_plan import BatchPlan, plan_batches
from xmas.training.fit.memory import USABLE, FitMemory, block_bytes, states
from xmas.training.fit.recomputation import Recomputation, fit_memory
from xmas.training.fit.trainables import Lora, projector_alone, trainable, with_lora
from xmas.training.fit.trainer import fit

DECODER = Decoder(5, 8, heads=2, groups=1, head_dim=3, feed_forward=11, vocabulary=7)
SOME = np.arange(16)  # rows: four microbatches
Trained = dict[str, torch.Tensor]


def projector(model: nn.Module) -> nn.Module:
    return projector_alone(model, "32-true")


def lora(model: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return with_lora(model, Lora(4, 8, dropout=0.3))


def fitted(toy: Toy, out: Path, prepare: Callable, **hardware: Any) -> tuple[list[int], Trained]:
    """Of a fit on some rows: how often each block ran, and what was trained."""
    parts = load(toy.store.get(toy.start))
    model = prepare(parts.model)
    runs: Counter[int] = Counter()
    for place, block in enumerate(language_model(model).layers):
        block.self_attn.register_forward_pre_hook(lambda *_, place=place: runs.update([place]))
    fit(
        model, toy.proxy.tokens().open(toy.store), SOME, toy.vision.pictures(toy.store),
        recipe=RECIPE, hardware=dataclasses.replace(HARDWARE, **hardware), seed=0, out=out,
        label="fit", pad=parts.tokenizer.pad_token_id,
    )  # fmt: skip
    trained = {
        name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad
    }
    return [runs[place] for place in sorted(runs)], trained


def same(one: Trained, other: Trained) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(other[name], weight) for name, weight in one.items()
    )


@pytest.mark.parametrize("prepare", [projector, lora])
def test_frozen_blocks_are_recomputed_as_trained_ones_are(toy, tmp_path, prepare):
    """In LLaVA's first stage the language model is in evaluation mode."""
    once, kept = fitted(toy, tmp_path, prepare, checkpointing=0.0)
    twice, recomputed = fitted(toy, tmp_path, prepare, checkpointing=1.0)
    assert (once, twice) == ([4, 4], [8, 8])
    assert same(kept, recomputed)


def test_each_microbatch_recomputes_what_its_memory_needs(toy, tmp_path, monkeypatch):
    table = toy.proxy.tokens().open(toy.store)
    batches = plan_batches(table, SOME, RECIPE, seed=0).batches
    tokens = sorted(int(table.lengths[batch].sum()) for batch in batches)
    assert tokens[0] < tokens[1] < tokens[-1]
    logits: list[int] = []  # rows of the output layer that were computed at once

    def watched(model: nn.Module) -> nn.Module:
        model = lora(model)
        head_of(model).register_forward_hook(lambda _, hidden, rows: logits.append(len(rows)))
        return model

    model = lora(load(toy.store.get(toy.start)).model)
    kept = dataclasses.replace(fit_memory(model, RECIPE, HARDWARE), logit_rows=1)
    enough = kept.peak(tokens[0], 1, 0) / USABLE  # for the shortest alone
    monkeypatch.setattr(recomputation, "memory_of", lambda device: enough)
    runs, trained = fitted(toy, tmp_path, lora, packing=True, logit_rows=1)
    expected = [kept.recomputed(float(total), 1, share=None, memory=enough) for total in tokens]
    assert expected[0] == 0
    assert expected[-1] > 0
    assert runs == [4 + sum(count > place for count in expected) for place in (0, 1)]
    monkeypatch.undo()
    _, in_parts = fitted(toy, tmp_path, watched, packing=True, logit_rows=1)
    assert same(in_parts, trained)
    assert set(logits) == {1}
    logits.clear()
    fitted(toy, tmp_path, watched, packing=True)
    assert min(logits) > 1


def test_ranks_recompute_as_many_blocks_as_the_largest_of_their_microbatches_needs(toy):
    table = toy.proxy.tokens().open(toy.store)
    batches = [np.array([row]) for row in np.argsort(table.lengths, kind="stable")[[0, -1, 1]]]
    plan = BatchPlan(batches, [1.0] * 3)
    callback = Recomputation(table, plan, RECIPE, HARDWARE)
    callback.kept = FitMemory(DECODER, 0.0, 32, logit_rows=0)
    callback.memory = callback.kept.peak(float(table.lengths[batches[2]][0]), 0, 0) / USABLE
    alone = [callback.count(batch_idx, world=1) for batch_idx in range(3)]
    assert 0 == alone[0] == alone[2] < alone[1]
    assert [callback.count(batch_idx, world=2) for batch_idx in range(2)] == [alone[1], 0]


def test_blocks_to_recompute_by_hand():
    kept = FitMemory(DECODER, states=1000.0, bits=32, logit_rows=3)
    assert block_bytes(DECODER, bits=32, rank=None) == 4 * 114
    assert kept.peak(10, 2, 0) == 1000 + 10 * 5 * 456 + 3 * 4 * 2 * 7
    assert kept.peak(10, 9, 0) == 1000 + 10 * 5 * 456 + 3 * 4 * 3 * 7
    assert kept.peak(10, 2, 2) == 1000 + 10 * (3 * 456 + 2 * 32) + 168
    assert kept.peak(10, 2, 4) == kept.peak(10, 2, 5) - 320 == 1000 + 10 * (456 + 4 * 32) + 168

    def count(memory: float, share: float | None = None) -> int:
        return kept.recomputed(10, 2, share=share, memory=memory / USABLE)

    assert [count(kept.peak(10, 2, recomputed)) for recomputed in range(4)] == [0, 1, 2, 3]
    assert count(kept.peak(10, 2, 0) - 1) == 1
    assert count(0) == 5  # not enough either
    assert count(0, share=0.5) == 3
    assert kept.recomputed(10, 2, share=None, memory=None) == 0


def test_bytes_of_a_block_by_hand():
    """Of Vicuna-7B with LoRA 7.7 MB a token, measured; of a frozen model no inputs of matrices."""
    attended = 4 * 3 * (2 + 1)
    assert block_bytes(DECODER, bits=16, rank=None) == 26 * 8 + attended + 8 * 11
    assert block_bytes(DECODER, bits=16, rank=0) == 8 * 8 + attended + 6 * 11
    inputs = 5 * 8 + 6 + 11
    assert block_bytes(DECODER, bits=16, rank=7) == 8 * 8 + attended + 6 * 11 + 3 * inputs + 98
    wide = 8 * 8 + 2 * attended + 12 * 11  # without autocast
    assert block_bytes(DECODER, bits=32, rank=0) == wide
    assert block_bytes(DECODER, bits=32, rank=7) == wide + 5 * inputs + 196
    vicuna = Decoder(32, 4096, 32, 32, 128, 11008, 32064)
    assert 32 * block_bytes(vicuna, bits=16, rank=128) == pytest.approx(7.7e6, rel=0.01)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("rank", [None, 0, 7])
def test_what_an_estimate_counts_is_what_the_model_has(toy, rank, precision):
    parts = load(toy.store.get(toy.start))
    shape = family_of(parts.model.config).shape(parts.model.config)
    if rank == 0:
        model = projector_alone(parts.model, precision)
    else:
        model = trainable(parts.model, rank and Lora(rank), precision)
    recipe = dataclasses.replace(RECIPE, precision=precision)
    kept = fit_memory(model, recipe, HARDWARE)
    bits = 32 if precision == "32-true" else 16
    assert (kept.rank, kept.bits, kept.decoder) == (rank, bits, shape.decoder)
    expected = states(shape, bits=bits, rank=rank, halved=True)
    assert kept.states == pytest.approx(expected, rel=0.01)


def test_a_proxys_tower_is_float32_and_copied(toy):
    parts = load(toy.store.get(toy.start))
    shape = family_of(parts.model.config).shape(parts.model.config)
    recipe = dataclasses.replace(RECIPE, precision="bf16-mixed")
    kept = fit_memory(freeze_tower(parts.model), recipe, HARDWARE)
    assert kept.states == pytest.approx(states(shape, bits=16), rel=0.01)


def test_shards_by_hand():
    """Two devices: half of what is trained, and all that a step gathers."""
    from xmas.models.shape import Shape, Tower

    shape = Shape(DECODER, Tower(0, 8, 0, 0, 0, class_token=False), (8, 8, 8), 4)
    tower, learning = shape.tower.parameters, shape.decoder.parameters + 2 * 9 * 8
    block = DECODER.linear / 5
    gathered = 2 * 7 * 8 * 10 + 144 * 10 + 2 * block * (2 + 4)
    assert states(shape, bits=16, shards=2) == tower * 6 + learning * 16 / 2 + gathered
