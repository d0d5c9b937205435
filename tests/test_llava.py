"""The LLaVA's image step by hand equals transformers', and its loss equals transformers' loss."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from toy import SIZES, Toy

from xmas.data.images.files import image_size, open_image
from xmas.data.images.pixels import SquareImages
from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.models.answer_loss import answer_loss
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import IGNORED
from xmas.models.chat.layout import FEATURE
from xmas.models.chat.template import Template
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import (
    LoadedModel,
    check_finite,
    embed,
    hidden_states,
    load,
    tower_features,
    unwrap,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def parts(toy: Toy) -> LoadedModel:
    return load(toy.store.get(toy.start))


@pytest.fixture(scope="module")
def batches(toy: Toy, parts: LoadedModel) -> dict[str, Batch]:
    """Batches of the toy with pixels: of both kinds, of one kind, and of text only."""
    rows = {"mixed": [0, 3, 16, 2], "images": [8, 5, 10], "text": [40, 19]}
    loader = Loader(
        toy.proxy.tokens().open(toy.store),
        [np.array(numbers) for numbers in rows.values()],
        image_token=parts.model.config.image_token_index,
        pad=parts.tokenizer.pad_token_id,
        pictures=FromFiles(toy.pool.open(toy.store), parts.processor),
    )
    return dict(zip(rows, loader, strict=True))


@pytest.fixture(params=["mixed", "images", "text"])
def batch(request, batches) -> Batch:
    return batches[request.param]


def features(parts: LoadedModel, batch: Batch) -> torch.Tensor | None:
    return tower_features(parts.model, batch.pictures["pixels"]) if batch.pictures else None


@torch.no_grad()
def test_logits_equal_those_of_transformers(parts, batch):
    ours = parts.model.lm_head(
        hidden_states(parts.model, batch.ids, batch.mask, features(parts, batch))
    )
    theirs = parts.model(
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        pixel_values=batch.pictures.get("pixels"),
    ).logits
    assert torch.equal(ours[batch.mask], theirs[batch.mask])
    assert ours.std() > 0.1


@torch.no_grad()
def test_no_mask_reaches_attention_where_pads_end_the_rows(parts, batches):
    """With one, torch has no flash kernel; the tests next to this one show that values agree."""
    batch, masks = batches["mixed"], []
    assert not batch.mask.all()
    hook = parts.model.model.language_model.layers[0].register_forward_pre_hook(
        lambda _, __, options: masks.append(options["attention_mask"]), with_kwargs=True
    )
    hidden_states(parts.model, batch.ids, batch.mask, features(parts, batch))
    hook.remove()
    assert masks == [None]


@torch.no_grad()
def test_the_loss_equals_that_of_transformers(parts, batch):
    ours = answer_loss(parts.model, batch.ids, batch.mask, batch.labels, features(parts, batch))
    theirs = parts.model(
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        pixel_values=batch.pictures.get("pixels"),
        labels=batch.labels,
    ).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_gradients_equal_those_of_transformers(parts, batches):
    batch = batches["mixed"]
    parameters = [*parts.model.model.multi_modal_projector.parameters()]
    parameters += [*parts.model.model.language_model.layers.parameters()]
    ours = torch.autograd.grad(
        answer_loss(parts.model, batch.ids, batch.mask, batch.labels, features(parts, batch)),
        parameters,
    )
    theirs = torch.autograd.grad(
        parts.model(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            pixel_values=batch.pictures["pixels"],
            labels=batch.labels,
        ).loss,
        parameters,
    )
    assert len(ours) > 10
    for mine, transformers_own in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, transformers_own, rtol=1e-3, atol=1e-7)


@torch.no_grad()
def test_cached_features_equal_those_from_pixels(toy, parts, batches):
    batch = batches["mixed"]
    cached = toy.vision.pictures(toy.store)([0, 16, 2])["features"]
    torch.testing.assert_close(features(parts, batch), cached, rtol=1e-5, atol=1e-6)
    assert cached.shape == (3, 16, 32)


def test_a_pool_of_the_same_pictures_shares_their_features(toy, tmp_path):
    records = json.loads((toy.folder / "pool.json").read_text())
    others = [records[row] for row in (16, 3, 2, 16)]  # 3 has no image
    (tmp_path / "others.json").write_text(json.dumps(others))
    pool = Pool(str(tmp_path / "others.json"), str(toy.folder / "images"))
    shared = toy.vision.pictures(toy.store, of=pool)
    own = toy.vision.pictures(toy.store)
    assert torch.equal(shared([0, 2, 3])["features"], own([16, 2, 16])["features"])
    assert shared.shown.first[1] == -1

    others[2]["image"] = "nowhere.png"
    (tmp_path / "stranger.json").write_text(json.dumps(others))
    stranger = Pool(str(tmp_path / "stranger.json"), str(toy.folder / "images"))
    with pytest.raises(PoolError, match=r"stranger\.json: image 'nowhere\.png' is none of .*"):
        toy.vision.pictures(toy.store, of=stranger)


@torch.no_grad()
@pytest.mark.parametrize("layer", [-2, -1, 0])
def test_tower_features_are_the_configured_layer_without_the_class_token(
    parts, batches, layer, monkeypatch
):
    pixels = batches["images"].pictures["pixels"]
    layers = parts.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert len(layers) == 3  # embeddings and two layers
    monkeypatch.setattr(parts.model.config, "vision_feature_layer", layer)
    assert torch.equal(tower_features(parts.model, pixels), layers[layer][:, 1:])
    monkeypatch.setattr(parts.model.config, "vision_feature_select_strategy", "full")
    assert torch.equal(tower_features(parts.model, pixels), layers[layer])


def test_a_batch_of_text_keeps_the_projector_in_the_graph(parts, batches):
    """Or the ranks of a data-parallel fit would wait for a gradient that never comes."""
    batch = batches["text"]
    parts.model.zero_grad()
    answer_loss(parts.model, batch.ids, batch.mask, batch.labels, None).backward()
    projector = dict(parts.model.model.multi_modal_projector.named_parameters())
    assert len(projector) == 4
    for name, parameter in projector.items():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    assert parts.model.get_input_embeddings().weight.grad.any()
    parts.model.zero_grad()


def test_image_tokens_take_the_projected_features_in_the_order_of_the_rows(parts, batches):
    batch = batches["mixed"]
    embedded = embed(parts.model, batch.ids, features(parts, batch))
    spots = batch.ids == parts.model.config.image_token_index
    assert spots.sum(dim=1).tolist() == [16, 0, 16, 16]
    projected = parts.model.model.multi_modal_projector(features(parts, batch))
    assert torch.equal(embedded[spots], projected.flatten(0, 1))
    words = parts.model.get_input_embeddings()(batch.ids[~spots])
    assert torch.equal(embedded[~spots], words)


def test_a_mismatch_of_image_tokens_and_features_is_refused(parts, batches):
    batch = batches["mixed"]
    with pytest.raises(ValueError, match="48 image tokens for 32 image features"):
        embed(parts.model, batch.ids, features(parts, batch)[:2])
    with pytest.raises(ValueError, match="0 image tokens for 48 image features"):
        embed(parts.model, batches["text"].ids, features(parts, batch))


@pytest.mark.parametrize("name", ["mixed", "text"])
def test_a_batch_without_labels_has_no_loss_and_keeps_every_parameter_in_the_graph(
    parts, batches, name
):
    """Where transformers' own loss is not a number."""
    batch, trained = batches[name], list(parts.model.model.language_model.parameters())
    trained += [*parts.model.model.multi_modal_projector.parameters(), parts.model.lm_head.weight]
    nothing = torch.full_like(batch.labels, IGNORED)
    shown_features = features(parts, batch) if name == "mixed" else None
    parts.model.zero_grad()
    loss = answer_loss(parts.model, batch.ids, batch.mask, nothing, shown_features, logit_rows=2)
    assert loss.item() == 0
    loss.backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in trained)
    parts.model.zero_grad()


