"""Shallow features and signals at answers: of every family, against transformers' eager forward."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_engine import randomised
from test_every_family import own_inputs
from tiny import own_model, shared_start
from tiny_families import TINY, Tiny
from toy import HARDWARE, Toy, record

from xmas.data.pool import Pool
from xmas.features.answer_layers import AnswerLayers
from xmas.features.shallow import Shallow
from xmas.models.chat.batches import Batch, Loader
from xmas.models.chat.labels import IGNORED
from xmas.models.families import FAMILIES
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import language_model
from xmas.training.starts.unfitted import Unfitted

# Of the toy's: several rounds, one of them after words of the model; one round; no image.
ROWS = (8, 5, 10, 4, 3)
PICTURED = (0, 1, 2, 3)  # of `ROWS`
MASS = 0.7
LAYERS, NEURONS = (0, 2), (2, 3)


@pytest.fixture(scope="module")
def pool(toy: Toy, tmp_path_factory) -> Pool:
    place = tmp_path_factory.mktemp("few") / "pool.json"
    place.write_text(json.dumps([record(row) for row in ROWS]))
    return Pool(str(place), str(toy.folder / "images"))


@pytest.fixture(scope="module", params=sorted(FAMILIES.keys() & TINY))
def family(request, toy: Toy, pool: Pool, tmp_path_factory) -> SimpleNamespace:
    """A family's tiny model with peaked attention, and a batch of rows with images."""
    tiny: Tiny = TINY[request.param]
    if not tiny.scanned:
        pytest.skip("its attention is not read")
    start = shared_start(tiny.write, tmp_path_factory)
    model = Unfitted(pool, start, template=tiny.template, max_length=1024, hardware=HARDWARE)
    parts = own_model(start, toy.store)
    tower = parts.model.get_submodule(FAMILIES[request.param].tower)
    before = copy.deepcopy(tower.state_dict())
    randomised(parts.model)
    tower.load_state_dict(before)
    table, rows = model.tokens().open(toy.store), pool.open(toy.store)
    loader = Loader(
        table,
        [np.array(PICTURED)],
        image_token=parts.model.config.image_token_id,
        pad=parts.tokenizer.pad_token_id,
        pictures=FromFiles(rows, parts.processor),
    )
    return SimpleNamespace(
        tiny=tiny, model=model, parts=parts, batch=next(iter(loader)), table=table, rows=rows,
        eager={},
    )  # fmt: skip


@torch.no_grad()
def eager(family: SimpleNamespace, row: int) -> SimpleNamespace:
    """Attention of every layer, heads averaged, hidden states and what enters `down_proj`; once."""
    if row in family.eager:
        return family.eager[row]
    model, language = family.parts.model, language_model(family.parts.model)
    activations: dict[int, np.ndarray] = {}
    hooks = [
        block.mlp.down_proj.register_forward_pre_hook(
            lambda _, given, number=number: activations.update(
                {number: given[0][0].double().numpy()}
            )
        )
        for number, block in enumerate(language.layers)
    ]
    inputs = own_inputs(family, model, row)
    before = language.config._attn_implementation
    model.set_attn_implementation("eager")
    seen = model(**inputs, output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation(before)
    for hook in hooks:
        hook.remove()
    family.eager[row] = SimpleNamespace(
        attention=[layer[0].mean(dim=0).double().numpy() for layer in seen.attentions],
        states=[states[0].double().numpy() for states in seen.hidden_states],
        activations=activations,
    )
    return family.eager[row]


def places(family: SimpleNamespace, line: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where image, question and answer tokens of a row are."""
    batch: Batch = family.batch
    row = batch.mask[line].numpy()
    image = (batch.ids[line] == family.parts.model.config.image_token_id).numpy()
    answer = batch.labels[line].numpy() != IGNORED
    return tuple(np.flatnonzero(each) for each in (image, row & ~answer & ~image, answer))


def test_means_over_image_tokens(family):
    ours = Shallow(family.model, layer=2, mass=MASS).means(family.parts, family.batch)
    kept_some = 0
    for line, row in enumerate(PICTURED):
        seen = eager(family, row)
        image, question, _ = places(family, line)
        np.testing.assert_allclose(
            ours["values"][line], seen.states[2][image].mean(axis=0), rtol=1e-3, atol=1e-4
        )
        shares = seen.attention[0][question][:, image].mean(axis=0)
        shares /= shares.sum()
        order = np.argsort(-shares, kind="stable")
        kept = image[order[: 1 + int((np.cumsum(shares[order]) <= MASS).sum())]]
        kept_some += len(kept) < len(image)
        np.testing.assert_allclose(
            ours["attended"][line], seen.states[1][kept].mean(axis=0), rtol=1e-3, atol=1e-4
        )
    assert kept_some == len(PICTURED)  # or both features would be of all tokens


def test_bridging_and_neurons_at_the_answer(family):
    stage = AnswerLayers(family.model, layers=LAYERS, neurons=NEURONS)
    bridging, neurons = stage.signals(family.parts, family.batch)
    for line, row in enumerate(PICTURED):
        seen = eager(family, row)
        image, _, answer = places(family, line)
        wanted = []
        for layer, value in zip(LAYERS, bridging[line], strict=True):
            tokens = []
            for token in answer:
                attention = seen.attention[layer][token, image]
                if attention.sum() == 0:  # before the image
                    tokens.append(0.0)
                    continue
                shares = attention[attention > 0] / attention.sum()
                entropy = -(shares * np.log(shares)).sum()
                tokens.append(attention.sum() * (1 - entropy / np.log(len(image))))
            assert value == pytest.approx(np.mean(tokens), rel=1e-3, abs=1e-6)
        for layer, count in zip(LAYERS, NEURONS, strict=True):
            mean = seen.activations[layer][answer].mean(axis=0)
            wanted += sorted(np.argsort(-mean)[:count].tolist())
        assert neurons[line].tolist() == wanted
    assert (bridging > 0).all()
