"""COINCIDE's features against hooks of the tests' own, and what both modes do with text-only rows.

The reference runs transformers' own forward, from ids and pixels, one row at a time.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from toy import RECIPE, ROWS, TEXT_ONLY, Toy, picture_name, record

from xmas.attention.metric import Spectra
from xmas.data.images.broken import read_picture
from xmas.data.pool import Pool
from xmas.data.rows import Rows
from xmas.features.activations import Activations
from xmas.features.pooled import Means, Windows, means_of
from xmas.features.trajectories import Trajectories
from xmas.models.chat.batches import collate
from xmas.models.chat.labels import Tokens
from xmas.models.chat.layout import FEATURE
from xmas.models.chat.template import Template
from xmas.models.chat.tokens import TokenTable
from xmas.models.vlm import LoadedModel, language_model, load
from xmas.store import Store, describe
from xmas.store.feasible import check_all
from xmas.training.proxy import Proxy

FEW = (0, 2, 3, 8, 10, 40, 4)  # rows of the toy's
HALF = 1e-3  # values are at most one, in float16
SYSTEM = Template()  # with a prompt in front of every question


def activations(toy: Toy, **options) -> Activations:
    """Of the toy's start point, behind a system prompt; nothing is fitted."""
    proxy = dataclasses.replace(toy.proxy, template=SYSTEM, max_length=1024)
    return Activations(proxy, **({"step": 0, "layers": (0, 1), "batch_tokens": 700} | options))


def values_of(toy: Toy, stage: Activations) -> np.ndarray:
    return np.load(toy.store.get(stage) / "values.npy")


@pytest.fixture(scope="module")
def few(toy: Toy, tmp_path_factory) -> Pool:
    """Rows of one picture and of none, of one round and of several."""
    place = tmp_path_factory.mktemp("few") / "pool.json"
    place.write_text(json.dumps([record(row) for row in FEW]))
    return Pool(str(place), str(toy.folder / "images"))


Opened = tuple[TokenTable, Rows]


def opened(stage: Activations, toy: Toy) -> Opened:
    """Tokens and rows of the stage's pool."""
    return stage.proxy.tokens().open(toy.store), stage.proxy.pool.open(toy.store)


def whole_row(pool: Opened, parts: LoadedModel, row: int):
    """Ids of a row as the model's own forward takes them, and its pixels."""
    table, examples = pool
    held = table[row]
    ids = held.ids.astype(np.int64)
    if held.image_at < 0:
        return torch.from_numpy(ids)[None], None
    token = parts.model.config.image_token_id
    image = np.where(held.image < 0, token, held.image)
    ids = np.insert(ids, held.image_at, image)
    image = read_picture(examples, int(examples.shown.first[row]), row)
    return torch.from_numpy(ids)[None], parts.processor.pictures([image])["pixels"]


