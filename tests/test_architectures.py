"""The engine on every architecture: transformers' own attention, whatever runs beside a row.

Weights behind the tower have a standard deviation of 0.5, so that attention is peaked, and differs
from head to head and from layer to layer.
"""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from test_engine import close, randomised
from toy import Toy, record

from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.data.pool import Pool
from xmas.models.chat.batches import Loader
from xmas.models.chat.tokens import Tokenised
from xmas.models.families import family_of
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import embed, language_model, tower_features

TAKEN = (0, 13, 3, 5, 8, 21)  # of the toy's rows: two pictures are shown by two rows each
SCALED = "llama, another scaling"
EVERY = [*tiny.KINDS, *tiny.DECODERS, SCALED]
# the others' models are those of `test_every_family`, which has both tests in 32 bits for them
TILE_FREE = [kind for kind in EVERY if kind not in tiny.TEMPLATES]


@pytest.fixture(scope="module")
def pool(toy: Toy, tmp_path_factory) -> Pool:
    place = tmp_path_factory.mktemp("few") / "pool.json"
    place.write_text(json.dumps([record(row) for row in TAKEN]))
    return Pool(str(place), str(toy.folder / "images"))


@pytest.fixture(scope="module", params=EVERY)
def held(request, toy: Toy, pool: Pool, tmp_path_factory) -> SimpleNamespace:
    """A model as it is built, `mild`, the same with peaked attention, and the pool's tokens."""
    kind = "llama" if request.param == SCALED else request.param
    start = tiny.shared_start((tiny.KINDS | tiny.DECODERS)[kind], tmp_path_factory)
    parts = tiny.own_model(start, toy.store)
    template = tiny.TEMPLATES.get(kind, tiny.PHI)
    tokens = Tokenised(pool, start.tokenizer, template, start.image, 1024)
    examples = pool.open(toy.store)
    pictures = tiny.Remembered(FromFiles(examples, parts.processor))
    pad = parts.tokenizer.pad_token_id
    material = Material(tokens.open(toy.store), pictures, examples.shown, pad)
    mild, peaked = parts.model, copy.deepcopy(parts.model)
    tower = family_of(mild.config).tower
    randomised(peaked)
    peaked.get_submodule(tower).load_state_dict(mild.get_submodule(tower).state_dict())
    for model in (mild, peaked) if request.param == SCALED else ():
        for layer in language_model(model).layers:
            layer.self_attn.scaling = 0.07
    return SimpleNamespace(mild=mild, peaked=peaked, material=material, scans={})


def scanned(held: SimpleNamespace, model: str, *, batch_tokens: int, **running) -> np.ndarray:
    """The same scan once."""
    name = f"{model} {batch_tokens} {running}"
    if name not in held.scans:
        spectra, options = Spectra(batch_tokens=batch_tokens), Running(**running)
        held.scans[name] = Scan(getattr(held, model), held.material, spectra, options).once("test")
    return held.scans[name]


@torch.no_grad()
@pytest.mark.parametrize("held", TILE_FREE, indirect=True)
def test_values_are_those_of_eager_attention(held):
    """Each row alone, by transformers' own maps: image columns are the features' tokens only."""
    values = scanned(held, "peaked", batch_tokens=10**6)
    table, token = held.material.table, held.peaked.config.image_token_id
    language = language_model(held.peaked)
    before = language.config._attn_implementation
    language.set_attn_implementation("eager")
    spread = []
    for row in np.flatnonzero(table.image_at >= 0):
        loader = Loader(
            table, [np.array([row])], image_token=token, pad=held.material.pad,
            pictures=held.material.pictures,
        )  # fmt: skip
        batch = next(iter(loader))
        features = tower_features(held.peaked, batch.pictures["pixels"])
        layers = language(
            inputs_embeds=embed(held.peaked, batch.ids, features, batch.pictures.get("sizes")),
            attention_mask=batch.mask.long(),
            output_attentions=True,
        ).attentions
        assert len(layers) == 3
        total = torch.stack(layers).double().mean(dim=2).sum(dim=0)[0]
        spots = np.flatnonzero(batch.ids[0] == token)
        text = np.arange(table.image_at[row] + table.image_lengths[row], table.lengths[row])
        block = total[text][:, spots]
        spread.append(float(block.std() / block.mean()))
        expected = torch.linalg.svdvals(block)[:5].numpy()
        np.testing.assert_allclose(values[row], expected, rtol=1e-4, atol=1e-6 * expected[0])
    language.set_attn_implementation(before)
    assert min(spread) > 0.2  # far from uniform, or a wrong mask would pass


ALONE = {"batch_tokens": 1, "shared_from": 1.0}
BESIDE = {
    "padded": {"batch_tokens": 10**6, "shared_from": 1.0},
    "in buckets": {"batch_tokens": 300, "shared_from": 1.0},
    "prefixes shared": {"batch_tokens": 10**6, "shared_from": 0.0},
}


@pytest.mark.parametrize("held", TILE_FREE, indirect=True)
def test_a_row_s_values_do_not_depend_on_its_batch_mates(held):
    alone = scanned(held, "peaked", **ALONE)
    assert np.flatnonzero(np.isnan(alone).any(axis=1)).tolist() == [TAKEN.index(3)]
    for way in BESIDE.values():
        close(scanned(held, "peaked", **way), alone, 1e-5)


def test_nor_do_they_in_half_precision(held):
    alone = scanned(held, "mild", weights="bfloat16", **ALONE)
    for name in ("padded", "prefixes shared"):
        close(scanned(held, "mild", weights="bfloat16", **BESIDE[name]), alone, 1e-3)


def test_where_attention_is_peaked_half_precision_rounds_more_than_batch_mates_matter(held):
    """Sums in another order turn the last bit of a few numbers, which shows where it is peaked."""
    alone = scanned(held, "peaked", weights="bfloat16", **ALONE)
    exact = scanned(held, "peaked", **ALONE)
    rounding = np.nanmean(abs(alone - exact) / exact[:, :1])
    for name in ("padded", "prefixes shared"):
        scan_values = scanned(held, "peaked", weights="bfloat16", **BESIDE[name])
        assert np.nanmean(abs(scan_values - alone) / exact[:, :1]) < 0.2 * rounding
