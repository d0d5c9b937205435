"""Passes over a pool have the precision of the fit, and their keys say which it was."""

import dataclasses

import numpy as np
import pytest
from toy import HARDWARE, Toy

from xmas.features.activations import Activations
from xmas.features.answer_layers import AnswerLayers
from xmas.features.last_layer import LastLayer
from xmas.features.losses.answer_scorer import ScorerSettings
from xmas.features.losses.answers import Answers
from xmas.features.shallow import Shallow
from xmas.models.vision_cache import FromCache, VisionFeatures
from xmas.store import describe, key
from xmas.training.starts.unfitted import Unfitted

STAGES = {
    "activations": lambda model, weights: Activations(model, 0, (0, 1), weights=weights),
    "last_layer": lambda model, weights: LastLayer(model, 0, weights=weights),
    "shallow": lambda model, weights: Shallow(model, weights=weights),
    "answer_layers": lambda model, weights: AnswerLayers(model, weights=weights),
    "answers": lambda model, weights: Answers(model, ScorerSettings(weights=weights)),
}
HALVES = {"bf16-mixed": "bfloat16", "bf16-true": "bfloat16", "16-mixed": "float16"}


def fitted_in(toy: Toy, precision: str, **options):
    """The toy's proxy, its fit in another precision; nothing is computed."""
    recipe = dataclasses.replace(toy.proxy.recipe, precision=precision)
    return dataclasses.replace(toy.proxy, recipe=recipe, **options)


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize("precision", HALVES)
def test_without_a_setting_a_pass_has_the_16_bits_of_the_fit(toy, kind, precision):
    of, half = STAGES[kind], HALVES[precision]
    model = fitted_in(toy, precision)
    assert of(model, None).precision == half
    assert key(of(model, None)) == key(of(model, half))  # however it was said
    assert key(of(model, None)) != key(of(model, "float32"))


@pytest.mark.parametrize("kind", STAGES)
def test_a_pass_after_a_fit_in_float32_is_in_float32(toy, kind):
    of = STAGES[kind]
    assert of(toy.proxy, None).precision == "float32"
    assert key(of(toy.proxy, None)) == key(of(toy.proxy, "float32"))
    assert key(of(toy.proxy, "bfloat16")) != key(of(toy.proxy, None))


def test_the_device_is_in_no_key(toy):
    for kind, of in STAGES.items():
        for precision in ("32-true", "bf16-mixed"):
            keys = {
                key(of(fitted_in(toy, precision, hardware=hardware), None))
                for hardware in (HARDWARE, dataclasses.replace(HARDWARE, accelerator="gpu"))
            }
            assert len(keys) == 1, kind


def test_a_start_point_that_is_not_fitted_has_the_precision_of_its_weights(toy):
    @dataclasses.dataclass(frozen=True)
    class Half(type(toy.start)):
        dtype: str = "float16"

    assert Unfitted(toy.pool, toy.start).feature_precision == "float32"
    half = Half(**{field.name: getattr(toy.start, field.name)
                   for field in dataclasses.fields(toy.start)})  # fmt: skip
    assert Answers(Unfitted(toy.pool, half)).precision == "float16"


# Cached features of the tower.


def test_cached_features_of_a_fit_in_16_bits_have_half_the_size(toy):
    whole = toy.vision
    half = fitted_in(toy, "bf16-mixed").image_stage()
    assert isinstance(half, VisionFeatures)
    assert half.accelerator == "cpu"
    exact, rounded = (
        np.load(toy.store.get(stage) / "values.npy", mmap_mode="r") for stage in (whole, half)
    )
    assert (exact.dtype, rounded.dtype) == (np.float32, np.float16)
    assert exact.shape == rounded.shape
    apart = np.abs(exact - rounded.astype(np.float32)).max()
    assert 0 < apart < 0.1 * np.abs(exact).max()
    pictures = half.pictures(toy.store)
    assert isinstance(pictures, FromCache)
    assert pictures([0])["features"].dtype.itemsize == 2


def test_the_key_says_that_cached_features_have_16_bits(toy):
    assert fitted_in(toy, "32-true").image_stage() == dataclasses.replace(
        toy.vision, accelerator="cpu"
    )
    assert "vision" not in describe(toy.proxy)
    half = fitted_in(toy, "bf16-mixed")
    assert describe(half)["vision"] == "bfloat16"
    assert "vision" not in describe(dataclasses.replace(half, cache_vision=False))
    assert key(half.image_stage()) != key(toy.vision)
    target = dataclasses.replace(
        toy.target(), recipe=dataclasses.replace(toy.target().recipe, precision="bf16-mixed")
    )
    assert describe(target)["vision"] == "bfloat16"
    assert describe(target)["buffers"] == "float32"


def test_a_killed_cache_continues_after_its_last_part(toy, tmp_path, monkeypatch):
    from xmas.models import vision_cache

    monkeypatch.setattr(vision_cache, "_PART_BYTES", 1)  # a part is a batch
    stage = dataclasses.replace(toy.vision, batch=4)
    ran = []
    original = vision_cache.tower_features

    def dying(model, pixels, *rest):
        ran.append(len(pixels))
        if len(ran) == 4:  # the first is a blank image
            raise KeyboardInterrupt
        return original(model, pixels, *rest)

    monkeypatch.setattr(vision_cache, "tower_features", dying)
    with pytest.raises(KeyboardInterrupt):
        stage.compute(toy.store, tmp_path)
    assert not (tmp_path / "values.npy").exists()
    stage.compute(toy.store, tmp_path)
    whole = np.load(toy.store.get(toy.vision) / "values.npy")
    assert ran[:4] == [1, 4, 4, 4]
    assert sum(ran[5:]) == len(whole) - 8
    np.testing.assert_allclose(np.load(tmp_path / "values.npy"), whole, rtol=1e-5, atol=1e-6)


def test_pixels_that_threads_decode_ahead_are_those_of_the_batches():
    import torch

    from xmas.models.vision_cache import _ahead

    batches = [range(5), range(5, 7), range(7, 8)]

    def decode(images: range) -> torch.Tensor:
        return torch.tensor(images)[:, None]

    for threads in (0, 3):
        batch_pixels = [pixels.flatten().tolist() for pixels in _ahead(decode, batches, threads)]
        assert batch_pixels == [[0, 1, 2, 3, 4], [5, 6], [7]]
    assert list(_ahead(decode, [], 3)) == []
