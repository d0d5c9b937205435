"""Keys of results do not change: neither when a class moves or is renamed, nor with a release.

The pinned keys are of the time when the demo's pool got other rows to pretrain on (`demo_pool`
version 20), its towers Muon and white as the zero of pixels (`two_tower` 3), and its untrained
LLaVA initial weights made from them (`small_llava` 3). The other keys follow from these three. A
key that changes here loses results that others have in their stores: raise a stage's `version`
where its result differs, and change nothing else.
"""

import dataclasses
import importlib
import json
import pkgutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from choices import CHOICES, FILES, choice, is_alone, place_of
from omegaconf import DictConfig, OmegaConf

import xmas
from xmas.cli.config import build
from xmas.evaluation.scores import Score
from xmas.store import Stage, describe, digest, key, volatile
from xmas.store.former_names import FORMER_NAMES
from xmas.store.stage import read_meta, type_name
from xmas.training.fit.trainables import Lora

NEW = {  # came later; hashed under the name they have
    "AnswerLayers",
    "AnswerLosses",
    "AveragedTrajectories",
    "ClusterCount",
    "Column",
    "Consistency",
    "Dics",
    "Exam",
    "Gradients",
    "GuardedCover",
    "HeldOutLikelihood",
    "HeldOutMatch",
    "HeldOutSplit",
    "Icons",
    "Influence",
    "Magic",
    "OwnTemplate",
    "PlainVectors",
    "PlantedPool",
    "Planting",
    "PoolSample",
    "Presel",
    "Prism",
    "QualityDiversity",
    "Ratings",
    "Relevance",
    "Rewritten",
    "Scalselect",
    "SelfSup",
    "Shallow",
    "SourceClusters",
    "SubsetFiles",
    "TokenWeights",
    "ValidRows",
    "ValidationRows",
}
# The demo's numbers as they were when its keys were pinned: tuning it changes no pin. Of its start
# only what `start=captions` has is pinned.
PINNED = (
    "selector=xmas", "start=captions", "demo_pool.rows=8000", "demo_pool.captions=20000",
    "demo_pool.facts=2000", "demo_pool.claims=3000", "demo_pool.choices=4000",
    "demo_pool.reviews=5000", "demo_pool.concepts=150", "proxy.snapshots=7",
    "proxy.recipe.rate=1e-3", "proxy.recipe.projector_rate=1e-3", "target.recipe.rate=8e-4",
    "target.recipe.projector_rate=8e-4",
)  # fmt: skip
DEMO = {
    "demo_pool": "f9c3f9fcf22f",
    "tokens": "4a137e06f3e8",
    "small_llava": "881f09a32cde",
    "two_tower": "48bebd9868ec",
    "pretrained": "848bd52b230d",
    "proxy": "06a2a9bd9ad9",
    "trajectories": "ef7f773204f7",
    "clusters": "5d6b5e2c9701",
    "ranking": "55b05f1d1be7",
    "subset": "9ad3f32a8e33",
    "target": "da12506bf498",
    "score": "88572eed09fc",  # of GQA
    "scores": "747fa719ef5e",
}
PASSES = {  # over the demo's pool, in float32 as its fits
    "features.activations": "002b7ff10b39",
    "features.last_layer": "9c51827ff912",
    "features.answers": "7291cb70c52b",
    "features.start_answers": "e753598009af",
    "features.target_answers": "8e6f1686e6c8",
    "features.clip": "246e84f227fb",
    "clusters.activations": "6e08a40104e4",
    "clusters.last_layer": "df074ba2b115",
    "clusters.clip_directions": "6b6f091e7703",
    "clusters.answers": "944e8049e361",
}


@pytest.fixture(scope="module")
def demo(compose) -> dict[str, Stage]:
    """A stage of each kind, of `xmas selector=xmas start=captions`."""
    cfg = compose(*PINNED)
    proxy, scores = build(cfg.proxy), build(cfg.scores)
    return {
        "demo_pool": build(cfg.demo_pool),
        "tokens": proxy.tokens(),
        "small_llava": build(cfg.untrained),
        "two_tower": build(cfg.towers),
        "pretrained": build(cfg.captioned),
        "proxy": proxy,
        "trajectories": build(cfg.features.trajectories),
        "clusters": build(cfg.clusters.trajectories),
        "ranking": build(cfg.ranking),
        "subset": build(cfg.subset),
        "target": build(cfg.target),
        "score": Score(scores.suite["gqa"], scores.target, scores.generation),
        "scores": scores,
    }


