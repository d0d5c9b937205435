"""`pool=files` without further words: published values, clusters by the rows, real models or their
names, and small models only where the command asks for them.
"""

import dataclasses
import importlib.util
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from choices import CONF, FILES, SELECTORS
from given import given
from omegaconf import OmegaConf
from scored import Shelves
from toy import Toy

from xmas.cli.config import build
from xmas.cli.cpu_check import check_cpu
from xmas.cli.implied_choices import with_implied
from xmas.features.clustering.cluster_count import ClusterCount
from xmas.features.clustering.kmeans import Clusters
from xmas.features.clustering.spherical import Spherical
from xmas.models.hub import NeedsWeights, local_folder, why_absent
from xmas.models.sources import Source
from xmas.results.table import Table
from xmas.selection.small_models import small_models
from xmas.selection.subset_files import manifest
from xmas.store import Store, describe, key
from xmas.store.planned_stages import planned_stages

SCRIPT = CONF.parent / "experiments" / "own_pool" / "composed_values.py"
spec = importlib.util.spec_from_file_location("composed_values", SCRIPT)
composed_values = importlib.util.module_from_spec(spec)
spec.loader.exec_module(composed_values)
PUBLISHED = [*composed_values.published_values()]
RULE = ClusterCount(most=1000, rows_each=39)


@pytest.mark.parametrize(
    ("overrides", "experiment"),
    [
        ((), "demo"),
        (("pool=demo_unseen",), "demo"),
        (("pool=files",), "own_pool"),
        (("pool=llava665k",), "own_pool"),
        (("pool=files", "experiment=demo"), "demo"),
        (("experiment=llava665k",), "llava665k"),
        (("pool=files", "~experiment"), None),
    ],
)
def test_a_pool_has_an_experiment_unless_one_is_named(overrides, experiment, compose):
    cfg = compose(*overrides, hydra_node=True)
    assert cfg.hydra.runtime.choices.get("experiment") == experiment


def test_every_selector_is_in_the_table_of_published_values():
    assert {value.selector for value in PUBLISHED} == {*SELECTORS, "every selector", "the target"}
    assert len(PUBLISHED) > 90
    assert all(value.source for value in PUBLISHED)


@pytest.mark.parametrize(
    "value", [one for one in PUBLISHED if one.setting], ids=lambda one: f"{one[0]}: {one[1]}"
)
def test_a_pool_of_one_s_own_has_the_published_value_or_the_one_the_table_gives_a_reason_for(
    value, compose
):
    selector = "random" if " " in value.selector else value.selector
    cfg = compose("pool=files", f"selector={selector}")
    assert composed_values.composed(cfg, value.setting) == value.ours
    if not value.why:
        assert value.ours == value.published


def test_the_table_in_the_record_is_that_of_now(compose):
    lines = composed_values.page(lambda name: compose("pool=files", f"selector={name}"))
    page = SCRIPT.with_suffix(".md").read_text(encoding="utf-8")
    assert page.splitlines() == [*lines]


def test_every_number_of_clusters_is_bounded_but_one_s_own_is_as_given(compose):
    cfg = compose("pool=files", "clusters.clip.k=7")
    clusters = {name: build(node) for name, node in cfg.clusters.items()}
    assert clusters.pop("sources").share == 0.01  # of each source's rows
    counts = {name: stage.k for name, stage in clusters.items()}
    assert counts.pop("clip") == 7
    assert {count.rows_each for count in counts.values()} == {39}
    assert len(counts) == 6
    assert compose("~experiment").clusters.trajectories.k == 1000


@pytest.mark.parametrize(
    ("rows", "clusters"), [(1, 1), (77, 1), (78, 2), (2606, 66), (38_999, 999), (665_298, 1000)]
)
def test_clusters_by_hand(rows, clusters):
    assert RULE.of(rows) == clusters


@pytest.mark.parametrize("stage", [Clusters, Spherical])
def test_clusters_are_of_the_rows_that_have_the_feature(stage, tmp_path):
    """Of 13 rows 2 have none: 11 // 5 = 2 clusters, and rows without are of cluster 2."""
    values = np.random.default_rng(0).standard_normal((13, 3)).astype(np.float32)
    values[[4, 9]] = np.nan
    store = Store(str(tmp_path / "store"))
    bounded = stage(given(tmp_path, values), k=ClusterCount(most=7, rows_each=5))
    folder = store.get(bounded)
    labels = np.load(folder / "labels.npy")
    assert labels[[4, 9]].tolist() == [2, 2]
    assert set(labels.tolist()) == {0, 1, 2}
    assert json.loads((folder / "sizes.json").read_text())[2] == 2
    exact = dataclasses.replace(bounded, k=2)
    np.testing.assert_array_equal(labels, np.load(store.get(exact) / "labels.npy"))
    assert key(exact) != key(bounded)


