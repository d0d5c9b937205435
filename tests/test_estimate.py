"""The estimate: the stages of a goal, what is counted and what assumed, and nothing is made."""

import dataclasses
import importlib
import json
import pkgutil
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from toy import (
    HARDWARE,
    MAX_LENGTH,
    PICTURES,
    RECIPE,
    ROWS,
    TEMPLATE,
    TEXT_ONLY,
    declared,
    recorded,
    shared,
)

import xmas
from xmas.cli.config import build
from xmas.data.planted.planting import Planting
from xmas.data.pool import Pool
from xmas.data.rows import PoolError
from xmas.demo.bench import DemoBench
from xmas.demo.pool import DemoPool
from xmas.demo.pretraining import IN_WORDS
from xmas.estimate import Estimate
from xmas.estimate.assumed import Assumed, demo_files
from xmas.estimate.census import count
from xmas.estimate.page import render
from xmas.estimate.per_stage.answering import answering
from xmas.estimate.per_stage.fits import fit_work
from xmas.estimate.per_stage.forward_passes import scan_load
from xmas.estimate.question_counts import QuestionCounts, count_questions
from xmas.estimate.stage_estimates import StageEstimate
from xmas.estimate.work import Context, Phase, Work, work
from xmas.evaluation.benchmarks.gqa import Gqa
from xmas.evaluation.benchmarks.sqa import Sqa
from xmas.evaluation.generation.endpoint_generation import EndpointGeneration
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.quick import Quick
from xmas.evaluation.reference import Reference
from xmas.evaluation.scores import Score, Scores
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.once_select.once_select import OnceSelect
from xmas.features.once_select.pseudo_labels import PseudoLabels
from xmas.models.chat.tokens import Tokenised
from xmas.models.checked_images import CheckedImages
from xmas.models.shape import LLAVA_15_7B, TINYLLAVA
from xmas.models.vision_cache import VisionFeatures
from xmas.results.audit import Audit
from xmas.results.exam.exam import Exam
from xmas.selection.methods.coincide import Coincide
from xmas.selection.methods.ofa import Ofa
from xmas.selection.methods.random import Random
from xmas.selection.methods.random_in_clusters import RandomInClusters
from xmas.selection.methods.semdedup import Semdedup
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Made, Stage, Store, key, volatile
from xmas.store.planned_stages import planned_stages
from xmas.training.fit.batch_plan import plan_batches
from xmas.training.fit.lora import Lora
from xmas.training.fit.recipe import Device, Hardware

GPU = Device(
    "a GPU", tflops_16=100, tflops_32=10, bandwidth=1000, memory=80, fit=0.5, forward=0.8, reads=0.5
)
CPU = Hardware("cpu", device=dataclasses.replace(GPU, name="a CPU"))


