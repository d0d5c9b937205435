"""Rows of several images: transformers' own attention, whatever runs next to a row."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_engine import close, randomised
from tiny_families import TINY
from toy import Toy, picture_name, turns

from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.attention.spans import Spans
from xmas.data.pool import Pool
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.tokens import Tokenised
from xmas.models.families import family_of
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import embed, language_model, tower_features

THREE = "<image> and <image>, then <image>: which?"
ROWS = (  # pictures, texts
    ((1, 2, 3), (THREE, "the last")),
    ((1, 2, 4), (THREE, "the first, of course")),  # two pictures in common, text between them
    ((1, 2, 4), (THREE, "none")),
    ((1,), ("<image>\nWhich?", "a box")),
    ((5, 6), ("<image><image>\nCompare.", "they differ", "And?", "so they do")),
    ((5,), ("<image>\nCompare.", "it is alone")),
    ((7, 8, 7), ("<image>\nFirst?", "a disc", "And <image> or <image>", "a bar")),
    ((7, 9), ("<image>\nFirst?", "a disc", "Then: <image>", "a box")),
    ((), ("Hello?", "hi")),
)
ALONE = {"batch_tokens": 1, "shared_from": 1.0}
TOGETHER = {"batch_tokens": 10**6, "shared_from": 0.0}


@pytest.fixture(scope="module")
def pool(toy: Toy, tmp_path_factory) -> Pool:
    return pool_in(tmp_path_factory.mktemp("several"), toy)


def pool_in(folder: Path, toy: Toy) -> Pool:
    """`ROWS`, over the toy's pictures."""
    place = folder / "pool.json"
    records = [
        {"image": [picture_name(number) for number in pictures], "conversations": turns(*texts)}
        for pictures, texts in ROWS
    ]
    place.write_text(json.dumps(records))
    return Pool(str(place), str(toy.folder / "images"))


@pytest.fixture(scope="module", params=["llava_onevision", "idefics3", "qwen2_5_vl", "qwen3_vl"])
def held(request, toy: Toy, pool: Pool, tmp_path_factory) -> SimpleNamespace:
    """LLaVA-OneVision's, SmolVLM's and Qwen's architectures with peaked attention, and the pool's
    tokens.
    """
    family = TINY[request.param]
    start = tiny.shared_start(family.write, tmp_path_factory)
    parts = tiny.own_model(start, toy.store)
    tokens = Tokenised(pool, start.tokenizer, family.template, start.image, 1024)
    rows = pool.open(toy.store)
    tower = parts.model.get_submodule(family_of(parts.model.config).tower)
    frozen = {name: weight.clone() for name, weight in tower.state_dict().items()}
    randomised(parts.model)
    tower.load_state_dict(frozen)
    pictures = tiny.Remembered(FromFiles(rows, parts.processor))
    material = Material(tokens.open(toy.store), pictures, rows.shown, parts.tokenizer.pad_token_id)
    return SimpleNamespace(model=parts.model, material=material, rows=rows, maps={})


def scanned(
    held: SimpleNamespace, *, batch_tokens: int, shared_from: float, **spectra
) -> np.ndarray:
    metric = Spectra(batch_tokens=batch_tokens, **spectra)
    return Scan(held.model, held.material, metric, Running(shared_from=shared_from)).once("test")


def whole_pass(held: SimpleNamespace, batch: Batch) -> Callable[..., Any]:
    """A pass over a batch: of the language model, or where that takes more than embeddings of the
    model's own forward.
    """
    config, pictures = held.model.config, batch.pictures
    if "qwen" not in config.model_type:
        features = tower_features(held.model, pictures["pixels"])
        embedded = embed(held.model, batch.ids, features, pictures.get("sizes"))
        return functools.partial(language_model(held.model), inputs_embeds=embedded)
    held.model.model.rope_deltas = None  # of an earlier call
    return functools.partial(
        held.model,
        input_ids=batch.ids,
        pixel_values=pictures["pixels"],
        image_grid_thw=torch.nn.functional.pad(
            pictures["sizes"] // config.vision_config.patch_size, (1, 0), value=1
        ),
        mm_token_type_ids=(batch.ids == config.image_token_id).int(),
    )


