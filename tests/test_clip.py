"""CLIP embeddings: what a line holds, what it does not depend on, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from given import given_clip
from PIL import Image
from toy import PICTURES, ROWS, TEXT_ONLY, Toy, turns
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from xmas.data.images.files import open_image
from xmas.data.images.pixels import SquareImages
from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.clip_model import Clip, PretrainedClip, fingerprint
from xmas.features.clip.clip_rows import ClipRows
from xmas.store import Store, key

ROUNDING = 2**-11  # of float16 below 1


@pytest.fixture
def stage(toy: Toy) -> ClipEmbeddings:
    return ClipEmbeddings(toy.pool, toy.towers, image_batch=4, text_batch=8)


def another_pool(folder: Path, toy: Toy, records: list[dict]) -> Pool:
    """Other rows about the toy's pictures."""
    (folder / "pool.json").write_text(json.dumps(records))
    return Pool(str(folder / "pool.json"), str(toy.folder / "images"))


def test_a_line_for_each_picture_and_each_turn(toy, stage):
    folder = toy.store.get(stage)
    examples = toy.pool.open(toy.store)
    rounds = [len(examples.conversation(row)) for row in range(ROWS)]
    found = {
        name: np.load(folder / f"{name}.npy")
        for name in ("image", "picture", "text", "offsets", "roles")
    }
    assert found["image"].shape == (PICTURES, 32)
    assert found["text"].shape == (2 * sum(rounds), 32)
    assert found["image"].dtype == found["text"].dtype == np.float16
    assert np.diff(found["offsets"]).tolist() == [2 * count for count in rounds]
    assert found["roles"].tolist() == [0, 1] * sum(rounds)
    assert found["picture"].tolist() == examples.shown.first.tolist()
    assert tuple(np.flatnonzero(found["picture"] < 0)) == TEXT_ONLY
    for name in ("image", "text"):
        norms = np.linalg.norm(found[name].astype(np.float32), axis=1)
        assert norms == pytest.approx(1, abs=1e-2)
    assert not list(folder.glob("*.done"))


def test_lines_are_what_the_model_gives_alone(toy, stage):
    """One picture or text at a time, through transformers' own model."""
    seen = stage.open(toy.store)
    place = toy.store.get(toy.towers)
    process = SquareImages.load(place)
    model = CLIPModel.from_pretrained(place).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    examples = toy.pool.open(toy.store)
    with torch.no_grad():
        for row in (0, 8, 14, 25):
            pixels = process([open_image(examples.images_of(row)[0])])
            image = model.get_image_features(pixel_values=pixels).pooler_output[0]
            found = seen.images(np.array([row]))[0]
            assert found == pytest.approx((image / image.norm()).numpy(), abs=ROUNDING)
            for turn, text in enumerate(
                text for both in examples.conversation(row) for text in both
            ):
                ids = tokenizer(text.strip())["input_ids"][:31] + [tokenizer.eos_token_id]
                own = model.get_text_features(input_ids=torch.tensor([ids])).pooler_output[0]
                line = seen.text[seen.offsets[row] + turn].astype(np.float32)
                assert line == pytest.approx((own / own.norm()).numpy(), abs=ROUNDING)


@pytest.mark.parametrize("batches", [(1, 1), (64, 256)], ids=["alone", "all together"])
def test_what_else_is_in_a_batch_does_not_matter(toy, stage, batches):
    other = dataclasses.replace(stage, image_batch=batches[0], text_batch=batches[1])
    one, two = (toy.store.get(each) for each in (stage, other))
    assert one != two
    for name in ("image", "text"):
        lines = (np.load(place / f"{name}.npy").astype(np.float32) for place in (one, two))
        assert np.abs(np.subtract(*lines)).max() <= ROUNDING


