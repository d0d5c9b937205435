"""Pools that a goal cannot be computed for are refused before anything is computed."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from toy import MAX_LENGTH, TEMPLATE, TEXT_ONLY, Toy, turns
from toy import build as build_toy

from xmas.cli.config import build
from xmas.cli.unknown_settings import OPEN, with_own_keys
from xmas.data.pool import Pool
from xmas.features.clustering.enough_rows import check_enough, setting_of
from xmas.features.clustering.kmeans import Clusters
from xmas.features.clustering.spherical import Spherical
from xmas.models.chat.tokens import Tokenised
from xmas.results.audit import Audit
from xmas.selection.methods.xmas import Xmas
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store
from xmas.store.feasible import check_all


@pytest.fixture
def small(tmp_path) -> Toy:
    """The toy with a store of its own: nothing is computed."""
    return build_toy(tmp_path / "toy")


def with_records(toy: Toy, records: list[dict]) -> Pool:
    (toy.folder / "pool.json").write_text(json.dumps(records))
    return toy.pool


def test_more_clusters_than_rows_with_an_image_are_refused_before_the_fit(small, monkeypatch):
    monkeypatch.setattr(Store, "get", lambda store, stage: pytest.fail(f"computes {stage.kind}"))
    clusters = dataclasses.replace(small.clusters, k=35)
    xmas = Xmas(small.trajectories, clusters)
    with pytest.raises(
        ValueError, match=r"clusters\.trajectories\.k=35, but 34 rows have an image"
    ):
        check_all(small.subset(xmas), small.store)
    check_all(
        small.subset(Xmas(small.trajectories, dataclasses.replace(clusters, k=34))), small.store
    )
    zeros = dataclasses.replace(clusters, k=41, missing="zero")  # text-only rows are clustered too
    check_all(small.subset(Xmas(small.trajectories, zeros)), small.store)
    activations = small.coincide
    many = dataclasses.replace(activations.clusters, k=99)
    with pytest.raises(ValueError, match=r"clusters\.activations\.k=99, but 34 rows have an image"):
        check_all(small.subset(dataclasses.replace(activations, clusters=many)), small.store)


@pytest.mark.parametrize("k", [34, 35])
def test_the_estimate_says_that_there_are_too_few_rows(small, compose, k):
    overrides = ("selector=xmas", f"clusters.trajectories.k={k}", "estimate.of=subset")
    estimate = build(compose(*small.overrides(), *overrides).estimate)
    page = estimate.make(small.store)
    refused = "This cannot be computed as it is: clusters.trajectories.k=35, but 34 rows have an"
    assert (refused in page) == (k == 35)


def test_a_result_that_is_there_is_not_checked(small, monkeypatch):
    small.store.get(small.subset())
    monkeypatch.setattr(Pool, "open", lambda pool, store: pytest.fail("opens the pool"))
    check_all(small.subset(), small.store)
    with pytest.raises(pytest.fail.Exception, match="opens the pool"):
        check_all(small.subset(rows=3), small.store)


def test_a_message_names_the_setting_that_the_configuration_has(compose):
    cfg = compose()
    named = 0
    for node in cfg.clusters:
        clusters = build(cfg.clusters[node])
        if isinstance(clusters, Clusters | Spherical):
            assert setting_of(clusters, clusters.features) == f"clusters.{node}.k"
            named += 1
    assert named >= 5
    once_select = build(cfg.features.pseudo_labels).trained
    assert once_select.k == cfg.features.pseudo_labels.trained.k


def test_a_pool_that_is_not_made_yet_is_not_opened(tmp_path):
    pool = Pool(str(tmp_path / "absent.json"), str(tmp_path))
    check_enough(
        "k", 9, dataclasses.make_dataclass("Feature", ["pool"])(pool), Store(), pictured=True
    )


def test_a_pool_of_text_alone_is_refused_by_fits_before_anything_is_made(small, monkeypatch):
    with_records(small, [{"conversations": turns("What?", "A fig.")}] * 9)
    monkeypatch.setattr(Store, "get", lambda store, stage: pytest.fail(f"computes {stage.kind}"))
    message = "none of the pool's 9 rows has an image: .*rows name their image under `image`"
    for goal in (small.proxy, small.start, small.towers, small.target(small.subset(rows=3))):
        with pytest.raises(ValueError, match=message):
            check_all(goal, small.store)


def test_a_pool_of_text_alone_is_audited(small):
    with_records(small, [{"id": n, "conversations": turns("What?", f"{n % 2}")} for n in range(6)])
    subset = Subset(small.subset().ranking, rows=4, text_only="ranked")
    folder = small.store.get(Audit(subset, suite={}))
    record = json.loads((folder / "audit.json").read_text())
    assert record["duplicates"]["pool"]["exact"] == 4  # of six, two differ


# --- an image that is cut off ---


def test_rows_whose_image_is_cut_off_are_left_out_of_fits_and_named(toy: Toy, tmp_path, caplog):
    records = json.loads((toy.folder / "pool.json").read_text(encoding="utf-8"))
    late = {"image": "top.png", "conversations": turns("long " * 400, "a", "<image>\nWhat?", "b")}
    records[5] |= late
    records[9] |= late
    (tmp_path / "pool.json").write_text(json.dumps(records))
    pool = Pool(str(tmp_path / "pool.json"), str(toy.folder / "images"))
    tokens = Tokenised(pool, toy.start.tokenizer, TEMPLATE, 16, max_length=MAX_LENGTH)
    store = Store(str(tmp_path / "store"))
    for kind in ("tokenizer", "two_tower", "small_llava", "pretrained"):
        toy.store.get(toy.start)
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / kind).symlink_to(Path(toy.store.root) / kind)
    with caplog.at_level(logging.WARNING, "xmas"):
        table = tokens.open(store)
    whole = toy.proxy.tokens().open(toy.store)
    assert np.flatnonzero(table.answered != whole.answered).tolist() == [5, 9]
    assert np.flatnonzero(table.image_at < 0).tolist() == sorted([*TEXT_ONLY, 5, 9])
    assert table.text_lengths[5] == MAX_LENGTH
    assert f"row 5: max_length {MAX_LENGTH} ends inside the image" in caplog.text
    assert "So it is with 2 of 34 rows with an image: 5, 9" in caplog.text


# --- keys that are the user's ---


def test_a_source_is_named_without_a_plus(compose):
    written = [
        "subset.floors={ocr_vqa: 3}",
        "subset.caps.gqa=2",
        "doctor.sha256={pope: {questions: a}}",
    ]
    cfg = compose(*with_own_keys(written))
    assert dict(cfg.subset.floors) == {"ocr_vqa": 3}
    assert dict(cfg.subset.caps) == {"gqa": 2}
    assert cfg.doctor.sha256.pope.questions == "a"
    assert with_own_keys(["+subset.floors.a=1", "subset.rows=3"]) == [
        "+subset.floors.a=1",
        "subset.rows=3",
    ]


OWN_TEMPLATES = ("template@target.template=own", "template@proxy.template=own")


def test_every_empty_mapping_of_the_configuration_is_open(compose):
    cfg = compose()
    empty = {
        f"{group}.{name}"
        for group in ("subset", "doctor", "audit", "scores", "table", "report")
        for name, node in cfg[group].items()
        if node == {}
    }
    models = compose("target=llava15_7b", "proxy=smolvlm_256m", *OWN_TEMPLATES)
    others = {"target.lora.peft", "target.template.options", "proxy.template.options"}
    assert all(OmegaConf.select(models, name) == {} for name in {*others, "exam.starts"})
    assert compose("suite=none").validation.files == {}  # the demo's suite has some
    # of those that are not empty it has room for more benchmarks than ICONS has
    assert empty | others | {"exam.starts", "validation.rows", "validation.files"} == set(OPEN)
    assert isinstance(build(cfg.ranking), Ranking)
