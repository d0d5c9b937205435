"""The last layer of a proxy: against transformers' own forward, one row at a time."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
import torch
from test_activations import opened, whole_row
from toy import MAX_LENGTH, ROWS, TEXT_ONLY, Toy

from xmas.features.extractor import FeatureExtractor
from xmas.features.last_layer import LastLayer
from xmas.store import Store, key
from xmas.training.starts.unfitted import Unfitted

HALF = 1e-3  # values are at most one, in float16


def last_layer(toy: Toy, **options) -> LastLayer:
    """Of the toy's start point; nothing is fitted."""
    return LastLayer(toy.proxy, **({"step": 0, "batch_tokens": 700} | options))


def values_of(toy: Toy, stage: LastLayer) -> np.ndarray:
    return np.load(toy.store.get(stage) / "values.npy")


@pytest.mark.parametrize("token", ["last", "mean"])
def test_vectors_are_those_of_the_model_s_own_forward(toy, token):
    stage = last_layer(toy, token=token)
    values = values_of(toy, stage)
    assert (values.shape, values.dtype) == ((ROWS, 32), np.float16)
    parts, pool = tiny.shared_model(toy.start, toy.store), opened(stage, toy)
    for row in (0, 2, 5, 8, *TEXT_ONLY):
        ids, pixels = whole_row(pool, parts, row)
        given = {} if pixels is None else {"pixel_values": pixels}
        with torch.no_grad():
            mask = torch.ones_like(ids)
            seen = parts.model(
                input_ids=ids, attention_mask=mask, output_hidden_states=True, **given
            )
        states = seen.hidden_states[-1][0].double().numpy()
        wanted = states[-1] if token == "last" else states.mean(axis=0)
        assert values[row] == pytest.approx(wanted / np.linalg.norm(wanted), abs=HALF)


@pytest.mark.parametrize("token", ["last", "mean"])
def test_no_pad_counts(toy, token):
    together = values_of(toy, last_layer(toy, token=token, batch_tokens=10_000))
    alone = values_of(toy, last_layer(toy, token=token, batch_tokens=1))
    assert together == pytest.approx(alone, abs=HALF)
    lengths = toy.proxy.tokens().open(toy.store).lengths
    assert len(set(lengths.tolist())) > 10  # so there are pads
    assert lengths.max() < MAX_LENGTH


def test_the_tokens_differ_and_others_are_refused(toy):
    last, mean = (values_of(toy, last_layer(toy, token=token)) for token in ("last", "mean"))
    assert np.abs(last - mean).max() > 0.1
    with pytest.raises(ValueError, match="last_layer token 'first': expected one of last, mean"):
        last_layer(toy, token="first")
    told = r"features\.last_layer\.step=5: the proxy keeps steps \[1, 4, 6\]"
    with pytest.raises(ValueError, match=told):
        toy.store.get(last_layer(toy, step=5))


def test_the_last_step_of_the_fit_is_the_default(toy):
    last, named, start = (values_of(toy, last_layer(toy, step=step)) for step in (None, 6, 0))
    assert (last == named).all()
    assert np.abs(last - start).max() > 0.01


def test_what_is_not_finite_stops_the_pass_with_its_row(toy, monkeypatch, tmp_path):
    original = FeatureExtractor.parts

    def spoiled(self, store):
        parts = original(self, store)
        with torch.no_grad():
            parts.model.get_input_embeddings().weight.fill_(np.nan)
        return parts

    monkeypatch.setattr(FeatureExtractor, "parts", spoiled)
    stage = dataclasses.replace(last_layer(toy), batch_tokens=1)
    with pytest.raises(FloatingPointError, match=r"last layer: rows \[\d+\] are not finite; set"):
        fresh(toy, tmp_path).get(stage)


def test_an_interrupted_pass_goes_on_where_it_was(toy, monkeypatch, tmp_path):
    stage = last_layer(toy, batch_tokens=200, mark_rows=7)
    whole = values_of(toy, stage)
    store, original, seen = fresh(toy, tmp_path), LastLayer.vectors, []

    def dies(self, parts, batch):
        seen.extend(batch.rows.tolist())
        if len(seen) > 20:
            raise KeyboardInterrupt
        return original(self, parts, batch)

    monkeypatch.setattr(LastLayer, "vectors", dies)
    with pytest.raises(KeyboardInterrupt):
        store.get(stage)
    done = len(seen)
    again: list[int] = []

    def counts(self, parts, batch):
        again.extend(batch.rows.tolist())
        return original(self, parts, batch)

    monkeypatch.setattr(LastLayer, "vectors", counts)
    folder = store.get(stage)
    assert (np.load(folder / "values.npy") == whole).all()
    assert ROWS - done <= len(again) < ROWS
    assert set(again) | set(seen) == set(range(ROWS))
    assert sorted(path.name for path in folder.iterdir()) == ["meta.json", "values.npy"]
    assert json.loads((folder / "meta.json").read_text())["kind"] == "last_layer"


def fresh(toy: Toy, folder) -> Store:
    """A store that has all of the toy's but last layers."""
    toy.store.get(toy.start)
    for kind in (toy.folder / "store").iterdir():
        if kind.is_dir() and kind.name != "last_layer":
            (folder / kind.name).symlink_to(kind)
    return Store(str(folder))


def test_states_as_they_are(toy):
    """Of a start point alone, too; the key of unit vectors is that of before."""
    plain, units = last_layer(toy, unit=False), last_layer(toy)
    states = values_of(toy, plain).astype(np.float64)
    norms = np.linalg.norm(states, axis=1, keepdims=True)
    assert norms.min() > 2
    assert states / norms == pytest.approx(values_of(toy, units), abs=HALF)
    assert key(plain) != key(units)
    proxy = toy.proxy
    start = Unfitted(
        toy.pool, toy.start, proxy.template, True, proxy.max_length, hardware=proxy.hardware
    )
    assert (values_of(toy, dataclasses.replace(plain, proxy=start)) == states).all()


def test_states_that_do_not_fit_are_refused(toy, monkeypatch, tmp_path):
    stage = last_layer(toy, unit=False)
    large = np.full((1, 32), 1e5, dtype=np.float32)
    monkeypatch.setattr(
        LastLayer, "vectors", lambda self, parts, batch: large[[0] * len(batch.rows)]
    )
    with pytest.raises(FloatingPointError, match=r"rows \[.*\] are not finite"):
        stage.compute(toy.store, tmp_path)
