"""PreSel: weights of sources and shares by hand; losses without questions by transformers."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from given import given
from PIL import Image
from test_consistency import plain
from toy import ROWS, TEXT_ONLY, Toy, declared, recorded
from transformers import AutoTokenizer

from xmas.data.pool import Pool
from xmas.features.clustering.source_clusters import SourceClusters
from xmas.features.losses.answer_scorer import ScorerSettings
from xmas.features.losses.relevance import Relevance
from xmas.models.vlm import load
from xmas.selection.methods.presel import Presel, in_proportion, source_weights
from xmas.selection.methods.typiclust import nearest_cosines
from xmas.store import Stage, Store, content
from xmas.training.starts.unfitted import Unfitted

NAN = float("nan")


def test_weights_of_sources_by_hand():
    """Means .5 and 1.0, T 1 / sqrt(2): the weights are as 1 to exp(-.5 sqrt(2))."""
    ratios = np.array([0.4, 0.6, NAN, 1.0, NAN])
    source = np.array([0, 0, 1, 1, 1])
    low = np.exp(-0.5 * np.sqrt(2))
    np.testing.assert_allclose(
        source_weights(ratios, source, None), [1 / (1 + low), low / (1 + low)]
    )
    np.testing.assert_allclose(
        source_weights(ratios, source, 0.5), [1 / (1 + np.exp(-1)), np.exp(-1) / (1 + np.exp(-1))]
    )
    third = np.append(source, 2)  # without a ratio: the mean of the others, .75
    of_three = source_weights(np.append(ratios, NAN), third, 1.0)
    np.testing.assert_allclose(of_three[2] / of_three[0], np.exp(-0.25))
    with pytest.raises(ValueError, match="no row of the reference set has a loss"):
        source_weights(np.full(5, NAN), source, None)


def test_queues_give_in_proportion_until_they_end():
    """Weights .75 and .25: places .67, 2, 3.3 and 2, 6, 10."""
    queues = [np.array([10, 11, 12]), np.array([20, 21, 22])]
    order = in_proportion(queues, np.array([0.75, 0.25]))
    assert order.tolist() == [10, 11, 20, 12, 21, 22]
    rng = np.random.default_rng(0)
    many = [np.arange(400), np.arange(400, 1000), np.arange(1000, 1100)]
    weights = np.array([0.2, 0.7, 0.1])
    order = in_proportion(many, weights)
    for budget in rng.integers(1, 800, 20):  # before the second ends
        counts = np.bincount(np.digitize(order[:budget], [400, 1000]), minlength=3)
        assert (np.abs(counts - weights * budget) <= 1).all()


def test_the_nearest_cosines_by_hand():
    points = np.array([[1.0, 0], [0.6, 0.8], [0.8, 0.6], [-1, 0]])
    np.testing.assert_allclose(nearest_cosines(points, 2)[0][::-1].sum(), 0.8 + 0.6)
    assert nearest_cosines(points, 9).shape == (4, 3)
    assert nearest_cosines(points[:1], 5).shape == (1, 0)
    blocked = nearest_cosines(points, 2, block=1).mean(axis=1)
    np.testing.assert_allclose(blocked, nearest_cosines(points, 2).mean(axis=1))


@dataclasses.dataclass(frozen=True)
class GivenRelevance(Relevance):
    """Losses out of a file."""

    kind: ClassVar[str] = "given_relevance"

    file: str = content("")

    def compute(self, store: Store, out) -> None:
        np.save(out / "values.npy", np.load(self.file))


@dataclasses.dataclass(frozen=True)
class Reference(Stage):
    """Some rows of a pool."""

    kind: ClassVar[str] = "reference"

    rows: tuple[int, ...]

    def compute(self, store: Store, out) -> None:
        (out / "rows.json").write_text(json.dumps(self.rows))


@dataclasses.dataclass(frozen=True)
class GivenClusters(SourceClusters):
    kind: ClassVar[str] = "given_source_clusters"

    file: str = content("")

    def compute(self, store: Store, out) -> None:
        np.save(out / "labels.npy", np.load(self.file))


@pytest.fixture
def pool(tmp_path) -> Pool:
    """Rows 0 to 5 of one source, 6 to 8 of another, 9 text-only; all that counts are sources."""
    talk = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
    seen = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "!"}]
    records = [
        {"source": "ab"[row > 5], "image": "a.png", "conversations": seen} for row in range(9)
    ]
    text = json.dumps([*records, {"source": "a", "conversations": talk}])
    (tmp_path / "pool.json").write_text(text)
    return Pool(str(tmp_path / "pool.json"), str(tmp_path))


def test_presel_by_hand(toy: Toy, tmp_path, pool):
    """The reference is rows 0 and 6, whose losses halve and stay with their questions. Source a
    gets exp(.5 sqrt(2)) = 2.03 rows for each of b: places .75, 2.2, 3.7, 5.2, 6.7 of a and 1.5, 4.6
    of b. In a the larger cluster, rows 1 2 3, is first; in it row 2, between the others.
    """
    losses = np.full((10, 2), NAN, dtype=np.float32)
    losses[[0, 6]] = [[1, 2], [3, 3]]
    np.save(tmp_path / "losses.npy", losses)
    np.save(tmp_path / "labels.npy", np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, -1]))
    angles = np.radians([0, 0, 10, 25, 90, 90, 0, 10, 60])
    points = np.append(np.stack([np.cos(angles), np.sin(angles)], axis=1), [[NAN, NAN]], axis=0)
    selector = Presel(
        GivenRelevance(toy.proxy, Reference((0, 6)), file=str(tmp_path / "losses.npy")),
        GivenClusters(pool, given(tmp_path, points), file=str(tmp_path / "labels.npy")),
    )
    ranked = selector.rank(pool, np.random.default_rng(0), toy.store)
    order = ranked.order.tolist()
    assert set(order[:2]) == {0, 6}
    # Of a by place in its cluster: 2 (1/6), 4 (1/4), 1 (1/2), 5 (3/4), 3 (5/6).
    assert order[2:] == [2, 7, 4, 1, 8, 5, 3, 9]
    near = np.cos(np.radians([10, 25, 15]))
    expected = [NAN, (near[0] + near[1]) / 2, (near[0] + near[2]) / 2, (near[1] + near[2]) / 2]
    np.testing.assert_allclose(ranked.scores[:4], expected, rtol=1e-6)
    np.testing.assert_allclose(ranked.scores[[4, 5]], 1, rtol=1e-6)
    assert np.isnan(ranked.scores[[6, 9]]).all()


def test_clusters_of_every_source(toy: Toy, tmp_path, pool):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(10, 3))
    points[9] = NAN
    stage = SourceClusters(pool, given(tmp_path, points), share=0.4)
    folder = toy.store.get(stage)
    labels = np.load(folder / "labels.npy")
    assert labels[9] == -1
    assert set(labels[:6]) == {0, 1}
    assert set(labels[6:9]) == {2}  # 0.4 of three rows is one
    assert json.loads((folder / "sizes.json").read_text()) == np.bincount(labels[:9]).tolist()


# The pass.


@pytest.fixture(scope="module")
def stage(toy: Toy) -> Relevance:
    proxy = toy.proxy
    model = Unfitted(
        toy.pool, toy.start, proxy.template, True, proxy.max_length, hardware=proxy.hardware
    )
    how = ScorerSettings(batch_tokens=512, shard_rows=11)
    return Relevance(model, toy.subset(rows=29), how=how)


def test_the_losses_are_those_of_transformers(toy, stage):
    values = np.load(toy.store.get(stage) / "values.npy")
    rows = [row for row in toy.subset(rows=29).chosen(toy.store).tolist() if row not in TEXT_ONLY]
    assert values.shape == (ROWS, 2)
    assert np.flatnonzero(np.isfinite(values).all(axis=1)).tolist() == rows
    assert np.isnan(values[np.setdiff1d(np.arange(ROWS), rows)]).all()
    folder = toy.store.get(toy.start)
    parts, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
    model, examples = parts.model.eval(), toy.pool.open()
    grid = model.config.vision_config.image_size // model.config.vision_config.patch_size
    for row in rows[:3] + [row for row in rows if row % 5 == 0][:1]:
        answers = " ".join(answer for _, answer in examples.conversation(row))
        ids = tokenizer("USER: ")["input_ids"]
        ids += [model.config.image_token_id] * grid**2 + plain(tokenizer, " ASSISTANT:")
        start = len(ids)
        ids += plain(tokenizer, f" {answers}</s>")
        image = Image.open(examples.images_of(row)[0]).convert("RGB")
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([ids]), pixel_values=parts.processor([image])
            ).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[start - 1 : -1], torch.tensor(ids[start:]))
        assert values[row, 1] == pytest.approx(float(loss), rel=1e-4)
    ratios = stage.ratios(toy.store)
    np.testing.assert_allclose(ratios[rows], values[rows, 0] / values[rows, 1], rtol=1e-6)
    assert recorded(toy.store, stage) == declared(stage)