@pytest.mark.parametrize("kind", DEMO)
def test_a_result_of_the_demo_keeps_its_key(demo, kind):
    assert demo[kind].kind == kind
    assert key(demo[kind]) == DEMO[kind]


def test_muon_changes_the_keys_of_recipes_that_use_it_alone(demo):
    """`Recipe.muon_rate` came later: recipes without it are described as before."""
    pretrained = demo["pretrained"]
    assert "muon_rate" not in describe(pretrained.recipe)
    with_muon = dataclasses.replace(pretrained.recipe, muon_rate=0.02)
    assert key(dataclasses.replace(pretrained, recipe=with_muon)) == "d28aee266fc6"


def test_alike_microbatches_change_the_keys_of_recipes_that_use_them_alone(demo):
    """`Recipe.grouping` came later: LLaVA's balanced microbatches are described as before."""
    recipe = demo["proxy"].recipe
    assert "grouping" not in describe(recipe)
    alike = dataclasses.replace(recipe, grouping="alike")
    assert describe(alike) == describe(recipe) | {"grouping": "alike"}
    with pytest.raises(ValueError, match="grouping 'like' is none of balanced, alike"):
        dataclasses.replace(recipe, grouping="like")


@pytest.mark.parametrize("node", PASSES)
def test_a_pass_in_float32_keeps_its_key(compose, node):
    """Since precisions follow those of fits; devices and ranks are in no key."""
    for overrides in ((), ("hardware=ddp",)):
        assert key(build(OmegaConf.select(compose(*PINNED, *overrides), node))) == PASSES[node]


def test_only_sums_of_spectra_have_other_keys_since_they_are_float64(demo):
    clusters = demo["clusters"]
    assert clusters.corrections()
    for other in (
        dataclasses.replace(clusters, reduction="first"),
        dataclasses.replace(clusters, features=demo["tokens"]),
    ):
        assert not other.corrections()


def test_the_batches_of_a_scan_are_no_part_of_its_key_which_is_that_of_the_former_default(demo):
    spectra = demo["trajectories"].spectra
    assert describe(spectra)["batch_tokens"] == 8192
    for tokens in (1, 8192, 10**6):
        assert describe(dataclasses.replace(spectra, batch_tokens=tokens)) == describe(spectra)


# Names of types.