def test_the_smallest_proxy_sets_what_depends_on_its_size(compose):
    small = compose("pool=files", "proxy=small", "target=small", "clip=small", "selector=coincide")
    assert small.features.activations.layers == [0, 1, 2, 3]
    demo = compose("pool=files", "experiment=demo", "proxy=demo", "target=demo")
    assert small.proxy.recipe == demo.proxy.recipe
    assert small.target.lora == demo.target.lora
    proxy = build(small.proxy)
    assert proxy.start == build(small.target).start
    assert build(small.features.clip).clip == build(small.towers)
    assert type(proxy.start).__name__ == "Pretrained"


@pytest.mark.parametrize(
    ("clip", "name", "revision"),
    [
        ("openai/clip-vit-large-patch14-336", "openai/clip-vit-large-patch14-336", "ce19dc912ca5"),
        ("a/b@0123", "a/b", "0123"),
        ("/some/folder", "/some/folder", None),
    ],
)
def test_a_clip_is_named_by_the_hub_or_a_folder(clip, name, revision, compose):
    node = compose("pool=files", f"clip={clip}").features.clip.clip
    assert node.name == name
    assert (node.revision or "")[:12] == (revision or "")


def test_a_clip_of_the_hub_without_a_commit_says_how_to_give_it(compose, tmp_path):
    clip = build(compose("pool=files", "clip=a/b").features.clip).clip
    with pytest.raises(ValueError, match=r"^clip=a/b with revision=None: .*, clip=NAME@COMMIT$"):
        clip.check(Store(str(tmp_path)))


def test_weights_that_are_not_there_are_told_from_those_that_are(tmp_path):
    assert local_folder(Source(str(tmp_path))) == tmp_path
    assert why_absent(Source(str(tmp_path))) is None
    assert why_absent(Source("a/b")) == "the hub is switched off (HF_HUB_OFFLINE)"
    assert why_absent(Source("/absent/folder")).startswith("there is no such folder")


def on_its_own(toy: Toy, root: Path, *more: str) -> list[str]:
    """The toy's pool as a user gives it: without values of the toy's."""
    files = (f"pool.annotations={toy.folder}/pool.json", f"pool.images={toy.folder}/images")
    return ["pool=files", *files, f"store.root={root}", *more]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        (
            "xmas",
            "stabilityai/stablelm-2-zephyr-1_6b (proxy.start.language.name) and "
            "openai/clip-vit-large-patch14-336 (proxy.start.vision.name): the hub is switched off "
            "(HF_HUB_OFFLINE). Give a folder with them in the key in brackets, or take proxy=small",
        ),
        (
            "ofa",
            "openai/clip-vit-base-patch32 (clip): the hub is switched off (HF_HUB_OFFLINE). Give a "
            "folder with them in the key in brackets, or take clip=small",
        ),
    ],
)
def test_missing_weights_are_named_with_the_small_model_before_any_work(
    selector, names, toy, server, tmp_path
):
    ended = server.command(*on_its_own(toy, tmp_path, f"selector={selector}"), cwd=tmp_path)
    assert ended.returncode == 1
    line = ended.stderr.splitlines()[-1]
    assert line == (
        f"xmas: weights are not on this machine, {names}, trained on your pool, for trying things "
        "out"
    )
    assert list(tmp_path.iterdir()) == []


def proxy_on(toy: Toy, compose, *more: str):
    files = (f"pool.annotations={toy.folder}/pool.json", f"pool.images={toy.folder}/images")
    cfg = compose("pool=files", *files, *more)
    return build(cfg.proxy), cfg


def test_a_published_proxy_that_does_not_fit_into_the_host_s_memory_is_refused(
    toy, compose, tmp_path, monkeypatch
):
    """1.6 billion parameters with their optimizer states are 16 bytes each, at least."""
    proxy, cfg = proxy_on(toy, compose)
    monkeypatch.setattr("xmas.cli.cpu_check.host_memory", lambda: 8e9)
    with pytest.raises(
        ValueError, match=r"^proxy \(.*\) needs (\d+) GB on a CPU, .* has 8; take h"
    ) as e:
        check_cpu(proxy, Store(str(tmp_path)), cfg, frozenset())
    assert int(re.search(r"needs (\d+) GB", str(e.value))[1]) > 26
    assert "proxy=small" in str(e.value)


