"""Experiments of published results: they compose, fit their pools, and quote what the table has."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from xmas.cli.config import build, folder
from xmas.results.table.published import published
from xmas.store import key

CONF = Path(folder()) / "experiment"
NAMES = sorted({path.stem for path in CONF.glob("*.yaml")} - {"demo", "smoke"})
HEADER = re.compile(r"# Published (\w+): (.+?) on (\w+); (.+) \(([a-z ]+)\):$")
ROW = re.compile(r"#   (.+?): (\d.*)$")


def composed(name: str, *overrides: str):
    with initialize_config_dir(folder(), version_base="1.3"):
        return compose("config", [f"experiment={name}", *overrides], return_hydra_config=True)


def quoted(name: str) -> list[tuple[str, str, str, str, str, float, float]]:
    """(benchmark, target, pool, source, method, budget, value) of every number in the comments."""
    found, header = [], None
    for line in (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if started := HEADER.match(line):
            header = started.groups()[:4]
        elif (row := ROW.match(line)) and header:
            for point in row[2].split(", "):
                budget, value = map(float, point.split())
                found.append((*header, row[1], budget, value))
        else:
            header = None
    return found


def jobs(name: str) -> list[list[str]]:
    """The overrides of every job of `xmas -m experiment=NAME`."""
    params = composed(name).hydra.sweeper.params
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


@pytest.mark.parametrize("name", NAMES)
def test_quoted_numbers_are_the_table_s(name):
    known = {
        (benchmark, one.target, one.pool, one.source, one.method, one.budget, value)
        for one in published()
        for benchmark, value in one.scores.items()
    }
    said = quoted(name)
    assert said or "# Published: " in (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    assert not set(said) - known
    assert len(said) == len(set(said))


def test_a_number_that_drifts_is_seen(monkeypatch, tmp_path):
    text = (CONF / "llava665k.yaml").read_text(encoding="utf-8")
    (tmp_path / "llava665k.yaml").write_text(text.replace("0.1 95.4", "0.1 96.4"))
    monkeypatch.setattr("test_experiments.CONF", tmp_path)
    with pytest.raises(AssertionError):
        test_quoted_numbers_are_the_table_s("llava665k")


@pytest.mark.parametrize("name", NAMES)
def test_every_job_composes_with_its_controls_and_three_seeds(name):
    batch = jobs(name)
    assert len({tuple(one) for one in batch}) == len(batch)
    swept = {
        option: {one.split("=", 1)[1] for each in batch for one in each if one.startswith(option)}
        for option in ("seed=", "selector=", "subset.fraction=")
    }
    assert swept["seed="] == {"0", "1", "2"}
    assert {float(each) for each in swept["subset.fraction="]} >= {
        budget for *_, source, _, budget, _ in quoted(name) if budget < 1 and "VisNec" not in source
    }
    first = [one for one in batch if one[-1] == batch[0][-1] and "seed=0" in one]
    for one in first[:1] + batch[-1:]:
        other = ["learned_from.annotations=/dev/null"] if name == "ofa_vision_flan" else []
        cfg = composed(name, *one, "pool.annotations=/dev/null", *other)
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
def test_controls_that_the_papers_lack_are_there(name, controls):
    selectors = set(composed(name).hydra.sweeper.params["selector"].split(","))
    assert controls < selectors


def test_the_13b_s_subsets_are_the_7b_s():
    one, other = (
        build(composed(name, "selector=xmas", "pool.annotations=/dev/null", "seed=1").ranking)
        for name in ("llava665k", "llava665k_13b")
    )
    assert key(one) == key(other)


def test_ofa_carries_over_what_it_learned_on_another_pool(tmp_path):
    for name, text in (("one", "[]"), ("other", "[ ]")):
        (tmp_path / f"{name}.json").write_text(text)
    cfg = composed(
        "ofa_vision_flan",
        "selector=ofa",
        f"pool.annotations={tmp_path}/one.json",
        f"learned_from.annotations={tmp_path}/other.json",
    )
    labels = build(cfg.features.pseudo_labels)
    assert labels.clip.pool.name == "vision_flan"
    assert labels.trained.clip.pool.name == "llava665k"
    assert labels.trained.clip.clip == labels.clip.clip
    own = build(composed("ofa", "selector=ofa", "pool.annotations=/dev/null").features).get(
        "pseudo_labels"
    )
    assert own.trained.clip == own.clip


@pytest.mark.parametrize(
    ("name", "file"),
    [("llava665k", "llava_v1_5_mix665k.json"), ("vision_flan", "annotation_191-task_1k.json")],
)
def test_pools_know_their_files(name, file, monkeypatch):
    monkeypatch.setenv("XMAS_DATA", "/data")
    with initialize_config_dir(folder(), version_base="1.3"):
        cfg = compose("config", [f"pool={name}", "~experiment"])
    assert cfg.pool.annotations == f"/data/{file}"
    assert cfg.pool.name == name
    assert ("ocr_vqa" in cfg.doctor.known) == (name == "llava665k")
    assert build(cfg.estimate.assumed).rows == (665298 if name == "llava665k" else 186000)