@pytest.fixture(scope="module")
def dataclasses_of_xmas() -> list[type]:
    found: dict[type, None] = {}
    for module in pkgutil.walk_packages(xmas.__path__, "xmas."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name:
                found[value] = None
    return [cls for cls in found if dataclasses.is_dataclass(cls)]


def identities(value: Any, inside: bool = False) -> Iterator[type]:
    """The types that keys are made of: of stages and of what their fields hold."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for element in value:
            yield from identities(element, inside)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = inside or isinstance(value, Stage)
        if inside:
            yield type(value)
        for field in dataclasses.fields(value):
            if not inside or field.metadata.get("identity") != "none":
                yield from identities(getattr(value, field.name), inside)


def built_of_its_own(cfg: DictConfig, root: DictConfig) -> list[Any]:
    """What the nodes describe that a choice has written otherwise than the root.

    Types elsewhere in the configuration are the root's, or come from these nodes by interpolation.
    """
    own, common = (OmegaConf.to_container(each, resolve=False) for each in (cfg, root))
    return [build(cfg[name]) for name in own if own[name] != common[name]]


@pytest.fixture(scope="module")
def bearing(dataclasses_of_xmas, compose) -> set[type]:
    """All stages of the package, and what the choices of the configuration put into stages."""
    places = {place_of(*each): each for each in CHOICES if not is_alone(*each)}
    overrides = [f"+{group}@{place}={name}" for place, (group, name) in places.items()]
    every = compose(*overrides, "every.proxy.auto_too.model=owner/name")
    targets = [compose(*choice(group, name)) for group, name in CHOICES if group == "target"]
    found = {cls for cls in dataclasses_of_xmas if issubclass(cls, Stage) and hasattr(cls, "kind")}
    for built in (build(every), *(built_of_its_own(cfg, compose()) for cfg in targets)):
        found |= set(identities(built))
    own_pool = compose("pool=files", *FILES)
    found |= set(identities(build(own_pool.clusters)))
    for group in ("selector", "start", "template"):  # the root holds one of them
        found |= set(identities(build(every.every[group]), inside=True))
    return {cls for cls in found if cls.__module__.startswith("xmas.")}


def test_every_type_in_a_key_has_a_former_name_or_is_known_as_new(bearing):
    assert len(bearing) > 80
    names = {type_name(cls) for cls in bearing}
    assert names - FORMER_NAMES.keys() == NEW


def test_every_type_with_a_former_name_is_still_there(dataclasses_of_xmas):
    """A class that was renamed is renamed in the table's left column too."""
    assert set(FORMER_NAMES) <= {cls.__qualname__ for cls in dataclasses_of_xmas}


def test_no_two_types_have_the_name_of_one_in_a_key(dataclasses_of_xmas, bearing):
    names = {type_name(cls) for cls in bearing} | FORMER_NAMES.keys()
    count = Counter(cls.__qualname__ for cls in dataclasses_of_xmas)
    assert {name for name in names if count[name] > 1} == set()
    assert len(set(FORMER_NAMES.values())) == len(FORMER_NAMES)


@dataclasses.dataclass(frozen=True)
class LoraVariant(Lora):
    """`Lora` with a field that came later, as docs/add-a-target.md adds one."""

    frozen_a: bool = volatile(False)

    def corrections(self) -> dict[str, Any]:
        return {"frozen_a": True} if self.frozen_a else {}


def test_a_field_that_came_later_leaves_the_keys_of_its_default():
    described = {rank: describe(LoraVariant(rank)) for rank in (8, 16)}
    before = {rank: describe(Lora(rank)) for rank in (8, 16)}
    for rank, identity in described.items():
        assert identity | {"type": "Lora"} == before[rank]  # the test's class is named after itself
    stabilised = describe(LoraVariant(8, frozen_a=True))
    assert stabilised == described[8] | {"frozen_a": True}
    assert digest(stabilised) not in {digest(identity) for identity in described.values()}


@dataclasses.dataclass(frozen=True)
class Unit(str):
    name: str
    factor: int = 1


@dataclasses.dataclass(frozen=True)
class Duration:
    unit: Unit


def test_a_dataclass_that_is_plain_data_too_is_known_by_its_fields():
    identity = {"type": f"{__name__}.Unit", "name": "hour", "factor": 1.0}
    assert describe(Unit("hour")) == identity
    assert describe([Unit("hour")]) == [identity]
    assert describe(Duration(Unit("hour")))["unit"] == identity


_IN_KEYS = ("kind", "version", "corrections")  # of a stage's class


def moved(cls: type, module: str) -> type:
    """The same dataclass as another module would define it."""
    return dataclasses.make_dataclass(
        cls.__qualname__,
        [(field.name, field.type, field) for field in dataclasses.fields(cls)],
        bases=cls.__bases__,
        namespace={name: content for name, content in vars(cls).items() if name in _IN_KEYS}
        | {"__module__": module},
        frozen=True,
    )


def test_a_class_that_moves_within_the_package_keeps_its_key(demo):
    clusters = demo["clusters"]
    fields = {field.name: getattr(clusters, field.name) for field in dataclasses.fields(clusters)}
    elsewhere = moved(type(clusters), "xmas.another.room")(**fields)
    assert type(elsewhere).__module__ == "xmas.another.room"
    assert key(elsewhere) == key(clusters)


def test_a_class_outside_the_package_is_known_by_its_dotted_name(demo):
    clusters = demo["clusters"]
    fields = {field.name: getattr(clusters, field.name) for field in dataclasses.fields(clusters)}
    theirs = moved(type(clusters), "theirs.clusters")(**fields)
    assert describe(theirs)["type"] == "theirs.clusters.Clusters"
    assert describe(clusters)["type"] == "Clusters"
    assert key(theirs) != key(clusters)


def test_a_result_of_the_time_of_dotted_names_is_read_with_those_of_today(tmp_path):
    described = {
        "type": "xmas.cluster.Clusters",
        "features": {"type": "xmas.features.trajectories.Trajectories", "k": 3},
        "pool": {"type": "theirs.pool.Pool", "name": "xmas.cluster.Clusters"},
    }
    (tmp_path / "meta.json").write_text(json.dumps({"stage": described}))
    stage = read_meta(tmp_path / "meta.json")["stage"]
    assert stage["type"] == "Clusters"
    assert stage["features"] == {"type": "Trajectories", "k": 3}
    assert stage["pool"] == {"type": "theirs.pool.Pool", "name": "xmas.cluster.Clusters"}
