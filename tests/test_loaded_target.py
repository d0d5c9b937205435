"""A suite loads each of its targets once, and never answers with weights that were replaced."""

import dataclasses
import gc
import json
import os
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generate import FLOAT32, Shapes
from toy import Toy, draw

from xmas.evaluation.loaded_target import load_target, shared_by_scores
from xmas.evaluation.reference import Reference
from xmas.evaluation.scores import Scores
from xmas.store import Store, distributed
from xmas.store.integrity import DamagedResultError
from xmas.target.target import Target
from xmas.training.fit.trainables import merge_adapter

HALF = torch.bfloat16


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> dict[str, Shapes]:
    """Three benchmarks over the same five pictures, which differ in the length of answers."""
    folder = tmp_path_factory.mktemp("shapes")
    for number in range(5):
        draw(number).save(folder / f"{number}.png")
    return {f"shapes{new}": Shapes(str(folder), max_new_tokens=new) for new in (2, 3, 5)}


@pytest.fixture
def loads(monkeypatch) -> list[weakref.ref]:
    """The models that `Target.load` has returned, as weak references."""
    models: list[weakref.ref] = []
    original = Target.load

    def load(self: Target, *arguments: Any) -> Any:
        gc.collect()
        alive = [model for model in models if model() is not None]
        assert not alive, "an earlier target is still in memory"
        loaded = original(self, *arguments)
        models.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(Target, "load", load)
    return models


def own_store(toy: Toy, folder: Path) -> Store:
    """A store of its own for scores, with the toy's finished stages in it."""
    for kind in Path(toy.store.root).iterdir():
        if kind.name not in ("score", "scores") and kind.is_dir():
            (folder / kind.name).symlink_to(kind)
    return Store(str(folder))


@pytest.fixture
def store(toy: Toy, tmp_path: Path) -> Store:
    toy.store.get(toy.target())  # so that the store has a folder of every kind that is needed
    return own_store(toy, tmp_path)


def test_a_suite_loads_every_target_once(toy, suite, store, loads, tmp_path_factory):
    """Six scores, two models, never both at once; the same answers as of scores one by one."""
    scores = Scores(suite, toy.target(), Reference(toy.target()), FLOAT32)
    folder = store.get(scores)
    assert len(loads) == 2
    gc.collect()
    assert [model() for model in loads] == [None, None], "kept after the suite's end"
    record = json.loads((folder / "scores.json").read_text())
    assert len({entry["key"] for role in record.values() for entry in role}) == 6

    alone = own_store(toy, tmp_path_factory.mktemp("alone"))
    for part in scores.parts():
        answers = [(place.get(part) / "answers.jsonl").read_text() for place in (store, alone)]
        assert answers[0] == answers[1]
    assert len(loads) == 2 + 6  # outside a suite every score loads its own


def test_a_suite_that_was_stopped_goes_on_with_the_scores_it_lacks(
    toy, suite, store, loads, monkeypatch
):
    scores = Scores(suite, toy.target(), Reference(toy.target(), seeds=()), FLOAT32)
    rule = Shapes.score

    def fails(self: Shapes, *arguments: Any) -> Any:
        if self.max_new_tokens == 5:
            raise OSError("the disk is gone")
        return rule(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Shapes, "score", fails)
        with pytest.raises(OSError, match="the disk is gone"):
            store.get(scores)
    finished = [store.path(part).exists() for part in scores.parts()]
    assert finished == [True, True, False]
    gc.collect()
    assert loads[0]() is None, "kept after the error"
    store.get(scores)
    assert len(loads) == 1  # its answers were complete: no model is needed


@pytest.fixture
def request_model(toy: Toy, store: Store):
    target = toy.target()
    return lambda **changes: load_target(
        dataclasses.replace(target, **changes), store, torch.float32, "cpu"
    )


def test_weights_that_were_replaced_are_loaded_anew(toy, store, request_model, loads):
    """As by `force=target`: the same key, other files."""
    adapter = store.get(toy.target()) / "adapter" / "adapter_model.safetensors"
    before = adapter.stat()
    with shared_by_scores():
        model = request_model().model
        assert request_model().model is model
        with shared_by_scores():
            assert request_model().model is model
        assert request_model().model is model
        del model
        os.utime(adapter, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        try:
            assert len(loads) == 1
            request_model()
            assert len(loads) == 2
        finally:
            os.utime(adapter, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_weights_that_were_damaged_are_refused(toy, store, request_model):
    adapter = store.get(toy.target()) / "adapter" / "adapter_model.safetensors"
    content, before = adapter.read_bytes(), adapter.stat()
    with shared_by_scores():
        request_model()
        try:
            adapter.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(DamagedResultError, match=r"adapter_model\.safetensors has sha256"):
                request_model()
        finally:
            adapter.write_bytes(content)
            os.utime(adapter, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_another_precision_is_another_model(toy, store, request_model, loads):
    with shared_by_scores():
        assert {one.dtype for one in request_model().model.parameters()} == {torch.float32}
        half = load_target(toy.target(), store, HALF, "cpu").model
        assert {one.dtype for one in half.parameters()} == {HALF}
        assert len(loads) == 2


def test_other_ranks_load_once_too(toy, suite, store, loads, monkeypatch):
    """Rank 0 sends them one score after another; they are inside the suite all the time."""
    scores = Scores(suite, toy.target(), Reference(toy.target(), seeds=()), FLOAT32)
    messages = [("compute", part) for part in scores.parts()] + [("finished", None)]
    for part in scores.parts():
        store.path(part).parent.mkdir(exist_ok=True)
        store._draft(part).mkdir()
    monkeypatch.setattr(distributed, "receive", iter(messages).__next__)
    store._join_rank_0(scores)
    assert len(loads) == 1
    gc.collect()
    assert loads[0]() is None


def test_merging_layer_by_layer_in_another_type_gives_the_cast_of_the_merged_model(toy):
    """What a GPU does, a layer at a time, is what a CPU did with the model as a whole."""
    whole = toy.target().load(toy.store).model.state_dict()
    layers = toy.target().load(toy.store, HALF, "cpu").model.state_dict()
    assert whole.keys() == layers.keys()
    buffers = {name for name, _ in toy.target().load(toy.store).model.named_buffers()}
    for name, weight in whole.items():
        assert torch.equal(layers[name], weight if name in buffers else weight.to(HALF)), name


def test_a_layer_is_moved_before_it_is_merged(toy, monkeypatch):
    """On the meta device nothing can be summed on a CPU by mistake."""
    from peft import PeftModel

    from xmas.models.vlm import load

    target = toy.target()
    adapted = PeftModel.from_pretrained(
        load(toy.store.get(target.start)).model, toy.store.get(target) / "adapter"
    )
    merged = merge_adapter(adapted, HALF, "meta")
    places = {
        name: (weight.device.type, weight.dtype)
        for name, weight in merged.named_parameters()
        if "proj.weight" in name and "language" in name and "vision" not in name
    }
    assert len(places) == 14
    assert set(places.values()) == {("meta", HALF)}