def test_a_published_proxy_that_takes_days_on_a_cpu_is_warned_of(
    toy, compose, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("xmas.cli.cpu_check.host_memory", lambda: 1e12)
    slow = ("hardware.device.tflops_32=1e-4", "hardware.device.tflops_16=1e-4")
    store = Store(str(tmp_path))
    for more, warned in ((slow, True), ((*slow, "proxy=small"), False)):
        proxy, cfg = proxy_on(toy, compose, *more)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="xmas"):
            check_cpu(proxy, store, cfg, frozenset())
        assert ("hours on this CPU, by the estimate; take hardware=" in caplog.text) == warned
    proxy, cfg = proxy_on(toy, compose, "hardware=one_gpu")
    monkeypatch.setattr("xmas.cli.cpu_check.host_memory", lambda: 0.0)
    check_cpu(proxy, store, cfg, frozenset())


def test_what_names_weights_names_sources(toy_selector, toy):
    """`sources` of another meaning would stop every command at the look for weights."""
    stages = {
        repr(stage): stage
        for name in SELECTORS
        for stage in planned_stages(toy.subset(toy_selector(name)))
    }
    naming = [stage for stage in stages.values() if isinstance(stage, NeedsWeights)]
    for stage in naming:
        assert all(isinstance(source, Source) for source in stage.sources().values())


def test_random_asks_for_no_weights(toy, server, tmp_path):
    ended = server.command(*on_its_own(toy, tmp_path, "selector=random"), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "demo" not in ended.stderr


@pytest.mark.parametrize(
    ("command", "held_out"),
    [
        ("goal=scores pool=files seed=0,1", True),
        ("-m goal=scores pool=llava665k", True),
        ("goal=estimate pool=files", True),
        ("goal=estimate pool=files estimate.of=subset", False),
        ("goal=scores pool=files suite=ten", False),
        ("goal=scores pool=files experiment=mine", False),
        ("goal=scores pool=demo_unseen", False),
        ("goal=scores", False),
        ("pool=files selector=xmas", False),
    ],
)
def test_scores_of_a_pool_of_one_s_own_are_of_rows_held_out(command, held_out):
    arguments = command.split()
    assert with_implied(arguments) == [*arguments, *["suite=heldout"] * held_out]


def test_a_subset_is_of_all_rows_and_scores_of_those_not_held_out(compose):
    whole = compose("pool=files", *FILES)
    assert dict(whole.suite) == {}
    assert build(whole.pool).held_out_split is None
    scored = compose("pool=files", "suite=heldout", *FILES)
    assert build(scored.pool).held_out_split is not None
    assert list(scored.suite) == ["heldout", "heldout_match"]


def test_small_models_are_named_in_what_is_made_of_them(toy, compose):
    """The toy's captions are its pool; the demo's are not."""
    subset = build(compose(*toy.overrides(), "selector=xmas").subset)
    target = build(compose(*toy.overrides(), "selector=random").target)
    assert small_models(describe(subset)) == ["proxy=small"]
    assert small_models(describe(target)) == ["target=small"]
    both = build(compose(*toy.overrides(), "selector=semdedup").target)
    assert small_models(describe(both)) == ["clip=small", "target=small"]
    random = build(compose(*toy.overrides(), "selector=random").subset)
    assert small_models(describe(random)) == []
    assert small_models(describe(build(compose("selector=xmas").target))) == []


def test_the_manifest_says_which_models_are_small(toy, tmp_path):
    subset = toy.subset(toy.length, rows=5)
    examples = toy.pool.open(toy.store)
    record = manifest(subset, examples, np.arange(5))
    assert record["small_models"] == {
        "proxy=small": "trained on the pool itself, for trying things out"
    }
    assert "small_models" not in manifest(toy.subset(rows=5), examples, np.arange(5))


def test_the_table_says_which_models_are_small(toy, compose, tmp_path):
    add = Shelves(tmp_path)
    target = describe(build(compose(*toy.overrides(), "selector=random").target))
    note = "target=small: trained on the pool itself, for trying things out; no evidence"
    add("full", "gqa", 60.0)
    meta = add("random", "gqa", 48.0) / "meta.json"
    assert note not in Table().make(Store(str(tmp_path)))
    record = json.loads(meta.read_text())
    record["config"]["target"] = target
    meta.write_text(json.dumps(record))
    assert note in Table().make(Store(str(tmp_path)))


def test_values_of_a_resolver_are_nodes(compose):
    """So that they are built, and a selector can refer to them."""
    cfg = compose("pool=files", "selector=length")
    assert build(cfg.selector).k == RULE
    assert OmegaConf.is_dict(cfg.features.clip.clip)