@torch.no_grad()
def outputs(parts: LoadedModel, layers, **inputs) -> list[np.ndarray]:
    """What `o_proj` of these layers gives in a whole forward pass, (length, hidden) each."""
    found: dict[int, np.ndarray] = {}
    hooks = []
    for layer in layers:
        attention = language_model(parts.model).layers[layer].self_attn
        projection = attention.dense if hasattr(attention, "dense") else attention.o_proj

        def keep(module, given, output, layer=layer):
            found[layer] = output.double().numpy()

        hooks.append(projection.register_forward_hook(keep))
    parts.model(**inputs)
    for hook in hooks:
        hook.remove()
    return [found[layer] for layer in layers]


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Means, image and language in turn, as features."""
    bent = [np.tanh(part) for part in parts]
    lengths = [np.linalg.norm(part) for part in bent]
    units = [part / length if length else part for part, length in zip(bent, lengths, strict=True)]
    return np.concatenate(units) / np.sqrt(len(parts))


def expected(stage: Activations, pool: Opened, parts: LoadedModel, row: int) -> np.ndarray:
    """The features of a row in mode fixed."""
    ids, pixels = whole_row(pool, parts, row)
    given = {} if pixels is None else {"pixel_values": pixels}
    found = outputs(
        parts, stage.layers, input_ids=ids, attention_mask=torch.ones_like(ids), **given
    )
    spots = (ids[0] == parts.model.config.image_token_id).numpy()
    table, _ = pool
    first = np.flatnonzero(spots)[-1] + 1 if pixels is not None else table.image_at.max()
    means = []
    for layer in found:
        means.append(layer[0][spots].mean(axis=0) if pixels is not None else 0 * layer[0][0])
        means.append(layer[0][first:].mean(axis=0))
    return joined(means)


# Against hooks.


def test_features_are_those_of_an_independent_hook(toy):
    stage = activations(toy)
    parts = tiny.shared_model(stage.proxy.start, toy.store)
    values = values_of(toy, stage)
    assert (values.shape, values.dtype) == ((ROWS, 2 * 2 * 32), np.float16)
    pool = opened(stage, toy)
    for row in range(ROWS):
        assert values[row] == pytest.approx(expected(stage, pool, parts, row), abs=HALF)


@pytest.mark.parametrize("kind", ["stablelm", "phi"])
def test_features_of_other_models_are_those_of_a_hook(toy, few, tmp_path_factory, kind):
    start = tiny.shared_start(tiny.KINDS[kind], tmp_path_factory)
    proxy = Proxy(few, start, RECIPE, tiny.PHI, cache_vision=False)
    stage = Activations(proxy, step=0, layers=(1, 2))
    parts = tiny.shared_model(start, toy.store)
    values = values_of(toy, stage)
    pool = opened(stage, toy)
    for row in range(len(FEW)):
        assert values[row] == pytest.approx(expected(stage, pool, parts, row), abs=HALF)


def test_a_model_that_sees_tiles_counts_the_tokens_that_hold_features(toy, few, tmp_path_factory):
    start = tiny.shared_start(tiny.KINDS["idefics3"], tmp_path_factory)
    proxy = Proxy(few, start, RECIPE, tiny.SMOL, cache_vision=False)
    stage = Activations(proxy, step=0, layers=(1,))
    values = values_of(toy, stage)
    assert values.shape == (len(FEW), 2 * 48)
    assert np.isfinite(values).all()
    table = proxy.tokens().open(toy.store)
    assert len(set(table.image_lengths.tolist())) > 2  # pictures of several sizes
    lone = Activations(proxy, step=0, layers=(1,), batch_tokens=1)
    assert values_of(toy, lone) == pytest.approx(values, abs=HALF)


def test_rows_have_length_one_and_text_only_rows_half_of_it(toy):
    lengths = (values_of(toy, activations(toy)).astype(np.float64) ** 2).sum(axis=1)
    textual = np.isin(np.arange(ROWS), TEXT_ONLY)
    assert lengths[~textual] == pytest.approx(1, abs=HALF)
    assert lengths[textual] == pytest.approx(0.5, abs=HALF)


def test_text_only_rows_have_no_image_half(toy):
    halves = values_of(toy, activations(toy)).reshape(ROWS, 2, 2, 32)
    assert (halves[list(TEXT_ONLY), :, 0] == 0).all()
    assert (np.abs(halves[list(TEXT_ONLY), :, 1]).sum(axis=2) > 0.5).all()
    language = activations(toy).language(halves.reshape(ROWS, -1))
    assert (language == halves[:, :, 1].reshape(ROWS, -1)).all()


def test_features_do_not_depend_on_batch_mates(toy):
    alone = values_of(toy, activations(toy, batch_tokens=1))
    together = values_of(toy, activations(toy, batch_tokens=10**6))
    assert together == pytest.approx(alone, abs=HALF)


def test_a_row_shorter_than_the_prompt_counts_its_last_token():
    """Templates whose prompt is merged with a question may give such rows."""
    windows = Windows(prompt=9, image=4, released=False)
    batch = batch_of([3, 11])
    language = windows.positions(batch, image_token=-7)[:, 1]
    assert language[0].tolist() == [False, False, True] + [False] * 8
    assert language[1].tolist() == [False] * 9 + [True, True]


def batch_of(lengths: list[int]):
    """Text-only rows of these lengths."""
    rows = [Tokens(np.full(n, 5, np.int32), np.ones(n, bool)) for n in lengths]
    return collate(range(len(rows)), rows, image_token=-7, pad=0, pictures=lambda _: {})


def test_the_image_half_of_a_row_with_several_is_over_all_of_them():
    """Text 0 and 1, image 2 to 4, text 5, image 6 to 8, text from 9 on."""
    image = np.full(3, FEATURE, np.int32)
    row = Tokens(np.full(6, 5, np.int32), np.ones(6, bool), (2, 3), (image, image))
    batch = collate([0], [row], image_token=-7, pad=0, pictures=lambda _: {})
    ((vision, language),) = Windows(prompt=9, image=4, released=False).positions(batch, -7)
    assert np.flatnonzero(vision).tolist() == [2, 3, 4, 6, 7, 8]
    assert np.flatnonzero(language).tolist() == [9, 10, 11]


# Mode released.


@pytest.mark.parametrize("kind", ["activations", "trajectories"])
def test_mode_released_refuses_rows_of_several_images_before_anything_is_fitted(
    toy, tmp_path, kind
):
    records = [record(row) for row in (0, 1)]
    records[1]["image"] = [picture_name(1), picture_name(2)]
    records[1]["conversations"][0]["value"] = "<image><image>Compare."
    (tmp_path / "pool.json").write_text(json.dumps(records))
    pool = Pool(str(tmp_path / "pool.json"), str(toy.folder / "images"))
    proxy = dataclasses.replace(toy.proxy, pool=pool)
    if kind == "activations":
        stage, other = Activations(proxy, mode="released"), Activations(proxy)
        instead = r"features\.activations\.mode=fixed"
    else:
        stage = Trajectories(proxy, Spectra(mode="released"))
        other, instead = Trajectories(proxy), r"features\.trajectories\.spectra\.mode=model"
    store = Store(str(tmp_path / "store"))
    message = rf"one image a row; 1 of 2 rows have several, the first is row 1; use {instead}, or"
    with pytest.raises(ValueError, match=message):
        check_all(stage, store)
    check_all(other, store)
    assert not (tmp_path / "store").exists()


def test_released_windows_of_text_only_rows_by_hand():
    """A prompt of 2 tokens and an image of 3: image 2 to 4, language from 5 on, pads or not."""
    windows = Windows(prompt=2, image=3, released=True)
    vision, language = windows.positions(batch_of([4, 10]), image_token=-7).unbind(dim=1)
    assert np.flatnonzero(vision[0]).tolist() == [2, 3, 4]  # 4 is a pad
    assert np.flatnonzero(language[0]).tolist() == [5, 6]  # two tokens behind the prompt: pads
    assert np.flatnonzero(vision[1]).tolist() == [2, 3, 4]
    assert np.flatnonzero(language[1]).tolist() == [5, 6, 7, 8, 9]  # eight, of which five are there
    vision, language = windows.positions(batch_of([4, 3]), image_token=-7).unbind(dim=1)
    assert vision.sum(dim=1).tolist() == [2, 2]
    assert language.sum() == 0


@torch.no_grad()
def test_released_text_only_rows_follow_from_their_batch(toy):
    """A batch by hand: pads embedded as zeros, means over windows of its width."""
    stage = activations(toy, mode="released", batch=5)
    parts = tiny.shared_model(stage.proxy.start, toy.store)
    table, _ = pool = opened(stage, toy)
    values = values_of(toy, stage)
    order = np.random.RandomState(42).permutation(ROWS)
    prompt, image = int(table.image_at.max()), parts.model.config.image_seq_length
    seen = 0
    for rows in [order[start : start + 5] for start in range(0, ROWS, 5)]:
        width = int(table.lengths[rows].max())
        for row in sorted(set(rows.tolist()) & set(TEXT_ONLY)):
            ids, _ = whole_row(pool, parts, row)
            inputs = torch.zeros(1, width, 32)
            inputs[:, : ids.shape[1]] = parts.model.get_input_embeddings()(ids)
            mask = (torch.arange(width) < ids.shape[1]).long()[None]
            found = outputs(parts, stage.layers, inputs_embeds=inputs, attention_mask=mask)
            means = []
            for layer in found:
                behind = layer[0, prompt + image :][: ids.shape[1] - prompt]
                means.append(layer[0, prompt : prompt + image].mean(axis=0))
                means.append(behind.mean(axis=0) if len(behind) else 0 * layer[0, 0])
            assert values[row] == pytest.approx(joined(means), abs=HALF)
            seen += 1
    assert seen == len(TEXT_ONLY)


def test_released_image_rows_are_those_of_mode_fixed(toy):
    rows = [row for row in range(ROWS) if row not in TEXT_ONLY]
    fixed, released = (
        values_of(toy, activations(toy, mode=mode)) for mode in ("fixed", "released")
    )
    assert released[rows] == pytest.approx(fixed[rows], abs=HALF)
    assert np.abs(released[list(TEXT_ONLY)] - fixed[list(TEXT_ONLY)]).max() > 0.05


def test_in_mode_released_batch_mates_matter_to_text_only_rows(toy):
    one, other = (
        values_of(toy, activations(toy, mode="released", batch=batch)) for batch in (1, 3)
    )
    rows = [row for row in range(ROWS) if row not in TEXT_ONLY]
    assert one[rows] == pytest.approx(other[rows], abs=HALF)
    assert np.abs(one[list(TEXT_ONLY)] - other[list(TEXT_ONLY)]).max() > 0.01


def test_the_released_order_is_cut_into_chunks_and_batches(toy):
    stage = activations(toy, mode="released", batch=4, chunks=3)
    batches = stage.batches(stage.proxy.tokens().open(toy.store))
    assert [len(rows) for rows in batches] == [4, 4, 4, 2, 4, 4, 4, 2, 4, 4, 4, 1]
    np.random.seed(42)  # as the release draws it
    assert np.concatenate(batches).tolist() == np.random.permutation(ROWS).tolist()


@pytest.mark.parametrize("chunks", [1, 2, 4, 9, 41, 50])
def test_chunks_are_those_of_the_release(toy, chunks):
    """LLaVA's `split_list`: pieces of ceil(n / k) rows, and what is left."""
    stage = activations(toy, mode="released", batch=50, chunks=chunks)
    sizes, left, size = [], ROWS, -(-ROWS // chunks)
    while left > 0:
        sizes.append(min(size, left))
        left -= size
    batches = stage.batches(stage.proxy.tokens().open(toy.store))
    assert [len(rows) for rows in batches] == sizes
    assert sizes != [len(part) for part in np.array_split(range(ROWS), chunks)] or chunks in (
        1, 2, 41,
    )  # fmt: skip
    described = describe(activations(toy, mode="fixed", batch=50, chunks=chunks))
    assert "chunk_rows" not in described
    assert ("chunk_rows" in describe(stage)) == (chunks > 1)


# What runs, and what is refused.


def test_the_forward_ends_behind_the_last_layer(toy):
    parts = load(toy.store.get(toy.start))
    language = language_model(parts.model)
    runs = []
    language.layers[0].mlp.register_forward_hook(lambda *_: runs.append("mlp 0"))
    language.layers[1].mlp.register_forward_hook(lambda *_: runs.append("mlp 1"))
    seen = Means(torch.ones(2, 2, 5, dtype=torch.bool))
    with torch.no_grad(), means_of(language, [0, 1], seen):
        language(inputs_embeds=torch.randn(2, 5, 32))
    assert runs == ["mlp 0"]
    assert not language.layers[0].self_attn.o_proj._forward_hooks
    with (
        pytest.raises(RuntimeError, match=r"layers \[0, 1\] were not run"),
        means_of(language, [0, 1], Means(torch.ones(2, 2, 5, dtype=torch.bool))),
    ):
        pass


def test_a_layer_beyond_the_model_is_refused(toy):
    told = r"layer 7: the model has layers 0 to 1; set features\.activations\.layers"
    with pytest.raises(ValueError, match=told):
        toy.store.get(activations(toy, layers=(1, 7)))


def test_choices_that_are_none_are_refused(toy):
    with pytest.raises(
        ValueError, match="activations mode 'paper': expected one of fixed, released"
    ):
        activations(toy, mode="paper")
    with pytest.raises(ValueError, match=r"features\.activations\.layers is empty"):
        activations(toy, layers=())
    told = r"features\.activations\.step=5: the proxy keeps steps \[1, 4, 6\]"
    with pytest.raises(ValueError, match=told):
        toy.store.get(Activations(toy.proxy, step=5, layers=(0,)))


def test_the_last_step_of_the_fit_is_the_default(toy):
    last, start = (
        values_of(toy, Activations(toy.proxy, step=step, layers=(0, 1))) for step in (None, 0)
    )
    named = values_of(toy, Activations(toy.proxy, step=6, layers=(0, 1)))
    assert (last == named).all()
    assert np.abs(last - start).max() > 0.01


def broken(monkeypatch, stage: Activations, toy: Toy) -> None:
    """A model whose second layer gives NaN on everything."""
    from xmas.training import model_on_pool as module

    original = module.load

    def spoiled(folder: Path) -> LoadedModel:
        parts = original(folder)
        with torch.no_grad():
            language_model(parts.model).layers[1].self_attn.o_proj.weight.fill_(np.nan)
        return parts

    monkeypatch.setattr(module, "load", spoiled)


def test_what_is_not_finite_stops_mode_fixed_and_is_zero_in_mode_released(
    toy, monkeypatch, tmp_path
):
    toy.store.get(activations(toy))
    broken(monkeypatch, activations(toy), toy)
    store = Store(str(tmp_path))
    for kind in Path(toy.store.root).iterdir():
        if kind.is_dir() and kind.name != "activations":
            (tmp_path / kind.name).symlink_to(kind)
    with pytest.raises(
        FloatingPointError, match=r"activations: rows \[\d+.*\] are not finite; set"
    ):
        store.get(activations(toy))
    values = np.load(store.get(activations(toy, mode="released")) / "values.npy")
    halves = values.reshape(ROWS, 2, 2, 32)
    assert (halves[:, 1] == 0).all()
    assert np.abs(halves[:, 0]).max() > 0.1


def test_half_precision_is_near(toy):
    exact = values_of(toy, activations(toy))
    coarse = values_of(toy, activations(toy, weights="bfloat16"))
    assert 0 < np.abs(coarse.astype(np.float32) - exact).max() < 0.1
