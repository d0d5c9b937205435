"""The engine: what a row is given does not depend on who runs beside it, or in what order."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tiny
import torch
from torch._dynamo.utils import counters
from toy import TEXT_ONLY as OF_TOY
from toy import Toy, record
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from xmas.attention import engine, metric
from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.attention.prefix import can_be_shared
from xmas.attention.released import Window
from xmas.attention.shards import Shards
from xmas.attention.spectrum import leading, lowrank
from xmas.attention.weights import Weights
from xmas.data.images.broken import read_picture
from xmas.data.pool import Pool
from xmas.models.chat.tokens import Tokenised
from xmas.models.vision_cache import FromFiles, VisionFeatures
from xmas.models.vlm import LoadedModel, embed
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.speed import configured

STEP = 7
ROWS = 29  # the toy's first: pictures of one row, of two and of three
TEXT_ONLY = tuple(row for row in OF_TOY if row < ROWS)


def randomised(model: torch.nn.Module, seed: int = 3) -> None:
    """Weights large enough that attention is far from uniform and heads differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.5, generator=generator)


@pytest.fixture(scope="module")
def parts(toy: Toy) -> LoadedModel:
    """The toy's start point with weights far from zero: attention then depends on everything."""
    found = tiny.own_model(toy.start, toy.store)
    randomised(found.model.model.language_model)
    return found


@pytest.fixture(scope="module")
def pool(toy: Toy, tmp_path_factory) -> Pool:
    place = tmp_path_factory.mktemp("first") / "pool.json"
    place.write_text(json.dumps([record(row) for row in range(ROWS)]))
    return Pool(str(place), str(toy.folder / "images"))


@pytest.fixture(scope="module")
def tokens(toy: Toy, pool: Pool) -> Tokenised:
    return dataclasses.replace(toy.proxy, pool=pool).tokens()


@pytest.fixture(scope="module")
def material(toy: Toy, pool: Pool, tokens: Tokenised, parts: LoadedModel) -> Material:
    return Material(
        tokens.open(toy.store),
        VisionFeatures(pool, toy.untrained).pictures(toy.store),
        pool.open().shown,
        pad=parts.tokenizer.pad_token_id,
    )


@pytest.fixture(scope="module")
def scanned(parts, material, tmp_path_factory):
    """Scans of the toy with given options, of the model as it is or of given snapshots."""

    def run(material=material, snapshots=None, model=parts.model, **options) -> np.ndarray:
        named = {field.name for field in dataclasses.fields(Running)}
        running = {name: options.pop(name) for name in list(options) if name in named}
        spectra = Spectra(**{"batch_tokens": 512} | options)
        scan = Scan(model, material, spectra, Running(**running))
        steps = tuple(snapshots or [STEP])
        place = tmp_path_factory.mktemp("scan")
        shards = Shards(place / "shards", scan.plan.bounds, steps, spectra.k)
        scan.run(shards, steps, snapshots.get if snapshots else None, label="test")
        found = shards.merge(place / "values.npy", scan.plan.order, ROWS)
        return found if snapshots else found[:, 0]

    return run


@pytest.fixture(scope="module")
def values(scanned) -> np.ndarray:
    """Of the model as it is; what other ways to scan are compared with."""
    return scanned()


@pytest.fixture(scope="module")
def half_values(scanned) -> np.ndarray:
    return scanned(weights="bfloat16")


def close(found: np.ndarray, wanted: np.ndarray, rtol: float) -> None:
    """Relative to a row's largest value: the smallest are differences of large sums."""
    scale = wanted[..., :1]
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=rtol, atol=rtol / 10)


def test_only_text_only_rows_have_no_values(values):
    assert values.shape == (ROWS, 5)
    assert tuple(np.flatnonzero(np.isnan(values).any(axis=1))) == TEXT_ONLY
    assert tuple(np.flatnonzero(np.isnan(values).all(axis=1))) == TEXT_ONLY
    image = np.delete(values, TEXT_ONLY, axis=0)
    assert (np.diff(image, axis=1) <= 0).all()  # in descending order
    assert (image[:, 0] > 0).all()