def test_the_same_pass_gives_the_same_bytes(toy, stage, tmp_path):
    again = Store(str(tmp_path))
    for kind in ("tokenizer", "two_tower"):
        toy.store.get(toy.towers)
        (tmp_path / kind).symlink_to(Path(toy.store.root) / kind)
    one, other = toy.store.get(stage), again.get(stage)
    for name in ("image", "text", "picture", "offsets", "roles"):
        assert (one / f"{name}.npy").read_bytes() == (other / f"{name}.npy").read_bytes()


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_an_interrupted_pass_goes_on_and_ends_the_same(toy, stage, tmp_path, monkeypatch, kind):
    """Stopped in the second block; blocks are made small enough for there to be one."""
    stage = dataclasses.replace(stage, text_block=11, image_block=1)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    toy.store.get(toy.towers)
    for root in (whole, halves):
        root.mkdir()
        for name in ("tokenizer", "two_tower"):
            (root / name).symlink_to(Path(toy.store.root) / name)
    calls: list[int] = []
    own = getattr(Clip, kind)

    def counted(self, held):
        calls.append(len(held))
        if len(calls) == limit:
            raise KeyboardInterrupt
        return own(self, held)

    monkeypatch.setattr(Clip, kind, counted)
    limit = 0
    expected = Store(str(whole)).get(stage)
    all_calls, limit = list(calls), len(calls) // 2 + 1
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        Store(str(halves)).get(stage)
    limit = 0
    calls.clear()
    found = Store(str(halves)).get(stage)
    assert 0 < len(calls) < len(all_calls)
    assert calls == all_calls[-len(calls) :]
    for name in ("image", "text"):
        assert (found / f"{name}.npy").read_bytes() == (expected / f"{name}.npy").read_bytes()


def test_long_texts_keep_their_beginning_and_the_end_mark(toy):
    clip = Clip(toy.store.get(toy.towers))
    ids = clip._tokens("a gold disc, quite flat " * 50)
    assert len(ids) == clip.length == 32
    assert (ids[0], ids[-1]) == (clip.tokenizer.bos_token_id, clip.tokenizer.eos_token_id)
    assert clip.tokenizer.decode(ids[1:9]).startswith("a gold disc")
    texts = ["a gold disc, quite flat " * 50, "a gold disc, quite flat " * 50 + "and navy"]
    assert np.array_equal(*clip.texts(texts))  # what is cut off is not seen


def test_a_text_is_read_at_its_end_mark(toy):
    """transformers reads at the highest id where the end mark is 2."""
    clip = Clip(toy.store.get(toy.towers))
    text = "a gold disc"
    ids = torch.tensor([clip._tokens(text)])
    hidden = clip.model.text_model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    end = int((ids[0] == clip.tokenizer.eos_token_id).nonzero()[0, 0])
    assert end == ids.shape[1] - 1 != int(ids.argmax())
    read = clip.model.text_projection(hidden[0, end]).numpy()
    assert clip.texts([text])[0] == pytest.approx(read / np.linalg.norm(read), abs=1e-6)


def test_words_are_no_marks(toy):
    clip = Clip(toy.store.get(toy.towers))
    ids = clip._tokens("a </s> b <pad>")
    assert ids.count(clip.tokenizer.eos_token_id) == 1
    assert clip.tokenizer.pad_token_id not in ids
    assert clip.tokenizer.decode(ids[1:-1]) == "a </s> b <pad>"


def test_a_turn_without_text_is_zeros_and_counts_for_nothing(toy, tmp_path):
    image = {"image": "top.png"}
    pool = another_pool(
        tmp_path,
        toy,
        [
            image | {"conversations": turns("<image>", "a crimson disc")},
            image | {"conversations": turns("<image>\nWhat is drawn?", "", "Sure?", "yes")},
        ],
    )
    seen = ClipEmbeddings(pool, toy.towers).open(toy.store)
    empty = ~seen.text.any(axis=1)
    assert empty.tolist() == [True, False, False, True, False, False]
    rows = np.arange(2)
    assert np.isnan(seen.texts(rows, "human")).all(axis=1).tolist() == [True, False]
    assert np.array_equal(seen.texts(rows, "gpt")[1].round(3), seen.text[5].astype("f").round(3))


def test_a_pool_of_texts_alone(toy, tmp_path):
    pool = another_pool(tmp_path, toy, [{"conversations": turns("Say it.", "It.")}])
    seen = ClipEmbeddings(pool, toy.towers).open(toy.store)
    assert seen.image.shape == (0, 32)
    assert np.isnan(seen.images(np.arange(1))).all()