@pytest.fixture
def empty(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def context(store: Store, *tokens: Tokenised, hardware: Hardware = CPU) -> Context:
    return Context(store, hardware, Assumed(), tokens)


def estimate(toy, goal: Stage, hardware: Hardware = CPU) -> Estimate:
    reference = Reference(toy.target())
    return Estimate("it", goal, reference, hardware)


def lines(text: str) -> dict[str, list[str]]:
    """The lines of a table by their first word."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line:
            found.setdefault(line.split()[0], []).append(line)
    return found


# --- plan ---


GOALS = """xmas coincide length random target tokens audit audit_of_names exam ofa
  ofa_of_another_pool""".split()


def goals(toy) -> dict[str, Callable[[], Stage]]:
    """Goals that ask the store for more or less than their fields hold."""
    clip = ClipEmbeddings(toy.pool, toy.towers)
    trained = OnceSelect(clip, k=3, nearest=0.5, epochs=2)
    ofa = Ofa(PseudoLabels(clip, trained))
    found: dict[str, Callable[[], Stage]] = {
        name: lambda name=name: Ranking(toy.pool, getattr(toy, name))
        for name in ("xmas", "coincide", "length")
    }
    return found | {
        "random": toy.subset,
        "target": toy.target,
        "tokens": lambda: toy.subset(rows=None, tokens=600, counted=toy.proxy),
        "audit": lambda: Audit(toy.subset(), counted=toy.proxy),
        "audit_of_names": lambda: Audit(toy.subset(), images=False),
        "exam": lambda: Exam(
            toy.pool,
            {"random": Random(), "length": toy.length},
            seeds=(0, 1),
            fit_seeds=(0, 1),
            rows=37,
            planting=Planting(inflated=0, empty=0, one_token=0),
        ),
        "ofa": lambda: toy.subset(ofa, text_only="proportional"),
        "ofa_of_another_pool": lambda: toy.subset(
            dataclasses.replace(ofa, trained=str(toy.store.get(trained))), text_only="proportional"
        ),
    }


@pytest.mark.parametrize("name", GOALS)
def test_the_plan_is_what_is_asked_of_the_store(toy, tmp_path, monkeypatch, name):
    """No stage is planned that does not run, none runs that is not planned."""
    goal = goals(toy)[name]()
    (tmp_path / name).mkdir()
    store = shared(toy, tmp_path / name)
    for kind in ("ranking", "subset"):
        (tmp_path / name / kind).unlink()
    asked: dict[tuple[str, str], None] = {}
    get = Store.get

    def noted(self: Store, stage: Stage) -> Path:
        asked[stage.kind, key(stage)] = None
        return get(self, stage)

    monkeypatch.setattr(Store, "get", noted)
    planned = {(stage.kind, key(stage)) for stage in planned_stages(goal)}
    store.get(goal)
    of_the_start = {(each.kind, key(each)) for each in planned_stages(toy.start)}
    assert set(asked) <= planned
    assert planned - set(asked) <= of_the_start  # was there, so nothing of it was asked for
    for stage in planned_stages(goal):
        if store.path(stage).exists():
            assert recorded(store, stage) == declared(stage), type(stage).__name__


@dataclasses.dataclass(frozen=True)
class CopiedPool(Stage):
    """A stage that makes a pool, as the demo's does."""

    kind: ClassVar[str] = "copied_pool"

    folder: str = volatile()

    def compute(self, store: Store, out: Path) -> None:
        shutil.copytree(Path(self.folder) / "images", out / "images")
        shutil.copy(Path(self.folder) / "pool.json", out)


def test_a_pool_that_a_stage_makes_is_declared_by_all_that_open_it(toy, tmp_path):
    made = CopiedPool(str(toy.folder))
    pool = Pool(Made(made, "pool.json"), Made(made, "images"), name="copied")
    (tmp_path / "store").mkdir()
    store = shared(toy, tmp_path / "store")
    proxy = dataclasses.replace(toy.proxy, pool=pool)
    looks = dataclasses.replace(toy.coincide.features, proxy=proxy)
    coincide = Coincide(looks, dataclasses.replace(toy.coincide.clusters, features=looks))
    selected = Subset(Ranking(pool, coincide), rows=17, text_only="ranked")
    by_length = Ranking(pool, dataclasses.replace(toy.length, proxy=proxy))
    target = toy.target(selected, cache_vision=False)
    for goal in (by_length, target):
        store.get(goal)
        for stage in planned_stages(goal):
            if stage not in planned_stages(toy.start):
                assert recorded(store, stage) == declared(stage), type(stage).__name__
    opening = (by_length, selected, target, looks, proxy.tokens(), CheckedImages(pool))
    assert all(f"copied_pool/{key(made)}" in recorded(store, stage) for stage in opening)


def test_the_plan_of_a_start_has_all_that_the_session_made_for_it(toy):
    toy.store.get(toy.start)
    assert all(toy.store.path(stage).exists() for stage in planned_stages(toy.start))


def test_a_budget_in_tokens_is_planned_without_a_fit_and_counted_in_rows(toy, empty):
    subset = toy.subset(Random(), fraction=None, tokens=600, counted=toy.proxy)
    kinds = [each.kind for each in planned_stages(subset)]
    assert kinds[-2:] == ["tokens", "subset"]
    assert "proxy" not in kinds
    lengths = toy.proxy.tokens().open(toy.store).text_lengths
    seen = context(toy.store, toy.proxy.tokens())
    rows = int(600 / lengths.mean())
    assert 2 < rows < ROWS
    assert work(subset, seen).what == f"{rows} rows cut and copied"
    learnt = work(toy.target(subset), seen)
    assert learnt.what == f"the target learns {rows} rows, LoRA of rank 4"
    whole = toy.subset(Random(), fraction=None, tokens=10**9, counted=toy.proxy)
    assert work(whole, seen).what == f"{ROWS} rows cut and copied"


def test_a_target_s_variant_of_lora_is_what_its_estimate_counts(toy):
    plain = toy.target(lora=Lora(4, 8, targets=["q_proj"]))
    variant = toy.target(lora=Lora(4, 8, dora=True))
    on_4_bits = dataclasses.replace(variant, hardware=dataclasses.replace(CPU, quantise="nf4"))
    works = [work(target, context(toy.store)) for target in (plain, variant, on_4_bits)]
    names = [each.what.rpartition(", ")[2] for each in works]
    assert names == ["LoRA of rank 4", "DoRA of rank 4", "DoRA of rank 4 on 4-bit weights"]
    decoder = toy.start.shape().decoder
    projector = toy.start.shape().projector_parameters
    thin = 4 * 2 * (decoder.width + decoder.heads * decoder.head_dim)
    magnitudes = decoder.layers * sum(outputs for _, outputs in decoder.matrices)
    assert works[0].disk == 4 * (thin + projector)
    assert works[1].disk == works[2].disk == 4 * (decoder.lora(4) + magnitudes + projector)
    assert works[1].flops > works[0].flops
    assert works[2].device < works[1].device


def test_rankings_have_the_names_of_their_selectors(toy):
    ranking = Ranking(toy.pool, Semdedup(toy.clusters, toy.clusters))
    assert work(ranking, context(toy.store)).what == f"semdedup ranks {ROWS} rows"
    ranking = Ranking(toy.pool, RandomInClusters(toy.clusters))
    assert work(ranking, context(toy.store)).what == f"random_in_clusters ranks {ROWS} rows"


def test_scores_plan_every_benchmark_for_target_and_reference(toy):
    gqa = Gqa(*(Made(DemoBench(), name) for name in ("a", "b", "c")), count=None)
    goal = Scores({"gqa": gqa}, toy.target(), Reference(toy.target(), seeds=(3, 5)))
    planned = planned_stages(goal)
    kinds = [stage.kind for stage in planned]
    assert kinds.count("score") == kinds.count("target") == 3
    assert kinds.count("demo_bench") == kinds.count("pretrained") == 1
    assert kinds[-1] == "scores"
    seeds = [stage.target.seed for stage in planned if isinstance(stage, Score)]
    assert seeds == [3, 5, 0]
    quick = [
        one for one in planned_stages(dataclasses.replace(goal, quick=9)) if isinstance(one, Score)
    ]
    assert [score.benchmark for score in quick] == [Quick(gqa, 9)] * 3


def test_images_are_checked_where_no_features_are_kept(toy):
    cached, read = (dataclasses.replace(toy.proxy, cache_vision=it) for it in (True, False))
    of_pool = {type(stage) for stage in planned_stages(cached)} - {
        type(stage) for stage in planned_stages(read)
    }
    assert of_pool == set()  # the start keeps features in both
    assert not any(isinstance(stage, CheckedImages) for stage in planned_stages(cached))
    assert any(isinstance(stage, CheckedImages) for stage in planned_stages(read))


def subclasses(cls: type) -> Iterator[type]:
    for inner in cls.__subclasses__():
        yield inner
        yield from subclasses(inner)


def test_every_stage_says_what_it_costs():
    for module in pkgutil.walk_packages(xmas.__path__, "xmas."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    concrete = [
        cls
        for cls in subclasses(Stage)
        if hasattr(cls, "kind") and getattr(sys.modules.get(cls.__module__), cls.__name__, 0) is cls
        if cls.__module__.startswith("xmas.")  # examples of other tests are no longer modules
    ]
    assert len(concrete) >= 35
    unknown = [cls.__name__ for cls in concrete if work.dispatch(cls) is work.dispatch(object)]
    assert unknown == []


# --- census ---


def test_a_pool_at_hand_is_counted(toy):
    tokens = toy.proxy.tokens()
    table = tokens.open(toy.store)
    census = count(toy.pool, tokens, toy.store, Assumed())
    assert (census.rows, census.images) == (ROWS, PICTURES)
    assert census.pictured == ROWS - len(TEXT_ONLY)
    assert census.text.tolist() == table.text_lengths.tolist()
    assert census.answers.tolist() == [table[row].labelled.sum() for row in range(ROWS)]
    assert census.lengths(16, MAX_LENGTH).tolist() == table.lengths.tolist()
    assert census.how == "rows and images counted, lengths from the tokens of all rows"


def test_a_tokenizer_at_hand_gives_the_same_lengths_as_its_tokens(toy, empty):
    tokens = toy.proxy.tokens()
    place = Path(empty.root)
    place.mkdir()
    toy.store.get(toy.tokenizer)
    (place / "tokenizer").symlink_to(Path(toy.store.root) / "tokenizer")
    census = count(toy.pool, tokens, empty, Assumed())
    known = count(toy.pool, tokens, toy.store, Assumed())
    assert census.text.tolist() == known.text.tolist()
    assert census.answers.tolist() == known.answers.tolist()
    assert "from tokenising all rows" in census.how
    assert [each.name for each in place.iterdir()] == ["tokenizer"]


def test_without_a_tokenizer_characters_stand_for_tokens(toy, empty):
    census = count(toy.pool, toy.proxy.tokens(), empty, Assumed(letters=2.0))
    examples = toy.pool.open(toy.store)
    chunks, answers = TEMPLATE.render(examples.turns(5))
    assert census.text[5] == sum(map(len, chunks)) / 2
    assert census.answers[5] == sum(stop - start for _, start, stop in answers) / 2
    assert "2 a token assumed" in census.how


def test_large_pools_are_sampled(toy):
    census = count(toy.pool, toy.proxy.tokens(), toy.store, Assumed(), sample=17)
    assert len(census.text) == len(census.has_image) == 17
    assert census.rows == ROWS
    assert census.scale == ROWS / 17
    assert "a sample of 17 rows" in census.how


def test_a_pool_that_is_not_drawn_has_its_configured_rows(empty):
    drawn = DemoPool(rows=700, captions=900, facts=400, claims=300, choices=100, reviews=200)
    census_of = {}
    for name in ("pool", "captions", *IN_WORDS):
        pool = Pool(Made(drawn, f"{name}.json"), Made(drawn, "images"))
        census_of[name] = count(pool, None, empty, Assumed())
        assert "not drawn yet" in census_of[name].how
    assert [each.rows for each in census_of.values()] == [700, 900, 400, 300, 100, 200]
    assert census_of["captions"].images == round(census_of["captions"].pictured) == 900
    assert round(census_of["pool"].pictured) == 658
    for name, in_words in IN_WORDS.items():
        census = census_of[name]
        assert census.pictured == pytest.approx((1 - in_words) * census.rows)
        assert census.images <= census.pictured + 1


def test_the_assumed_files_of_a_demo_pool_are_nearly_those_that_are_drawn(empty):
    """At other sizes than the default ones, which lengths and bytes were measured at."""
    stage = DemoPool(
        rows=151, captions=101, facts=149, claims=151, choices=149, reviews=151, concepts=61
    )
    folder = empty.get(stage)
    for file, assumed in demo_files(stage).items():
        pool = Pool(Made(stage, file), Made(stage, "images"))
        drawn = count(pool, None, empty, Assumed())
        assert drawn.rows == assumed.rows
        assert float(drawn.has_image.mean()) == pytest.approx(assumed.with_image, abs=0.1)
        assert drawn.images == pytest.approx(assumed.images, abs=3 * assumed.images**0.5)
        assert drawn.size == (folder / file).stat().st_size
        assert drawn.size / drawn.rows == pytest.approx(assumed.record, rel=0.4), file
    records = sum((folder / file).stat().st_size for file in demo_files(stage))
    drawings = sum(path.stat().st_size for path in folder.rglob("*.png"))
    costs = work(stage, context(empty))
    assert costs.disk == pytest.approx(records + drawings, rel=0.2)


def test_a_pool_without_files_is_assumed_and_says_so(empty):
    census = count(Pool("absent.json", "."), None, empty, Assumed(rows=1009, text=50.0))
    assert census.rows == 1009
    assert census.text.mean() == pytest.approx(50, rel=0.03)
    assert census.text.std() == pytest.approx(50, rel=0.15)
    assert census.how == "absent.json is not there: rows, images and lengths are all assumed"


def test_a_damaged_pool_is_named(tmp_path, empty):
    (tmp_path / "pool.json").write_text('[{"id": 1}]')
    with pytest.raises(PoolError, match="row 0"):
        count(Pool(str(tmp_path / "pool.json"), "."), None, empty, Assumed())


# --- work ---


def test_seconds_by_hand():
    fit = Work("a fit", flops=50e12, bits=16, share="fit")
    gpu = Hardware("gpu", devices=2, device=GPU)
    assert fit.seconds(gpu) == pytest.approx(50e12 / (100e12 * 0.5) / 2)
    forward = Work("a pass", flops=16e12, bits=32)
    assert forward.seconds(gpu) == pytest.approx(16e12 / (10e12 * 0.8) / 2)
    decoding = Work("answers", flops=1.0, traffic=4e12)
    assert decoding.seconds(gpu) == pytest.approx(4e12 / (1e12 * 0.5) / 2)


def test_decode_steps_come_after_the_prompts_and_each_is_bound_by_one_thing():
    """Prompts of 3 s by FLOPs; steps of 2 s by FLOPs, 4 s by bandwidth, 6 s by launches."""
    steps = Phase(flops=16e12, traffic=2e12, launching=6.0)
    both = Work("answers", 24e12 + 16e12, 32, traffic=2e12, launching=7.0, decoding=steps)
    assert both.seconds(Hardware("gpu", device=GPU)) == pytest.approx(3 + 6)
    replayed = dataclasses.replace(
        both, launching=1.0, decoding=dataclasses.replace(steps, launching=0)
    )
    assert replayed.seconds(Hardware("gpu", device=GPU)) == pytest.approx(3 + 4)
    assert both.seconds(CPU) == pytest.approx(3 + 1 + 4 + 6)  # the same cores launch and compute


def test_images_are_read_beside_a_gpu_and_before_a_cpu():
    both = Work("a pass", flops=16e12, core_seconds=30.0, readers=5)
    assert both.seconds(Hardware("gpu", device=GPU)) == pytest.approx(max(2, 30 / 5))
    assert both.seconds(CPU) == pytest.approx(2 + 30 / 5)


def test_hardware_without_a_device_is_refused_with_what_to_set():
    with pytest.raises(ValueError, match=r"hardware\.device is not given"):
        Work("a fit").seconds(HARDWARE)


def test_a_fit_counts_the_pads_of_its_own_batches(toy):
    """Tokens of the loader's batches, not of the rows; packed ones have no pads."""
    from xmas.estimate import flops
    from xmas.estimate.flops import Load
    from xmas.training.fit.memory import FitMemory, states

    tokens, shape = toy.proxy.tokens(), toy.start.shape()
    table = tokens.open(toy.store)
    lengths = table.lengths.astype(float)
    batches = plan_batches(table, np.arange(ROWS), RECIPE, seed=0).batches
    counts = np.array([table[row].labelled.sum() for row in range(ROWS)])
    answers, images = int(counts.sum()), ROWS - len(TEXT_ONLY)
    wide = np.concatenate([np.full(len(batch), lengths[batch].max()) for batch in batches])
    totals = {
        False: [len(batch) * lengths[batch].max() for batch in batches],
        True: [lengths[batch].sum() for batch in batches],
    }
    assert max(totals[True]) < max(totals[False])
    kept = FitMemory(shape.decoder, states(shape, bits=32), 32)

    def found(recipe=RECIPE, **hardware) -> Work:
        return fit_work(
            "it", context(toy.store, tokens), tokens, shape, recipe, rows=ROWS, cached=True,
            hardware=dataclasses.replace(HARDWARE, **hardware),
        )  # fmt: skip

    for packing, widths in ((False, wide), (True, lengths)):
        load = Load(ROWS, float(widths.sum()), float((widths**2).sum()), answers, images)
        for share in (0.0, 0.5):
            said = found(packing=packing, checkpointing=share)
            wanted = flops.fit(shape, load, towers=0, checkpointing=share)
            assert said.flops == pytest.approx(wanted)
            assert said.device == pytest.approx(
                max(
                    kept.peak(total, int(counts[batch].sum()), round(share * shape.decoder.layers))
                    for total, batch in zip(totals[packing], batches, strict=True)
                )
            )
    assert found(checkpointing=0.5).flops > found().flops
    twice = found(dataclasses.replace(RECIPE, epochs=2))
    assert twice.flops == pytest.approx(2 * found().flops)


def test_hardware_packs_and_recomputes_in_every_fit(toy):
    """One configuration's `hardware` in the proxy, the start point and the target."""
    hard = dataclasses.replace(HARDWARE, packing=True, checkpointing=1.0)
    known = context(toy.store, toy.proxy.tokens())
    for stage in (toy.proxy, toy.start, toy.target()):
        plain = work(stage, known)
        packed = work(dataclasses.replace(stage, hardware=hard), known)
        assert packed.device < plain.device
        assert packed.flops != plain.flops


def test_a_shape_is_that_of_the_model_it_becomes(toy):
    from xmas.models.families import family_of
    from xmas.models.vlm import load

    config = load(toy.store.get(toy.untrained)).model.config
    said, found = toy.start.shape(), family_of(config).shape(config)
    vocabulary = said.decoder.vocabulary  # at most: a pool of 41 rows has fewer pairs
    assert vocabulary >= found.decoder.vocabulary
    assert said == dataclasses.replace(
        found, decoder=dataclasses.replace(found.decoder, vocabulary=vocabulary)
    )


def test_disk_is_about_what_is_written(toy):
    toy.store.get(toy.target())
    toy.store.get(toy.clusters)
    tokens = toy.proxy.tokens()
    looks, concepts = toy.coincide.features, toy.coincide.clusters
    fitted = (toy.untrained, toy.start, toy.vision, toy.proxy, toy.trajectories)
    for stage in (*fitted, tokens, looks, concepts):
        folder = toy.store.get(stage)
        skipped = ("tokenizer.json", "meta.json", "loss.csv")
        written = sum(
            file.stat().st_size
            for file in folder.rglob("*")
            if file.is_file() and file.name not in skipped
        )
        said = work(stage, context(toy.store, tokens, toy.start.tokens()))
        assert said.disk == pytest.approx(written, rel=0.35, abs=8000), stage.kind


def test_prefixes_are_shared_where_images_are_asked_about_often(toy):
    census = count(toy.pool, toy.proxy.tokens(), toy.store, Assumed())
    load, text = scan_load(census, toy.start.shape(), MAX_LENGTH)
    assert load.images == len(text) == ROWS - len(TEXT_ONLY)
    said = work(toy.trajectories, context(toy.store, toy.proxy.tokens()))
    assert "prefixes shared by 2.62 rows an image" in said.what
    assert load.sharing(16, 34 / 13).tokens == pytest.approx(load.tokens - (34 - 13) * 16)


def test_a_scan_is_priced_in_the_bits_it_runs_in(toy, empty):
    recipe = dataclasses.replace(toy.proxy.recipe, precision="bf16-mixed")
    proxy = dataclasses.replace(toy.proxy, recipe=recipe)
    half = work(dataclasses.replace(toy.trajectories, proxy=proxy), context(empty))
    full = work(toy.trajectories, context(empty))
    assert (half.bits, full.bits) == (16, 32)
    assert half.flops == full.flops


def test_a_fitted_proxy_is_scanned_in_one_pass_over_the_images(toy, empty):
    read = dataclasses.replace(toy.proxy, cache_vision=False)
    stage = dataclasses.replace(toy.trajectories, proxy=read)
    fresh, cached = (work(each, context(empty)) for each in (stage, toy.trajectories))
    place = empty.path(read)
    place.mkdir(parents=True)
    fitted = work(stage, context(empty))
    assert cached.core_seconds == 0
    assert fresh.core_seconds == pytest.approx(3 * fitted.core_seconds)
    assert fresh.flops - cached.flops == pytest.approx(3 * (fitted.flops - cached.flops))


def test_questions_are_official_configured_or_counted(empty, tmp_path):
    made = DemoBench(questions=10)
    gqa = Gqa(Made(made, "q.jsonl"), Made(made, "a.json"), Made(made, "images"))
    assert count_questions(gqa, empty) == QuestionCounts(12578, 12578, 398, "(official)")
    drawn = dataclasses.replace(gqa, count=None)
    assert count_questions(drawn, empty) == QuestionCounts(20, 20, 20, "(as configured)")
    sqa = Sqa("absent.json", "absent.json", "absent.json", ".")
    assert count_questions(sqa, empty) == QuestionCounts(4241, 2017, 2017, "(official)")
    rows = [{"question_id": str(n), "text": "Red?", "image": f"{n % 3}.png"} for n in range(7)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text("{}")
    own = Gqa(str(tmp_path / "q.jsonl"), str(tmp_path / "a.json"), str(tmp_path), count=None)
    assert count_questions(own, empty) == QuestionCounts(7, 7, 3, "(counted)")
    # 3 (1 - (2/7)^(7/3)) = 2.84 images
    assert count_questions(Quick(own, 5), empty) == QuestionCounts(5, 5, 3, "(drawn)")
    # 3 (1 - (5/7)^(7/3)) = 1.63 images
    assert count_questions(Quick(own, 2), empty) == QuestionCounts(2, 2, 2, "(drawn)")
    assert count_questions(Quick(own, 9), empty) == QuestionCounts(7, 7, 3, "(drawn)")


def test_an_image_passes_the_tower_once_however_often_it_is_asked_about(toy, tmp_path, empty):
    from xmas.estimate import flops

    shape, found = toy.start.shape(), {}
    (tmp_path / "a.json").write_text("{}")
    for images in (3, 7):
        rows = [{"question_id": str(n), "text": "?", "image": f"{n % images}"} for n in range(7)]
        (tmp_path / f"{images}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        own = Gqa(str(tmp_path / f"{images}.jsonl"), str(tmp_path / "a.json"), ".", count=None)
        found[images] = work(Score(own, toy.target()), context(empty))
    assert found[7].flops - found[3].flops == pytest.approx(flops.tower(shape.tower, 4))
    assert found[3].core_seconds == pytest.approx(3 * Assumed().decode)
    sqa = work(Score(Sqa("a", "a", "a", "."), toy.target()), context(empty))
    assert sqa.core_seconds == pytest.approx(2017 * Assumed().decode)
    load = flops.Load(
        4241, 4241 * 64 + 2017 * 16, 2224 * 64**2 + 2017 * 80**2, images=2017
    )  # prompts of 64 tokens; 2,017 of them with an image of 16
    assert sqa.flops == pytest.approx(flops.generation(shape, load, towers=2017, new=8))


def test_a_server_s_answers_cost_requests_and_tokens_and_no_flops_here(toy, empty):
    """4,241 prompts of 64 tokens, 2,017 with an image of 16; 8 new tokens each."""
    score = Score(Sqa("a", "a", "a", "."), toy.target(), EndpointGeneration(name="vllm-1"))
    cost = work(score, context(empty))
    assert "4,241 requests (official) to endpoint vllm-1, 0.30 M tokens of prompts" in cost.what
    assert "0.03 M of answers" in cost.what
    assert cost.seconds(H100) == 0.0


H100 = Hardware("gpu", device=Device("H100", 989, 67, 3350, 80))
VQAV2_VAL = QuestionCounts(214_354, 214_354, 40_504, "")


def vqav2_hours(batch: int, *, has_graphs: bool) -> float:
    generation = Generation(batch=batch)
    options = {"new": 8, "has_graphs": has_graphs, "assumed": Assumed()}
    return answering("", LLAVA_15_7B, VQAV2_VAL, generation, **options).seconds(H100) / 3600


def test_answers_to_vqav2_by_hand():
    """A 7B model on an H100, 8 tokens an answer, one question at a time.

    A prompt of 640 tokens: 2 * 6.5e9 * 640 and 7 % for attention, tower and head is 9.0 TFLOP, at
    half of 989 TFLOP/s 18 ms. A decode step is 1,313 launches of 8 us, 10.5 ms; replayed it reads
    13.5 GB of weights and 0.34 GB of keys and values at 80 % of 3,350 GB/s, 5.2 ms.
    """
    assert vqav2_hours(1, has_graphs=False) == pytest.approx(
        214_354 * (0.018 + 8 * 0.0105) / 3600, rel=0.05
    )
    assert vqav2_hours(1, has_graphs=True) == pytest.approx(
        214_354 * (0.018 + 8 * 0.0052) / 3600, rel=0.05
    )


def test_a_batch_reads_the_weights_once_and_computes_an_image_once():
    """64 questions share 13.5 GB a step, but not their 22 GB of keys and values; 5.3 of them share
    the 576 tokens of an image."""
    prompts = 40_504 * 576 + 214_354 * 64
    step = (13.5e9 + 64 * 0.336e9) / (0.8 * 3350e9)
    seconds = prompts * 2 * 6.5e9 * 1.05 / (0.5 * 989e12) + 214_354 / 64 * 8 * step
    assert vqav2_hours(64, has_graphs=True) == pytest.approx(seconds / 3600, rel=0.08)
    assert vqav2_hours(64, has_graphs=True) < 0.3 * vqav2_hours(1, has_graphs=True)


# --- page ---


def test_what_is_in_the_store_is_told_with_its_seconds(toy):
    toy.store.get(toy.subset())
    text = estimate(toy, toy.subset()).make(toy.store)
    found = lines(text)
    assert "in store, took 0 s" in found["ranking"][0]
    assert found["next:"] == ["next: nothing, all of it is in the store"]
    assert "0 stages" in found["to"][0]
    assert "41 rows, 13 different images" in text


def test_what_is_to_do_is_told_with_what_comes_first(toy, empty):
    found = lines(estimate(toy, Ranking(toy.pool, toy.xmas)).make(empty))
    assert all(line.endswith("to do") for line in found["proxy"] + found["clusters"])
    assert found["next:"][0].startswith("next: tokenizer: a tokenizer from")
    assert not Path(empty.root).exists()


def test_a_job_of_a_sweep_lists_what_it_shares_with_an_earlier_one(toy, empty):
    first = lines(estimate(toy, Ranking(toy.pool, toy.xmas)).make(empty))
    second = lines(estimate(toy, Ranking(toy.pool, toy.xmas, seed=1)).make(empty))
    assert first["proxy"][0].endswith("to do")
    assert second["proxy"][0].endswith("shared")
    assert second["ranking"][0].endswith("to do")
    assert "1 stages" in second["to"][0]


def test_the_share_is_that_of_training_on_all_rows(toy, empty):
    whole = Reference(toy.target()).targets()[0]
    line = lines(estimate(toy, whole).make(empty))["target"][0]
    assert "1.000" in line


def test_a_begun_stage_is_told(toy, empty):
    goal = toy.subset()
    place = empty.path(goal)
    place.with_name(f".{place.name}").mkdir(parents=True)
    assert lines(estimate(toy, goal).make(empty))["subset"][0].endswith("begun")


def test_files_that_are_not_there_are_no_fault(toy, empty):
    absent = dataclasses.replace(toy.subset(), ranking=Ranking(Pool("no.json", "."), toy.xmas))
    found = lines(estimate(toy, absent).make(empty))
    assert found["subset"][0].endswith("files absent")


def test_wall_clock_and_device_time_are_two_columns_and_never_added(toy, empty):
    """A fit of 160 s of one device on 2 x 4 of them, then 30 s of the host."""
    hardware = Hardware("gpu", devices=4, nodes=2, device=GPU)
    fit = Work("a fit", flops=160 * 50e12, bits=16, share="fit")
    items = [
        StageEstimate(toy.proxy, fit, hardware, "to do"),
        StageEstimate(toy.clusters, Work("k-means", core_seconds=30.0), hardware, "to do"),
    ]
    assert [(item.wall_seconds, item.device_seconds) for item in items] == [(20, 160), (30, 0)]
    text = render("it", items, context(empty, hardware=hardware), 0.0)
    assert "wall clock  device time" in text.splitlines()[2]
    assert re.search(r" 50 s +2\.7 min ", lines(text)["everything"][0])
    assert "8 x a GPU" in text


def test_a_cpu_has_no_device_time(toy):
    item = StageEstimate(toy.proxy, Work("a fit", flops=1e12), CPU, "to do")
    assert item.wall_seconds > 0 == item.device_seconds


def test_what_does_not_fit_is_said(toy, empty):
    item = StageEstimate(toy.proxy, Work("it", flops=1e15, device=90e9, disk=1e18), _gpu(), "to do")
    text = render("it", [item], context(empty, hardware=_gpu()), 1e15)
    assert "TOO LARGE: proxy (it) needs 90 GB, by the estimate, and a a GPU has 80 GB" in text
    assert "DISK TOO SMALL" in text
    assert "90.0 GB" in lines(text)["proxy"][0]


def _gpu() -> Hardware:
    return Hardware("gpu", device=GPU)


def test_a_start_without_a_shape_is_left_out_by_name(toy, empty):
    @dataclasses.dataclass(frozen=True)
    class Bare(Stage):
        kind = "bare"

    text = estimate(toy, VisionFeatures(toy.pool, Bare())).make(empty)
    assert "not estimated, and in no total: bare, vision" in text


def test_a_goal_that_is_no_stage_is_refused(toy):
    with pytest.raises(ValueError, match=r"estimate\.of=it is not a stage"):
        dataclasses.replace(estimate(toy, toy.subset()), goal=None).make(toy.store)


# --- configuration ---


def test_the_goal_is_the_node_that_is_named(compose):
    cfg = compose("estimate.of=clusters.trajectories", "hardware=h100", "hardware.devices=8")
    found = build(cfg.estimate)
    assert found.goal == build(cfg.clusters.trajectories)
    assert found.hardware.devices == 8
    assert found.hardware.device.name.startswith("H100")
    assert found.hardware.accelerator == "gpu"
    assert build(compose("estimate.of=nonsense").estimate).goal is None
    assert build(compose().estimate).of == "scores"


def test_every_hardware_says_what_its_device_is(compose):
    names = [path.stem for path in Path(xmas.__file__).parent.parent.glob("conf/hardware/*.yaml")]
    assert {"a6000", "cpu", "h100", "h200", "one_gpu", "rtx4090"} <= set(names)
    every = compose(*(f"+hardware@each.{name}={name}" for name in names)).each
    for name in names:
        device = build(every[name]).device
        assert device.tflops_16 >= device.tflops_32 > 0
        assert 0 < device.fit < 1


def test_the_release_s_proxy_would_be_too_large_for_a_small_card(empty):
    """Sixteen bytes a parameter and more: a full fit of 1.6 billion in float32."""
    tokens = Tokenised(Pool("absent.json", "."), "nowhere", image=576)
    recipe = dataclasses.replace(RECIPE, batch=32, micro_batch=8, precision="bf16-mixed")
    said = fit_work(
        "it", context(empty), tokens, TINYLLAVA, recipe, rows=665_298, cached=False,
        hardware=Hardware(workers=8),
    )  # fmt: skip
    assert said.device > 30e9
    assert 7e12 < said.flops / 665_298 < 10.2e12  # the release's: checkpointing, all logits
    assert said.core_seconds == pytest.approx(665_298 * 0.939 * 0.008, rel=0.01)


def test_the_command_prints_an_estimate_and_makes_nothing(toy, server, tmp_path):
    store = tmp_path / "store"
    given = ["goal=estimate", *toy.overrides(), f"store.root={store}", "selector=xmas"]
    ended = server.command(*given, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Estimate of goal=scores" in ended.stdout
    assert "next: " in ended.stdout
    assert np.isin(["proxy", "trajectories", "score"], list(lines(ended.stdout))).all()
    assert not store.exists()
