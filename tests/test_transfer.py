"""OFA trained on one demo pool and carried over to another: other seed, other drawings."""

import json
from pathlib import Path

import numpy as np
import pytest

from xmas.cli.config import build
from xmas.demo.pool import DemoPool, UnseenPool
from xmas.results.audit import overlap
from xmas.selection.methods.ofa import Ofa, at_least_one, proportional_quotas
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Store

SMALL = [  # of the demo's, so small that a CLIP is trained in seconds
    "experiment=smoke",
    "demo_pool.rows=211",
    "demo_pool.captions=160",
    "demo_pool.concepts=13",
    "towers.width=32",
    "towers.layers=1",
    "towers.tokenizer.vocabulary=400",
    "features.pseudo_labels.trained.k=5",
    "selector=ofa",
]


@pytest.fixture(scope="module")
def both(compose, tmp_path_factory) -> tuple[tuple[Ofa, Subset, Store], ...]:
    """The demo's pool with what it trained, and the unseen one, each with a store of its own."""

    def ofa_of(root: Path, *overrides: str) -> tuple[Ofa, Subset]:
        cfg = compose(*SMALL, f"store.root={root}", *overrides)
        return build(cfg.selector), build(cfg.subset)

    places = [tmp_path_factory.mktemp(name) for name in ("demo", "unseen")]
    stores = [Store(str(place)) for place in places]
    own, subset = ofa_of(places[0])
    trained, towers = stores[0].get(own.labels.trained), stores[0].get(own.labels.clip.clip)
    carried, other = ofa_of(
        places[1],
        "pool=demo_unseen",
        "features@features.clip=clip_folder",
        f"features.clip.clip.name={towers}",
        f"selector.trained={trained}",
    )
    return (own, subset, stores[0]), (carried, other, stores[1])


def test_the_two_pools_share_no_drawing(both):
    styles = []
    for (_, subset, store), kind in zip(both, (DemoPool, UnseenPool), strict=True):
        stage = subset.ranking.pool.annotations.stage
        assert type(stage) is kind
        truth = (store.get(stage) / "truth.jsonl").read_text().splitlines()
        scenes = [json.loads(line)["scene"] for line in truth]
        styles.append({
            (scene["kind"], name, style)
            for scene in scenes if scene
            for name, style in zip(scene["names"], scene["styles"], strict=True)
        })  # fmt: skip
    assert min(map(len, styles)) > 40
    assert not styles[0] & styles[1]
    names = [{name for _, name, _ in found} for found in styles]
    assert len(names[0] & names[1]) > 10  # the same things, drawn otherwise


def test_nothing_is_trained_or_clustered_on_the_other_pool(both):
    (_, subset, store), (carried, other, elsewhere) = both
    rows = other.chosen(elsewhere)
    kinds = {path.name for path in Path(elsewhere.root).iterdir()}
    assert kinds == {"demo_pool", "clip", "clip_embeddings", "pseudo_labels", "subset", "by-name"}
    examples = other.ranking.pool.open(elsewhere)
    assert len(rows) == len(set(rows.tolist())) == len(examples) // 5
    labels, confidence = carried.scored(elsewhere)
    pictured = labels >= 0
    assert (pictured == examples.has_image).all()
    assert np.isfinite(confidence[pictured]).all()
    sizes = np.bincount(labels[pictured], minlength=5)
    taken = np.bincount(labels[rows[pictured[rows]]], minlength=5)
    budget = int(pictured[rows].sum())
    assert taken.tolist() == at_least_one(proportional_quotas(sizes, budget), sizes).tolist()
    assert len(subset.chosen(store)) == len(rows)


def test_another_seed_draws_other_rows_of_the_same_candidates(both):
    _, (carried, other, elsewhere) = both
    pool = other.ranking.pool
    one, two = (
        Subset(Ranking(pool, carried, seed), other.fraction).chosen(elsewhere) for seed in (0, 1)
    )
    shared = overlap(one, two, len(pool.open(elsewhere)))
    assert shared["jaccard_at_random"] < shared["jaccard"] < 1