def test_a_broken_image_is_named_with_its_row(toy, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(toy.folder / "images", images)
    (images / "top.png").write_bytes(b"no picture")
    pool = Pool(str(toy.folder / "pool.json"), str(images))
    with pytest.raises(PoolError, match=r"row 0: image .*top\.png"):
        ClipEmbeddings(pool, toy.towers, image_batch=5).compute(toy.store, fresh(tmp_path))


def fresh(folder: Path) -> Path:
    (folder / "out").mkdir()
    return folder / "out"


@pytest.mark.parametrize(
    ("weight", "named"),
    [("visual_projection", "the image of row 2 "), ("text_projection", "a turn of row ")],
)
def test_an_embedding_that_is_not_finite_is_refused_with_its_row(toy, tmp_path, weight, named):
    model = CLIPModel.from_pretrained(toy.store.get(toy.towers))
    getattr(model, weight).weight.data[3, 5] = torch.nan
    folder = tmp_path / "broken"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(toy.store.get(toy.towers)).save_pretrained(folder)
    stage = ClipEmbeddings(toy.pool, PretrainedClip(str(folder)))
    with pytest.raises(FloatingPointError, match=f"CLIP: {named}.*not finite; set features"):
        stage.compute(toy.store, fresh(tmp_path))


def test_without_a_clip_it_is_said_how_to_get_one(toy, tmp_path):
    with pytest.raises(ValueError, match="or a folder, clip=openai/clip-vit-base-patch32"):
        ClipEmbeddings(toy.pool, None).compute(toy.store, tmp_path)


# A CLIP by name or folder.


def test_a_folder_is_known_by_its_content(toy, tmp_path):
    place = toy.store.get(toy.towers)
    copy = shutil.copytree(place, tmp_path / "copy")
    one, other = PretrainedClip(str(place)), PretrainedClip(str(copy))
    assert key(one) == key(other)
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert key(one) != key(other)
    assert "path" not in json.dumps(one.identity())


def test_a_name_of_the_hub_is_known_by_its_revision():
    one, other = (PretrainedClip("openai/clip", revision) for revision in "ab")
    assert key(one) != key(other)


@pytest.mark.parametrize(("name", "revision"), [("openai/none", None), (".", "a" * 40)])
def test_a_name_without_a_revision_and_a_folder_with_one_are_refused(name, revision, tmp_path):
    with pytest.raises(ValueError, match=r"give a local folder without a revision, or"):
        PretrainedClip(name, revision).compute(Store(str(tmp_path)), tmp_path)


def test_a_copied_clip_gives_the_same_embeddings(toy, stage):
    copied = dataclasses.replace(stage, clip=PretrainedClip(str(toy.store.get(toy.towers))))
    one, other = (toy.store.get(each) for each in (stage, copied))
    assert one != other
    assert (one / "text.npy").read_bytes() == (other / "text.npy").read_bytes()
    assert (one / "image.npy").read_bytes() == (other / "image.npy").read_bytes()
    assert (one / "clip.json").read_bytes() == (other / "clip.json").read_bytes()


def test_a_clip_with_a_processor_cuts_the_centre_out(toy, tmp_path):
    place = shutil.copytree(toy.store.get(toy.towers), tmp_path / "clip")
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor.save_pretrained(place)
    wide = Image.new("RGB", (96, 32), (0, 0, 255))
    wide.paste((255, 0, 0), (32, 0, 64, 32))
    centre = wide.crop((32, 0, 64, 32))
    copy = toy.store.get(PretrainedClip(str(place)))
    cut, padded = Clip(copy), Clip(toy.store.get(toy.towers))
    assert np.allclose(*cut.images([cut.pixels(wide), cut.pixels(centre)]), atol=1e-6)
    assert not np.allclose(*padded.images([padded.pixels(wide), padded.pixels(centre)]), atol=1e-2)


def test_a_folder_of_towers_is_read_with_its_own_normalisation(toy, tmp_path):
    """Copied ones too; a CLIP without settings gets CLIP's mean and deviation."""
    place = toy.store.get(toy.towers)
    shutil.copytree(place, tmp_path / "bare")
    (tmp_path / "bare" / "images.json").unlink()
    copied = toy.store.get(PretrainedClip(str(place)))
    picture = Image.new("RGB", (32, 32), (255, 0, 127))
    white, black, middle = (torch.full((1, 32, 32), (level / 255 - 1) / 0.3)
                            for level in (255, 0, 127))  # fmt: skip
    for folder in (place, copied):
        pixels = Clip(folder).pixels(picture)
        torch.testing.assert_close(pixels, torch.cat([white, black, middle]), rtol=0, atol=1e-5)
    assert torch.equal(Clip(tmp_path / "bare").pixels(picture), SquareImages(32)([picture])[0])


def test_weights_tell_clips_apart(toy, tmp_path):
    place = toy.store.get(toy.towers)
    model = CLIPModel.from_pretrained(place)
    model.logit_scale.data += 1
    model.save_pretrained(tmp_path / "other")
    assert fingerprint(place) != fingerprint(tmp_path / "other")
    assert fingerprint(place) == fingerprint(shutil.copytree(place, tmp_path / "copy"))
    with pytest.raises(ValueError, match=r"has no model\*\.safetensors"):
        fingerprint(tmp_path)


def test_an_unknown_precision_is_refused(toy):
    with pytest.raises(ValueError, match="precision 'half': expected one of bfloat16, float16"):
        Clip(toy.store.get(toy.towers), "half")


def test_half_the_precision_is_close(toy):
    place = toy.store.get(toy.towers)
    texts = ["a gold disc", "Combien ? 🎨"]
    exact, near = (Clip(place, name).texts(texts) for name in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - near).max() < 0.05


# Rows: means of turns, side by side with the picture.

EAST, NORTH, WEST = [1, 0], [0, 1], [-1, 0]


@pytest.fixture
def by_hand(tmp_path):
    """Rows: picture 1, two rounds; text-only; picture 0; picture 0, turns that cancel out."""
    stage = given_clip(
        tmp_path / "clip",
        [EAST, NORTH],
        [1, -1, 0, 0],
        [[EAST, NORTH, EAST, NORTH], [EAST, EAST], [NORTH, EAST], [EAST, WEST]],
    )
    return stage, Store(str(tmp_path / "store"))


def test_texts_by_hand(by_hand):
    stage, store = by_hand
    seen, rows = stage.open(store), np.arange(4)
    half = 0.5**0.5
    assert seen.texts(rows, "human").tolist() == [EAST, EAST, NORTH, EAST]
    assert seen.texts(rows, "gpt").tolist() == [NORTH, EAST, EAST, WEST]
    everything = seen.texts(rows, "all")
    assert everything[:3] == pytest.approx(np.array([[half, half], EAST, [half, half]]))
    assert np.isnan(everything[3]).all()
    assert seen.texts(np.array([2, 0]), "human").tolist() == [NORTH, EAST]
    with pytest.raises(ValueError, match="said 'user': expected one of human, gpt, all"):
        seen.texts(rows, "user")


def test_images_by_hand(by_hand):
    stage, store = by_hand
    found = stage.open(store).images(np.array([0, 1, 2]))
    assert found[[0, 2]].tolist() == [NORTH, EAST]
    assert np.isnan(found[1]).all()


def test_rows_by_hand(by_hand):
    stage, store = by_hand
    half = 0.5**0.5
    nan = [np.nan, np.nan]
    wanted = {
        "image": [NORTH, nan, EAST, EAST],
        "text": [EAST, EAST, NORTH, EAST],
        "mean": [[half, half], nan, [half, half], EAST],
        "concat": [[0, half, half, 0], nan + nan, [half, 0, 0, half], [half, 0, half, 0]],
    }
    for combine, expected in wanted.items():
        values = np.load(store.get(ClipRows(stage, combine, "human")) / "values.npy")
        assert values.dtype == np.float16
        np.testing.assert_allclose(values, np.array(expected), atol=ROUNDING)
    with pytest.raises(ValueError, match="combine 'both': expected one of concat, mean"):
        store.get(ClipRows(stage, "both"))


def test_rows_do_not_depend_on_the_blocks_they_are_read_in(toy, stage):
    seen = stage.open(toy.store)
    whole = seen.texts(np.arange(ROWS), "all")
    parts = np.concatenate([seen.texts(rows, "all") for rows in seen.blocks(7)])
    assert [len(rows) for rows in seen.blocks(7)] == [7, 7, 7, 7, 7, 6]
    np.testing.assert_array_equal(whole, parts)