def test_the_loss_is_a_mean_over_the_tokens_of_the_batch_not_of_its_rows(parts, batches):
    batch = batches["images"]

    def loss(rows: list[int]) -> torch.Tensor:
        pixels = batch.pictures["pixels"][rows]
        image_features = tower_features(parts.model, pixels)
        return answer_loss(
            parts.model, batch.ids[rows], batch.mask[rows], batch.labels[rows], image_features
        ).detach()

    counts = (batch.labels != IGNORED).sum(dim=1)
    assert len(set(counts.tolist())) > 1
    row_losses = torch.stack([loss([row]) for row in range(3)])
    torch.testing.assert_close(loss([0, 1, 2]), (row_losses * counts).sum() / counts.sum())


def square_reference(image: Image.Image, size: int) -> np.ndarray:
    """LLaVA's way: `expand2square` with the mean colour, bicubic resize, CLIP's normalisation.

    In the arithmetic of CLIP's processor: scaled in float64, normalised in float32.
    """
    image = image.convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
    scaled = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(CLIP_MEAN, dtype=np.float32), np.array(CLIP_STD, dtype=np.float32)
    return ((scaled - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "mode"),
    [*((size, "RGB") for size in SIZES), ((31, 17), "L"), ((9, 28), "RGBA"), ((20, 21), "P")],
    ids=str,
)
def test_images_become_squares_as_llava_makes_them(size, mode):
    rng = np.random.default_rng(sum(size))
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    image = picture.convert(mode)
    square = SquareImages(24)([image])
    assert square.shape == (1, 3, 24, 24)
    assert square.dtype == torch.float32
    assert np.array_equal(square[0].numpy(), square_reference(image, 24))  # bit for bit