@torch.no_grad()
def eager_map(held: SimpleNamespace, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The row's ids and transformers' own map of it alone, mean over heads, summed over layers."""
    if row in held.maps:
        return held.maps[row]
    table, token = held.material.table, held.model.config.image_token_id
    loader = Loader(
        table, [np.array([row])], image_token=token, pad=held.material.pad,
        pictures=held.material.pictures,
    )  # fmt: skip
    batch = next(iter(loader))
    language = language_model(held.model)
    usual = language.config._attn_implementation
    language.set_attn_implementation("eager")
    layers = whole_pass(held, batch)(
        attention_mask=batch.mask.long(), output_attentions=True
    ).attentions
    language.set_attn_implementation(usual)
    held.maps[row] = batch.ids[0], torch.stack(layers).double().mean(dim=2).sum(dim=0)[0]
    return held.maps[row]


def eager(held: SimpleNamespace, row: int, *, first_only: bool) -> np.ndarray:
    """Singular values by transformers' own maps of the row alone: text after the first image
    against the features of all images, or of the first.
    """
    ids, total = eager_map(held, row)
    tokens = held.material.table[row]
    spans, at = [], 0  # of the images, in the whole row
    for place, image in zip(tokens.places, tokens.images, strict=True):
        spans.append(range(place + at, place + at + len(image)))
        at += len(image)
    inside = {position for span in spans for position in span}
    text = [at for at in range(spans[0].start, len(tokens)) if at not in inside]
    spots = np.flatnonzero(ids == held.model.config.image_token_id)
    spots = spots[spots < spans[0].stop] if first_only else spots
    return torch.linalg.svdvals(total[text][:, spots])[:5].numpy()


@torch.no_grad()
def test_several_images_of_a_row_are_one_tile_each_for_onevision(held):
    """transformers' own features of three images of a sample, of two, and of one."""
    if held.model.config.model_type != "llava_onevision":
        pytest.skip("other families have no tiles, or cut every image into them")
    rows, table, token = [0, 5, 4], held.material.table, held.model.config.image_token_id
    inputs = held.material.pictures(rows)
    counts = held.rows.shown.counts[rows].tolist()
    assert len(inputs["sizes"]) == sum(counts) == 6
    alone = held.material.pictures([5])
    tiles = [tile[None] for tile in inputs["pixels"][:3]]
    tiles += [alone["pixels"], *(tile[None] for tile in inputs["pixels"][-2:])]
    most = max(map(len, tiles))
    padded = torch.stack(
        [torch.cat([tile, tile.new_zeros(most - len(tile), *tile.shape[1:])]) for tile in tiles]
    )
    sizes = torch.where(inputs["sizes"] == 0, torch.tensor([[20, 30]]), inputs["sizes"])
    theirs = held.model.model.get_image_features(
        padded, sizes, batch_num_images=torch.tensor(counts)
    ).pooler_output
    ids = torch.from_numpy(np.concatenate([table[row].whole(token) for row in rows]))[None]
    features = tower_features(held.model, inputs["pixels"])
    ours = embed(held.model, ids, features, inputs["sizes"])[0][ids[0] == token]
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [ALONE, TOGETHER], ids=["alone", "together"])
@pytest.mark.parametrize("images", ["all", "first"])
def test_values_are_those_of_eager_attention(held, options, images):
    values = scanned(held, images=images, **options)
    for row, (pictures, _) in enumerate(ROWS):
        if pictures:
            expected = eager(held, row, first_only=images == "first")
            count = min(len(expected), 5)
            np.testing.assert_allclose(
                values[row][:count], expected, rtol=2e-4, atol=2e-6 * expected[0]
            )
        else:
            assert np.isnan(values[row]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"rows": "answer_only"},
        {"combine": "concat_text"},
        {"combine": "concat_vision"},
        {"normalise": "center_rows"},
    ],
    ids=str,
)
def test_a_shared_prefix_changes_nothing(held, options):
    close(scanned(held, **TOGETHER, **options), scanned(held, **ALONE, **options), 1e-4)


def test_rows_share_all_pictures_that_they_have_in_common(held):
    spans = Spans.of(held.material.table, held.rows.shown)
    assert spans.images.tolist() == [2, 3, 3, 1, 1, 1, 1, 1, 0]
    assert spans.prefix[1] == spans.prefix[2]
    assert spans.prefix[6] == spans.prefix[7]
    lengths = held.material.table.lengths
    assert (spans.up_to_image_end + spans.text == lengths).all()


def test_mode_released_names_rows_that_it_does_not_know(held):
    with pytest.raises(ValueError, match=r"one image a row; 6 of 9 rows have several.*row 0"):
        Scan(held.model, held.material, Spectra(mode="released"), Running())


def test_images_of_the_metric_are_in_its_key_only_where_they_are_not_all():
    assert "images" not in Spectra().corrections()
    assert Spectra(images="first").corrections()["images"] == "first"
