"""Experiments of published results: they compose, fit their pools, and name published rows."""

import csv
import re
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from xmas.cli.config import build, folder
from xmas.results.published_results import FILE
from xmas.store import key

CONF = Path(folder()) / "experiment"
NAMES = sorted({path.stem for path in CONF.glob("*.yaml")} - {"demo", "exam", "smoke", "own_pool"})
HEADING = "# Published numbers are these rows of xmas/results/published.csv:"
NAMED = re.compile(r"#   (\w+) at (.+?): (.+?) on (\w+); (.+) \(([a-z ]+)\)$")


def named(name: str) -> list[tuple[str, str, str, str, str, float]]:
    """(benchmark, target, pool, source, kind, budget) of the rows that an experiment names."""
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    if HEADING not in lines:
        return []
    rows = []
    for line in lines[lines.index(HEADING) + 1 :]:
        if not (row := NAMED.match(line)):
            break
        benchmark, budgets, *about = row.groups()
        rows += [(benchmark, *about, float(budget)) for budget in budgets.split(", ")]
    return rows


def jobs(cfg: DictConfig) -> list[list[str]]:
    """The overrides of every job of `xmas -m experiment=NAME`, of its configuration."""
    params = cfg.hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    return batch


def test_all_are_found():
    assert set(NAMES) >= {
        *("llava665k", "vision_flan", "llava665k_13b", "aggregation", "singular_values"),
        *("cluster_count", "snapshots", "stability", "coincide"),
        *("ofa", "ofa_vision_flan", "ofa_qwen25_vl_3b"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_command_on_top_runs_it(name):
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith(f"# xmas -m goal=scores experiment={name}  ")
    assert re.search(r"GPU hours .* goal=estimate", "\n".join(lines[:6]))


def published_rows() -> set[tuple[str, str, str, str, str, float]]:
    own = ("benchmark", "target", "pool", "source", "kind")
    with FILE.open(encoding="utf-8", newline="") as file:
        return {(*(line[x] for x in own), float(line["budget"])) for line in csv.DictReader(file)}


@pytest.mark.parametrize("name", NAMES)
def test_the_published_rows_an_experiment_names_exist(name):
    rows = named(name)
    assert rows or "# Published: " in (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    assert not set(rows) - published_rows()
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("name", NAMES)
def test_no_experiment_repeats_a_published_number(name):
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    below = text.partition(HEADING)[2]  # GPU hours are above
    comments = [line.partition("#")[2] for line in below.splitlines()]
    words = {word.strip(",;:()") for line in comments for word in line.split()}
    with FILE.open(encoding="utf-8", newline="") as file:
        values = {line["value"] for line in csv.DictReader(file) if line["benchmark"] == "ARP"}
    assert not words & {value for value in values if float(value) > 50} - {"100"}


@pytest.mark.parametrize(
    ("now", "then"), [("arp_results.png", "arp.png"), ("at 0.1, 0.2", "at 0.1, 0.25")]
)
def test_a_row_that_is_not_in_the_file_is_noticed(monkeypatch, tmp_path, now, then):
    text = (CONF / "llava665k.yaml").read_text(encoding="utf-8")
    assert now in text
    (tmp_path / "llava665k.yaml").write_text(text.replace(now, then))
    monkeypatch.setattr("test_experiments.CONF", tmp_path)
    with pytest.raises(AssertionError):
        test_the_published_rows_an_experiment_names_exist("llava665k")


@pytest.mark.parametrize("name", NAMES)
def test_every_job_composes_with_its_controls_and_three_seeds(name, compose):
    batch = jobs(compose(f"experiment={name}", hydra_node=True))
    assert len({tuple(one) for one in batch}) == len(batch)
    swept = {
        option: {one.split("=", 1)[1] for each in batch for one in each if one.startswith(option)}
        for option in ("seed=", "selector=", "subset.fraction=")
    }
    assert swept["seed="] == {"0", "1", "2"}
    assert {float(each) for each in swept["subset.fraction="]} >= {
        budget for *_, source, _, budget in named(name) if "VisNec" not in source
    }
    first = [one for one in batch if one[-1] == batch[0][-1] and "seed=0" in one]
    for one in first[:1] + batch[-1:]:
        other = ["learned_from.annotations=/dev/null"] if name == "ofa_vision_flan" else []
        cfg = compose(f"experiment={name}", *one, "pool.annotations=/dev/null", *other)
        assert len(key(build(cfg.subset))) == 12
        assert build(cfg.scores).target.recipe.epochs == 1


@pytest.mark.parametrize(
    ("name", "controls"),
    [
        ("llava665k", {"random", "random_text_share", "length", "random_in_clusters"}),
        ("vision_flan", {"random", "length", "random_in_clusters"}),
        ("coincide", {"random", "length", "stratified"}),
        ("ofa", {"random", "length", "typiclust"}),
        ("stability", {"random_in_clusters"}),
    ],
)
def test_controls_that_the_papers_lack_are_there(name, controls, compose):
    cfg = compose(f"experiment={name}", hydra_node=True)
    selectors = set(cfg.hydra.sweeper.params["selector"].split(","))
    assert controls < selectors


def test_the_13b_s_subsets_are_the_7b_s(compose):
    options = ("selector=xmas", "pool.annotations=/dev/null", "seed=1")
    one, other = (
        build(compose(f"experiment={name}", *options).ranking)
        for name in ("llava665k", "llava665k_13b")
    )
    assert key(one) == key(other)


def test_ofa_carries_over_what_it_learned_on_another_pool(compose, tmp_path):
    for name, text in (("one", "[]"), ("other", "[ ]")):
        (tmp_path / f"{name}.json").write_text(text)
    cfg = compose(
        "experiment=ofa_vision_flan",
        "selector=ofa",
        f"pool.annotations={tmp_path}/one.json",
        f"learned_from.annotations={tmp_path}/other.json",
    )
    labels = build(cfg.features.pseudo_labels)
    assert labels.clip.pool.name == "vision_flan"
    assert labels.trained.clip.pool.name == "llava665k"
    assert labels.trained.clip.clip == labels.clip.clip
    options = ("experiment=ofa", "selector=ofa", "pool.annotations=/dev/null")
    own = build(compose(*options).features)["pseudo_labels"]
    assert own.trained.clip == own.clip


@pytest.mark.parametrize(
    ("name", "file"),
    [("llava665k", "llava_v1_5_mix665k.json"), ("vision_flan", "annotation_191-task_1k.json")],
)
def test_pools_know_their_files(name, file, compose, monkeypatch):
    monkeypatch.setenv("XMAS_DATA", "/data")
    cfg = compose(f"pool={name}", "~experiment")
    assert cfg.pool.annotations == f"/data/{file}"
    assert cfg.pool.name == name
    assert ("ocr_vqa" in cfg.doctor.known) == (name == "llava665k")
    assert build(cfg.estimate.assumed).rows == (665298 if name == "llava665k" else 186000)