VARIANTS = [
    {"batch_tokens": 1},  # alone
    {"batch_tokens": 197},
    {"batch_tokens": 10**6},  # all in one batch, the short ones padded
    {"shared_from": 1.0, "batch_tokens": 1},  # never a shared prefix
    {"shared_from": 1.0, "batch_tokens": 211},
    {"shared_from": 1.0, "batch_tokens": 10**6},
    {"shared_from": 0.0, "batch_tokens": 1},  # always one, also of a picture shown once
    {"shared_from": 0.0, "batch_tokens": 10**6},
    {"shard_rows": 5},
    {"shard_rows": 13, "workers": 1},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_row_s_values_do_not_depend_on_its_batch_mates(scanned, values, options):
    assert np.nanstd(values[:, 0]) > 0.05
    close(scanned(**options), values, 1e-5)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_nor_do_they_in_half_precision(scanned, half_values, options):
    close(scanned(weights="bfloat16", **options), half_values, 1e-3)


def test_half_precision_has_other_values(values, half_values):
    assert half_values.dtype == np.float32
    assert not np.allclose(half_values, values, rtol=1e-3, equal_nan=True)


def test_prefixes_are_shared_in_the_toy(parts, material):
    """Otherwise the comparisons above would be of nothing."""
    for shared_from, wanted in ((0.0, {True}), (1.0, {False})):
        scan = Scan(parts.model, material, Spectra(), Running(shared_from=shared_from))
        units = [unit for at in range(scan.plan.shards) for unit in scan.plan.units(at)]
        assert {unit.shared for unit in units} == wanted
    assert max(np.bincount(unit.which).max() for unit in units) > 2


def test_a_scan_is_the_svd_of_transformers_attention(pool, parts, material, values):
    """Every row alone through the whole LLaVA, eager, in float64's SVD."""
    table, llava = material.table, parts.model
    examples = pool.open()
    token = llava.config.image_token_id
    language = llava.model.language_model
    before = language.config._attn_implementation
    language.set_attn_implementation("eager")
    for row in (0, 2, 8, 10, 28):
        held = table[row]
        ids = [*held.ids[: held.image_at], *[token] * 16, *held.ids[held.image_at :]]
        pixels = parts.processor([read_picture(examples, int(examples.shown.first[row]), row)])
        with torch.no_grad():
            found = llava(
                input_ids=torch.tensor([ids]), pixel_values=pixels, output_attentions=True
            ).attentions
        total = sum(one[0].double().mean(dim=0) for one in found).numpy()
        block = total[held.image_at + 16 :, held.image_at : held.image_at + 16]
        wanted = np.linalg.svd(block, compute_uv=False)[:5]
        np.testing.assert_allclose(values[row], wanted, rtol=1e-4, atol=1e-6)
    language.set_attn_implementation(before)


def test_layers_and_k_are_what_was_asked_for(scanned, values):
    first, second = scanned(layers=(0,)), scanned(layers=(1,))
    assert not np.allclose(first, second, equal_nan=True)
    assert np.allclose(scanned(layers=[0, 1]), values, equal_nan=True)
    assert np.array_equal(scanned(k=3), values[:, :3], equal_nan=True)
    wide = scanned(k=19)  # more than image columns
    np.testing.assert_allclose(wide[:, :5], values, rtol=1e-6)
    assert not np.delete(wide, TEXT_ONLY, axis=0)[:, 16:].any()


def snapshot(parts: LoadedModel, seed: int) -> dict[str, torch.Tensor]:
    """Other weights for everything behind the tower, as a proxy saves them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: one.detach() + 0.1 * torch.randn(one.shape, generator=generator)
        for name, one in parts.model.named_parameters()
        if "vision_tower" not in name
    }


def test_snapshots_in_one_pass_equal_those_one_by_one(toy, parts, scanned):
    snapshots = {step: snapshot(parts, step) for step in (2, 3, 5)}
    together = scanned(snapshots=snapshots)
    other = tiny.own_model(toy.start, toy.store).model
    for at, step in enumerate(snapshots):
        other.load_state_dict(snapshots[step], strict=False)
        assert np.array_equal(scanned(model=other), together[:, at], equal_nan=True)
    assert np.nanmax(abs(np.diff(together, axis=1))) > 0.01
    one = Weights(parts.model, torch.float32).bytes(snapshots[2])
    for resident in (1, 2 * one, 2 * one + 5):
        again = scanned(snapshots=snapshots, resident_bytes=resident)
        assert np.array_equal(again, together, equal_nan=True)


def test_the_solver_is_called_once_a_batch_for_all_snapshots(parts, scanned, monkeypatch):
    snapshots = {step: snapshot(parts, step) for step in (2, 3, 5)}
    rows: list[int] = []
    monkeypatch.setattr(
        metric, "leading", lambda matrices, k: rows.append(len(matrices)) or leading(matrices, k)
    )
    options = {"snapshots": snapshots, "batch_tokens": 211}
    together, sizes = scanned(**options), [rows.pop() for _ in list(rows)]
    monkeypatch.setattr(engine, "UNSOLVED_BYTES", 1)  # less than one snapshot
    apart = scanned(**options)
    assert len(sizes) > 3
    assert sorted(rows) == sorted(size // 3 for size in sizes for _ in snapshots)
    assert np.array_equal(together, apart, equal_nan=True)


def test_snapshots_go_in_groups_that_fit_the_memory(parts):
    snapshots = {step: snapshot(parts, step) for step in (2, 3, 5, 7, 11)}
    weights = Weights(parts.model, torch.bfloat16)
    language, projector = parts.model.model.language_model, parts.model.model.multi_modal_projector
    behind = [*language.parameters(), *projector.parameters()]
    one = weights.bytes(snapshots[2])
    assert one == 2 * sum(each.numel() for each in behind)
    shared = weights.frozen_bytes(snapshots[2])  # the tower's
    for budget, wanted in (
        (0, [[2], [3], [5], [7], [11]]),
        (shared + 2 * one - 1, [[2], [3], [5], [7], [11]]),
        (shared + 2 * one, [[2, 3], [5, 7], [11]]),
        (10**12, [[2, 3, 5, 7, 11]]),
        (None, [[2, 3, 5, 7, 11]]),
    ):
        assert weights.groups(tuple(snapshots), snapshots.get, budget) == wanted
    assert weights.groups([2], snapshots.get, 0) == [[2]]


def test_snapshots_with_other_weights_are_refused(parts, scanned):
    whole = snapshot(parts, 2)
    fewer = {name: one for name, one in whole.items() if "q_proj" not in name}
    with pytest.raises(ValueError, match=r"step 3: weights \['model\.language_model.*q_proj"):
        scanned(snapshots={2: whole, 3: fewer})
    foreign = whole | {"model.other": torch.ones(1)}
    with pytest.raises(ValueError, match=r"step 2: weights \['model\.other'\] are not"):
        scanned(snapshots={2: foreign})


def test_a_picture_is_read_once_for_all_rows_and_snapshots(pool, parts, material, scanned):
    asked = []

    class Counted(FromFiles):
        def __call__(self, rows):
            asked.extend(rows)
            return super().__call__(rows)

    counted = dataclasses.replace(material, pictures=Counted(pool.open(), parts.processor))
    snapshots = {step: snapshot(parts, step) for step in (2, 3)}
    values = scanned(material=counted, snapshots=snapshots, batch_tokens=200, shard_rows=5)
    picture = material.shown.first
    shown = picture[asked]
    assert sorted(shown) == sorted(set(picture[picture >= 0]))
    np.testing.assert_allclose(values, scanned(snapshots=snapshots), rtol=1e-4, atol=1e-6)


def test_a_scan_leaves_the_model_as_it_was(parts, scanned):
    modes = {name: at % 3 == 0 for at, (name, _) in enumerate(parts.model.named_modules())}
    for name, module in parts.model.named_modules():
        module.training = modes[name]
    before = {name: one.clone() for name, one in parts.model.state_dict().items()}
    places = {name: one.data_ptr() for name, one in parts.model.named_parameters()}
    random = torch.random.get_rng_state()
    scanned(snapshots={2: snapshot(parts, 2)})
    scanned(weights="bfloat16")
    assert {name: one.training for name, one in parts.model.named_modules()} == modes
    assert all(torch.equal(one, before[name]) for name, one in parts.model.state_dict().items())
    assert {name: one.data_ptr() for name, one in parts.model.named_parameters()} == places
    assert torch.equal(torch.random.get_rng_state(), random)
    parts.model.eval()


def test_a_scan_of_a_model_compiled_for_a_fit_traces_nothing(parts, scanned, values):
    blocks = parts.model.model.language_model.layers
    counters.clear()
    with configured(parts.model, Hardware(compile="eager", packing=True)):
        compiled = [block._compiled_call_impl for block in blocks]
        assert all(compiled)
        assert np.array_equal(scanned(), values, equal_nan=True)
        assert [block._compiled_call_impl for block in blocks] == compiled
    assert not counters["frames"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_raise_and_name_rows_and_layer(parts, scanned, value):
    weight = parts.model.model.language_model.layers[1].self_attn.q_proj.weight
    broken = {2: snapshot(parts, 2), 3: snapshot(parts, 3)}
    broken[3]["model.language_model.layers.1.self_attn.q_proj.weight"][0, 0] = value
    every = ", ".join(str(row) for row in range(ROWS) if row not in TEXT_ONLY)
    before = weight.detach().clone()
    with pytest.raises(
        FloatingPointError, match=rf"test, step 3: the attention of rows \[{every}\].*layers \[1, 1"
    ):
        scanned(snapshots=broken, shared_from=1.0, batch_tokens=10**6)
    assert torch.equal(weight, before)


def test_one_row_that_is_not_finite_is_named(parts, material, scanned):
    """A token that one row alone holds has an embedding that overflowed."""
    table = material.table
    row = 10
    others = {int(one) for other in range(ROWS) if other != row for one in table[other].ids}
    alone = next(int(one) for one in table[row].ids if int(one) not in others)
    weight = parts.model.get_input_embeddings().weight
    kept = weight[alone].detach().clone()
    weight.data[alone] = math.nan
    try:
        wanted = rf"rows \[{row}\] is not finite.*layers \[0\]"
        with pytest.raises(FloatingPointError, match=wanted):
            scanned(batch_tokens=10**6)
    finally:
        weight.data[alone] = kept


def test_a_row_without_a_text_row_that_counts_has_a_reason_and_no_value(
    toy, parts, tokens, material, scanned
):
    table = tokens.open(toy.store)
    labelled = table._labelled.copy()
    for row in (4, 28):
        labelled[table.offsets[row] : table.offsets[row + 1]] = False
    table._labelled = labelled
    without = dataclasses.replace(material, table=table)
    scan = Scan(parts.model, without, Spectra(rows="answer_only"), Running())
    wanted = np.zeros(ROWS, dtype=np.uint8)
    wanted[list(TEXT_ONLY)], wanted[[4, 28]] = 1, 2
    assert scan.reasons.tolist() == wanted.tolist()
    values = scanned(material=without, rows="answer_only")
    assert np.array_equal(np.isnan(values).any(axis=1), wanted > 0)
    whole = scanned(rows="answer_only")
    assert not np.isnan(whole[[4, 28]]).any()
    np.testing.assert_allclose(values[wanted == 0], whole[wanted == 0], rtol=1e-5, atol=1e-6)
    assert not np.isnan(scanned(material=without, rows="question_only")[[4, 28]]).any()
    close(scanned(rows="answer_only", shared_from=0.0, batch_tokens=61), whole, 1e-5)


def test_released_values_are_those_of_eight_consecutive_rows(parts, material, scanned):
    """Pads count there: a row's values change with its batch mates, and not with our shards."""
    window = {"mode": "released", "k": 3, "window": Window(27, 5, 19)}
    values = scanned(**window)
    assert tuple(np.flatnonzero(np.isnan(values).any(axis=1))) == TEXT_ONLY
    close(scanned(**window, shard_rows=11), values, 1e-6)
    assert np.array_equal(scanned(**window, batch_tokens=1), values, equal_nan=True)
    table = material.table
    scan = Scan(parts.model, material, Spectra(**window), Running(shard_rows=16))
    widths = [unit.width for at in range(scan.plan.shards) for unit in scan.plan.units(at)]
    ids = table.text_lengths + (table.image_at >= 0)  # a picture is one id before it is put in
    assert widths == [int(ids[at : at + 8].max()) + 15 for at in range(0, ROWS - 1, 8)]
    row = int(np.argmin(np.where(table.image_at >= 0, table.lengths, 10**6)))
    alone = dataclasses.replace(scan.plan, together=1)
    assert [unit.width for unit in alone.units(0) if row in unit.rows] == [table.lengths[row]]


@torch.no_grad()
def test_released_values_are_the_release_s_algebra_with_pads_as_text(parts, material, scanned):
    """The pool's first eight rows by hand, in float64; the text-only one sets no more than pads."""
    window = Window(27, 5, 19)
    values = scanned(mode="released", k=3, window=window)
    table, model = material.table, parts.model
    rows = [row for row in range(8) if row not in TEXT_ONLY]
    with_picture = table.text_lengths[:8] + (table.image_at[:8] >= 0)
    ids = torch.full((len(rows), int(with_picture.max()) + 15), material.pad)
    for line, row in enumerate(rows):
        held = table[row]
        whole = np.insert(held.ids, held.image_at, [model.config.image_token_id] * 16)
        ids[line, : len(whole)] = torch.from_numpy(whole)
    language = model.model.language_model
    states = language(
        inputs_embeds=embed(model, ids, material.pictures(rows)["features"]),
        output_hidden_states=True,
    ).hidden_states
    total = torch.zeros(())
    for layer, state in zip(language.layers, states, strict=False):
        seen = layer.input_layernorm(state).double()
        query, key = (
            seen @ one.weight.double().T for one in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        key = key.repeat_interleave(query.shape[-1] // key.shape[-1], dim=-1)  # features, not heads
        shares = (key @ query.mT / math.sqrt(query.shape[-1])).softmax(dim=-1)  # rows are keys
        total = total + shares[:, window.text_from :, window.image_from : window.image_to]
    wanted = lowrank(total.float(), 3).numpy()
    np.testing.assert_allclose(values[rows], wanted, rtol=1e-4)
    assert total.std() > 0.01
    real = torch.from_numpy(table.lengths[rows])
    assert (real < ids.shape[1]).sum() > 4  # or pads would not be tested


@pytest.mark.parametrize(
    ("config", "longest", "shared"),
    [
        (LlamaConfig(), 4000, True),
        (Qwen2Config(), 4000, True),
        (Qwen2Config(use_sliding_window=True, sliding_window=512, max_window_layers=1), 513, False),
        (Qwen2Config(use_sliding_window=True, sliding_window=512, max_window_layers=1), 500, True),
        (MistralConfig(sliding_window=512), 700, False),
        (MistralConfig(sliding_window=None), 700, True),
    ],
)
def test_models_that_look_back_through_a_window_run_whole(config, longest, shared):
    assert can_be_shared(config, longest) == shared
