"""Shallow features as a stage: rows without an image, resuming, what is refused.

Their values are compared with transformers' own in `test_features_of_families`.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import HARDWARE, MAX_LENGTH, ROWS, TEMPLATE, TEXT_ONLY, Toy

from xmas.features.module_reader import modules_read, part_of
from xmas.features.shallow import Shallow, attended_tokens
from xmas.models.chat.batches import Batch, Loader
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import LoadedModel, language_model, load
from xmas.store import Store
from xmas.store.arrays import ArrayInParts
from xmas.training.starts.unfitted import Unfitted

HALF = 2e-3  # relative, of float16
PICTURED = (8, 5, 10, 4, 22)  # of several rounds, one after words of the model, others of one


def unfitted(toy: Toy, **options) -> Unfitted:
    options = {"template": TEMPLATE, "max_length": MAX_LENGTH, "cache_vision": True} | options
    return Unfitted(toy.pool, options.pop("start", toy.start), hardware=HARDWARE, **options)


def shallow(toy: Toy, **options) -> Shallow:
    return Shallow(unfitted(toy), **({"batch_tokens": 700} | options))


def arrays_of(toy: Toy, stage: Shallow) -> tuple[np.ndarray, np.ndarray]:
    folder = toy.store.get(stage)
    return np.load(folder / "values.npy"), np.load(folder / "attended.npy")


def batch_of(toy: Toy, model: Unfitted, parts: LoadedModel, rows: tuple[int, ...]) -> Batch:
    loader = Loader(
        model.tokens().open(toy.store),
        [np.array(rows)],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=FromFiles(toy.pool.open(toy.store), parts.processor),
    )
    return next(iter(loader))


def test_the_most_attended_tokens_by_hand():
    attention = torch.tensor([
        [[2.0, 0, 4, 1], [0, 0, 2, 1]],  # .2 0 .6 .2: .6, then .8 at the first of two, then 1
        [[0.0, 0, 0, 0], [0, 0, 0, 0]],  # none attends: four equal quarters
        [[1.0, 1, 0, 0], [1, 1, 0, 0]],  # the last two are padding
    ])  # fmt: skip
    mask = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    for mass, kept in ((0.45, "0010 1100 10"), (0.7, "1010 1110 11"), (0.9, "1011 1111 11")):
        taken = attended_tokens(attention, mask, mass)
        wanted = [[digit == "1" for digit in row.ljust(4, "0")] for row in kept.split()]
        assert taken.tolist() == wanted, mass


def test_rows_without_an_image_have_no_features(toy):
    for values in arrays_of(toy, shallow(toy)):
        assert (values.shape, values.dtype) == ((ROWS, 32), np.float16)
        assert np.flatnonzero(np.isnan(values).all(axis=1)).tolist() == [*TEXT_ONLY]
        assert np.isnan(values).any(axis=1).sum() == len(TEXT_ONLY)


def test_batch_mates_do_not_matter(toy):
    together, alone = (arrays_of(toy, shallow(toy, batch_tokens=tokens)) for tokens in (10_000, 1))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=HALF, atol=HALF)


def test_a_proxy_s_fit_gives_other_features_than_its_start_point(toy):
    start, fitted = (
        arrays_of(toy, Shallow(toy.proxy, step=step, batch_tokens=700)) for step in (0, None)
    )
    for one, other, unfit in zip(start, fitted, arrays_of(toy, shallow(toy)), strict=True):
        assert np.nanmax(np.abs(one.astype(float) - other)) > 0.01
        assert np.array_equal(one, unfit, equal_nan=True)


def test_the_pass_ends_after_the_last_layer_that_is_needed(toy):
    parts = load(toy.store.get(toy.start))
    language = language_model(parts.model)
    runs: list[int] = []
    for number, layer in enumerate(language.layers):
        layer.register_forward_hook(lambda *_, number=number: runs.append(number))
    batch = batch_of(toy, unfitted(toy, cache_vision=False), parts, PICTURED)
    for layer, wanted in ((1, [0]), (2, [0, 1])):
        runs.clear()
        shallow(toy, layer=layer).means(parts, batch)
        assert runs == wanted


def test_what_is_impossible_is_refused_with_its_setting(toy):
    for options, message in (
        ({"layer": 0}, r"features\.shallow\.layer=0: at least 1"),
        ({"mass": 0.0}, r"features\.shallow\.mass=0\.0 is not within"),
    ):
        with pytest.raises(ValueError, match=message):
            shallow(toy, **options)
    with pytest.raises(
        ValueError, match=r"layer 6: .* layers 0 to 1; set features\.shallow\.layer"
    ):
        toy.store.get(shallow(toy, layer=7))
    language = language_model(load(toy.store.get(toy.start)).model)
    with pytest.raises(TypeError, match="LlamaMLP has none of fc1, fc2"):
        part_of(language, 0, "mlp", ("fc1", "fc2"), "features.shallow.layer")
    with (
        pytest.raises(RuntimeError, match=r"layers \[1\] were not run"),
        modules_read({1: language.layers[1]}, lambda *_: None),
    ):
        pass


def test_what_is_not_finite_is_named(toy, monkeypatch, tmp_path):
    original = Shallow.means

    def spoiled(self, parts, batch):
        means = original(self, parts, batch)
        means["attended"][batch.rows == 8, 3] = 7e4  # over the largest of float16
        return means

    monkeypatch.setattr(Shallow, "means", spoiled)
    with pytest.raises(FloatingPointError, match=r"shallow: rows \[8\] are not finite"):
        fresh(toy, tmp_path).get(shallow(toy))


def test_a_pass_that_dies_between_two_arrays_resumes_with_both(toy, monkeypatch, tmp_path):
    stage = shallow(toy, mark_rows=7)
    whole = arrays_of(toy, stage)
    store, write, means, runs = fresh(toy, tmp_path), ArrayInParts.write, Shallow.means, []

    def dies(self, number, values):
        if self.path.stem == "attended" and number == 2:
            raise KeyboardInterrupt
        write(self, number, values)

    def counted(self, parts, batch):
        runs.extend(batch.rows.tolist())
        return means(self, parts, batch)

    monkeypatch.setattr(Shallow, "means", counted)
    with monkeypatch.context() as patch:
        patch.setattr(ArrayInParts, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            store.get(stage)
    done = len(runs)
    runs.clear()
    folder = store.get(stage)
    for name, values in zip(("values", "attended"), whole, strict=True):
        assert np.array_equal(np.load(folder / f"{name}.npy"), values, equal_nan=True)
    assert 0 < len(runs) < ROWS - len(TEXT_ONLY)  # the parts before are kept
    assert done + len(runs) > ROWS - len(TEXT_ONLY)  # the part that was cut short ran again
    assert sorted(path.name for path in folder.iterdir()) == [
        "attended.npy", "meta.json", "values.npy",
    ]  # fmt: skip


def test_the_precision_is_part_of_the_key_and_the_default_is_the_models(toy):
    stage = shallow(toy)
    assert stage.precision == "float32"
    assert stage.corrections() == {"weights": "float32"}
    assert dataclasses.replace(stage, weights="bfloat16").precision == "bfloat16"


def fresh(toy: Toy, folder: Path) -> Store:
    """A store that has all of the toy's but shallow features."""
    toy.store.get(toy.start)
    for kind in Path(toy.store.root).iterdir():
        if kind.is_dir() and kind.name != "shallow":
            (folder / kind.name).symlink_to(kind)
    return Store(str(folder))
