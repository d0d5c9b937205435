"""Embeddings of questions: the encoder's own means, whoever shares the batch."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from toy import ROWS, Toy
from transformers import AutoModel, AutoTokenizer

from xmas.cli.config import build
from xmas.features.clustering.kmeans import Clusters
from xmas.features.losses.questions import QuestionEmbeddings
from xmas.models.sources import Source


@pytest.fixture(scope="module")
def stage(toy: Toy, tmp_path_factory) -> QuestionEmbeddings:
    """Of a BERT of random weights in a folder."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny.sentence_encoder(folder)
    return QuestionEmbeddings(toy.pool, Source(str(folder)), batch=5)


@pytest.fixture(scope="module")
def values(toy: Toy, stage) -> np.ndarray:
    return np.load(toy.store.get(stage) / "values.npy")


def test_an_embedding_is_the_normed_mean_of_a_question_alone(toy, stage, values):
    assert (values.shape, values.dtype) == ((ROWS, 24), np.float32)
    folder = stage.encoder.folder()
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    examples = toy.pool.open()
    for row in (0, 3, 8, 11, 40):
        question = examples.conversation(row)[0][0]
        with torch.no_grad():
            states = model.eval()(**tokenizer(question, return_tensors="pt")).last_hidden_state
        mean = states[0].double().mean(dim=0).numpy()
        np.testing.assert_allclose(values[row], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)
    assert examples.conversation(8)[0][0] == "What is drawn???"  # not the model's greeting
    assert len(np.unique(values.round(4), axis=0)) > 4


def test_the_batch_does_not_matter(toy, stage, values, tmp_path):
    other = dataclasses.replace(stage, batch=1000)
    other.compute(toy.store, tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "values.npy"), values, rtol=1e-4, atol=1e-6)


def test_questions_are_clustered(toy, stage, values):
    labels = np.load(toy.store.get(Clusters(stage, k=3)) / "labels.npy")
    assert set(labels) == {0, 1, 2}
    same = np.unique(values.round(4), axis=0, return_inverse=True)[1].ravel()
    for question in set(same.tolist()):
        assert len(set(labels[same == question])) == 1


def test_necessity_takes_these_clusters(toy, stage, compose):
    cfg = compose(
        *toy.overrides(),
        "selector=necessity",
        "selector.clusters=${clusters.questions}",
        f"features.questions.encoder.name={stage.encoder.name}",
        "clusters.questions.k=3",
    )
    ranked = build(cfg.selector).rank(toy.pool, np.random.default_rng(0), toy.store)
    assert set(ranked.clusters) == {0, 1, 2}
    assert sorted(ranked.order.tolist()) == list(range(ROWS))
    for budget in (10, 20, 30):
        counts = np.bincount(ranked.clusters[ranked.order[:budget]], minlength=3)
        assert (abs(counts - np.bincount(ranked.clusters) * budget / ROWS) < 1.5).all()