def test_the_ground_of_a_square_is_the_mean_colour():
    wide = Image.new("RGB", (40, 8), (255, 255, 255))
    square = SquareImages(40)([wide])[0].permute(1, 2, 0).numpy()
    colours = square * np.array(CLIP_STD) + np.array(CLIP_MEAN)
    assert np.allclose(colours[:16], np.array([122, 116, 104]) / 255, atol=1e-6)
    assert np.allclose(colours[16:24], 1, atol=1e-6)
    assert np.allclose(colours[24:], np.array([122, 116, 104]) / 255, atol=1e-6)


def test_a_normalisation_of_its_own_is_subtracted_and_divided_by(tmp_path):
    """And is kept in the folder, with what else was set; changes of the settings win over it."""
    process = SquareImages(24, "pad", mean=(1.0, 1.0, 0.5), std=(0.3, 0.5, 0.25))
    colours = Image.new("RGB", (24, 24), (255, 0, 255))
    pixels = process([colours])[0, :, 7, 11]
    torch.testing.assert_close(pixels, torch.tensor([0.0, -2.0, 2.0]))
    (folder := tmp_path / "own").mkdir()
    process.save(folder)
    again = SquareImages.load(folder)
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (9, 33, 3), dtype=np.uint8))
    assert torch.equal(again([picture]), process([picture]))
    assert not torch.equal(again([picture]), SquareImages(24)([picture]))
    cropped = SquareImages.load(folder, {"aspect": "crop"})
    expected = SquareImages(24, "crop", mean=(1.0, 1.0, 0.5), std=(0.3, 0.5, 0.25))
    assert torch.equal(cropped([picture]), expected([picture]))
    assert not torch.equal(cropped([picture]), process([picture]))


def test_with_a_white_mean_white_is_zero_and_the_ground_of_a_square():
    white = Image.new("RGB", (40, 8), "white")
    assert SquareImages(20, mean=(1, 1, 1), std=(0.3, 0.3, 0.3))([white]).abs().max() < 1e-6


def test_what_clip_s_normalisation_was_saved_with_stays_as_it_was(tmp_path):
    """`images.json` has size and aspect alone, as before there were others."""
    SquareImages(24, "crop").save(tmp_path)
    assert json.loads((tmp_path / "images.json").read_text()) == {"size": 24, "aspect": "crop"}
    assert not SquareImages.load(tmp_path).hub_normalisation


def test_images_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.png.*replace the file or remove its rows"):
        open_image(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"image .*text\.png: cannot identify"):
        open_image(tmp_path / "text.png")
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"image .*cut\.png"):
        open_image(tmp_path / "cut.png")
    with pytest.raises(ValueError, match=r"image \d+ bytes"):
        open_image(whole[: len(whole) // 2])
    assert open_image(whole).size == (64, 64)


def test_a_picture_s_size_is_read_from_its_head(tmp_path):
    Image.new("RGB", (61, 7), (1, 2, 3)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    assert image_size(tmp_path / "whole.png") == (7, 61)
    assert image_size(whole[: len(whole) // 2]) == (7, 61)  # height first, nothing decoded
    with pytest.raises(ValueError, match=r"image .*absent\.png: .*replace the file"):
        image_size(tmp_path / "absent.png")


def test_a_saved_model_is_loaded_as_it_was(toy, parts, batches):
    again = load(toy.store.get(toy.start))
    assert not again.model.training
    assert again.processor.size == 32
    before, after = parts.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_start_point_s_tower_is_the_one_that_was_trained(toy, parts):
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(toy.store.get(toy.towers)).vision_model.state_dict()
    tower = parts.model.model.vision_tower.state_dict()
    assert clip.keys() == tower.keys()
    assert all(torch.equal(clip[name], tower[name]) for name in clip)
    assert len(clip) > 20


def test_captions_train_the_projector_and_the_language_model(toy, parts):
    before = load(toy.store.get(toy.untrained)).model.state_dict()
    after = parts.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("vision_tower" in name for name in moved)
    for part in ("multi_modal_projector", "language_model.layers.0", "language_model.layers.1"):
        assert any(part in name for name in moved), part


def test_what_is_no_llava_is_refused(parts):
    assert unwrap(parts.model) is parts.model
    with pytest.raises(TypeError, match="Linear is no model of transformers"):
        unwrap(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"models of type llama are not among .*'llava'"):
        unwrap(parts.model.model.language_model)


def test_rows_that_are_not_finite_are_counted_and_the_first_is_named():
    values = np.ones((7, 3, 2))
    check_finite(values, "losses")
    values[4, 2, 0], values[6] = np.inf, np.nan
    with pytest.raises(
        FloatingPointError, match="losses: 2 rows are not finite, the first is row 4"
    ):
        check_finite(values, "losses")


def test_parts_give_an_encoder_and_their_image_s_tokens(parts, toy):
    encoder = parts.encoder(Template(), 77)
    assert encoder.max_length == 77
    assert encoder.tokenizer is parts.tokenizer
    assert parts.image_tokens(toy.pool.open().images_of(0)[0]).tolist() == [FEATURE] * 16
