"""The configuration: every file composes and binds, every mistake is answered with a name."""

import dataclasses
import inspect
import itertools
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
from choices import (
    CHOICES,
    CONF,
    EVERY_SELECTOR,
    FILES,
    GROUPS,
    SELECTORS,
    bind,
    choice,
    is_alone,
    place_of,
)
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import Container, DictConfig, Node, OmegaConf
from toy import Toy

from xmas.cli.command import make
from xmas.cli.config import (
    GOALS,
    ConfigError,
    build,
    check_choices,
    goal_node,
    warn_of_demo_values,
)
from xmas.cli.resolved import resolved
from xmas.cli.unknown_settings import check_added, explained
from xmas.data.rows import PoolError
from xmas.store import Stage, Store, distributed, key


def test_all_choices_are_found():
    """Empty globs would let the tests below pass."""
    assert len(GROUPS) >= 11
    assert len(CHOICES) >= 20
    names = {group: {name for each, name in CHOICES if each == group} for group in GROUPS}
    assert {name for each, name in CHOICES if each == "target/recipe"} >= {"lora", "full"}
    assert {"full", "length", "random", "xmas"} <= names["selector"]
    assert {"gqa", "mmbench", "mmbench_cn", "mme", "pope"} <= names["benchmark"]
    assert {"demo", "smoke"} <= names["experiment"]
    assert {"demo", "files"} <= names["pool"]
    assert {"cpu", "one_gpu"} <= names["hardware"]
    assert {"llava15_7b", "llava15_13b", "qwen25_vl_3b", "qwen3_vl_8b"} <= names["target"]


ALONE = [each for each in CHOICES if is_alone(*each) and each[0] != "variant"]  # see test_selectors


@pytest.mark.parametrize(("group", "name"), ALONE, ids=str)
def test_every_choice_composes_and_every_target_binds(group, name, compose):
    assert len(bind(compose(*choice(group, name)))) > 15


def test_all_choices_that_may_stand_together_compose_and_bind(compose):
    together = [each for each in CHOICES if not is_alone(*each)]
    assert len(together) > 60
    places = {place_of(*each): each for each in together}
    cfg = compose(*(f"+{group}@{place}={name}" for place, (group, name) in places.items()))
    bound = bind(cfg)
    for place, each in places.items():
        node = OmegaConf.select(cfg, place)
        assert node, each
        assert place in bound or not has_target(node), each


def has_target(node: DictConfig) -> bool:
    return "_target_" in node


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_selector_is_built(selector, compose):
    subset = build(compose(f"selector={selector}").subset)
    assert isinstance(subset, Stage)
    assert len(key(subset)) == 12  # plain data and stages all the way down
    assert type(subset.ranking.selector).__name__.lower() == selector.replace("_", "")


@pytest.mark.parametrize("experiment", ["smoke", "llava665k"])
def test_every_selector_is_built_in_other_experiments(experiment, compose):
    # Pool and benchmark files are known by their content, and those of the papers are not here.
    files = [*FILES, "validation.only=[]"] if experiment == "llava665k" else []
    cfg = compose(f"experiment={experiment}", *files, *EVERY_SELECTOR)
    subset = build(cfg.subset)
    for name in SELECTORS:
        selector = build(cfg.every[name])
        assert type(selector).__name__.lower() == name.replace("_", "")
        ranking = dataclasses.replace(subset.ranking, selector=selector)
        assert len(key(dataclasses.replace(subset, ranking=ranking))) == 12


def nodes(node: Node, place: str = "") -> Iterator[tuple]:
    """All of a configuration, with what only shows when it is changed or resolved."""
    content = node._content if isinstance(node, Container) else None
    inner = content if isinstance(content, dict) else dict(enumerate(content or ()))
    yield place, type(node), node._metadata.flags or {}, None if inner else node._value()
    for name, child in inner.items():
        assert child._get_parent() is node, f"{place}.{name}"
        yield from nodes(child, f"{place}.{name}")


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=llava665k", "selector=coincide", "hardware=one_gpu", "seed=3"),
        ("experiment=smoke", "target=llava15_7b", "+selector@every.one=length", "~logger"),
    ],
    ids=" ".join,
)
def test_the_compositions_of_tests_are_hydra_s(compose, monkeypatch, overrides):
    compose("experiment=coincide", "seed=4")  # shares most files
    quick, whole = compose(*overrides), compose(*overrides, hydra_node=True)
    loader = GlobalHydra.instance().config_loader()
    assert type(loader.repository) is not ConfigRepository
    monkeypatch.setattr(loader, "repository", ConfigRepository(loader.config_search_path))
    composed = hydra.compose("config", list(overrides), return_hydra_config=True)
    OmegaConf.set_readonly(composed, True)
    assert sorted(nodes(whole), key=str) == sorted(nodes(composed), key=str)
    OmegaConf.set_readonly(composed, False)
    del vars(composed)["_content"]["hydra"]
    OmegaConf.set_readonly(composed, True)
    assert list(nodes(quick)) == list(nodes(composed))


def test_building_does_no_work_and_touches_no_disk(compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = compose(f"store.root={tmp_path / 'store'}", "selector=xmas")
    build(cfg.scores)
    build(cfg.store).path(build(cfg.subset))
    assert list(tmp_path.iterdir()) == []


def test_a_binding_that_fails_is_seen():
    """The check above, held to a node that is wrong."""
    from xmas.selection.methods.length import Length

    with pytest.raises(TypeError, match="centroids"):
        inspect.signature(Length).bind(proxy=None, centroids=3)


def test_a_node_is_resolved_as_omegaconf_does_it_and_built_once(compose):
    cfg = compose("experiment=smoke", "selector=xmas")
    for goal in ("scores", "exam"):
        assert resolved(cfg[goal]) == OmegaConf.to_container(cfg[goal], resolve=True)
    ranking = build(cfg.subset).ranking
    assert ranking.selector.trajectories.proxy.pool is ranking.pool
    assert ranking.selector.clusters.features is ranking.selector.trajectories


def test_an_interpolation_that_leads_nowhere_is_named_with_its_place(compose):
    for value, place in (("${nowhere.at_all}", "nowhere"), ("${subset.rows.x}", "subset.rows")):
        cfg = compose("experiment=smoke", f"+subset.floors.a='{value}'")
        with pytest.raises(ConfigError, match=rf"^subset\.floors\.a: .*{place}"):
            build(cfg.scores)


def test_the_root_says_what_the_demo_is(compose):
    cfg = compose()
    assert cfg.goal == "subset"
    assert build(cfg.store) == Store("store")
    assert build(cfg.pool).name == "demo"
    assert cfg.reference.seeds == [0]


def test_the_demo_s_target_takes_every_recipe(compose):
    for path in sorted((CONF / "target" / "recipe").glob("*.yaml")):
        recipe = build(compose(f"target/recipe={path.stem}").target)
        official = build(compose("target=llava15_7b", f"target/recipe={path.stem}").target)
        assert (recipe.recipe, recipe.lora) == (official.recipe, official.lora)
    default = build(compose().target)
    assert default == build(compose("target/recipe=demo").target)


def test_the_store_is_where_the_environment_says(compose, monkeypatch):
    monkeypatch.setenv("XMAS_STORE", "/elsewhere")
    assert build(compose().store) == Store("/elsewhere")


def test_an_experiment_wins_over_the_root(compose):
    """With `_self_` last in the defaults list it would silently lose."""
    root = OmegaConf.load(CONF / "config.yaml")
    demo = OmegaConf.load(CONF / "experiment" / "demo.yaml")
    cfg = compose()
    assert cfg.max_length == demo.max_length != root.max_length
    assert cfg.generation.batch == demo.answering.batch != root.answering.batch
    assert cfg.clusters.trajectories.k == demo.clusters.trajectories.k == 100
    smoke = compose("experiment=smoke")
    assert smoke.clusters.trajectories.k == 10
    assert smoke.max_length == demo.max_length  # it stands on the demo's
    without = compose("~experiment")
    assert without.max_length == root.max_length
    assert without.clusters.trajectories.k == 1000


def test_the_command_line_wins_over_an_experiment(compose):
    cfg = compose("max_length=99", "clusters.trajectories.k=7", "subset.fraction=0.3")
    assert cfg.max_length == cfg.proxy.max_length == cfg.target.max_length == 99
    assert build(cfg.clusters.trajectories).k == 7
    assert build(cfg.subset).fraction == 0.3


def test_a_sweep_over_seeds_shares_proxy_and_reference(compose):
    one, other = (compose(f"seed={seed}", "selector=xmas") for seed in (0, 1))
    for shared in ("proxy", "features.trajectories", "clusters.trajectories"):
        assert key(build(OmegaConf.select(one, shared))) == key(
            build(OmegaConf.select(other, shared))
        )
    references = [build(cfg.reference).targets() for cfg in (one, other)]
    assert [key(target) for target in references[0]] == [key(target) for target in references[1]]
    for changed in ("ranking", "target", "scores"):
        assert key(build(one[changed])) != key(build(other[changed]))


def test_a_sweep_over_budgets_and_selectors_shares_the_reference(compose):
    cfgs = [
        compose(f"subset.fraction={fraction}", f"selector={selector}")
        for fraction, selector in itertools.product((0.1, 0.5), ("random", "xmas"))
    ]
    assert len({key(build(cfg.reference).targets()[0]) for cfg in cfgs}) == 1
    assert len({key(build(cfg.target)) for cfg in cfgs}) == 4


def test_hardware_is_no_part_of_an_identity(compose):
    one, other = compose("hardware=cpu"), compose("hardware=one_gpu")
    assert build(one.hardware) != build(other.hardware)
    for goal in ("proxy", "target"):
        assert key(build(one[goal])) == key(build(other[goal]))


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (
            "subsets",
            r"goal=subsets names nothing that can be made; did you mean subset\? There are",
        ),
        ("tables", r"did you mean table\?"),
        (
            "tabel",
            r"goal=tabel names nothing that can be made; did you mean table\? There are subset,",
        ),
        ("clusters.trajektories", r"did you mean clusters\.trajectories\? There are"),
        ("clusters", r"can be made\. There are clusters\.activations, .*, clusters\.trajectories$"),
        ("seed", r"goal=seed names nothing that can be made"),
        ("store.root", r"goal=store\.root names nothing"),
        (
            "qqqq",
            r"goal=qqqq names nothing that can be made\. There are subset, audit, .*, estimate; "
            "the node of any stage can be named too",
        ),
    ],
)
def test_an_unknown_goal_is_named_with_the_nearest(goal, message, compose):
    for overrides in ([], ["pool=files", "experiment=smoke"]):
        with pytest.raises(ConfigError, match=message):
            goal_node(with_goal(compose(*overrides), goal))


def test_the_goals_that_an_error_lists_are_those_of_the_readme():
    text = (CONF.parent / "README.md").read_text(encoding="utf-8")
    rows = text.partition("| `goal=` | makes |")[2].split("\n\n")[0].splitlines()[2:]
    assert list(GOALS) == [
        name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]


@pytest.mark.parametrize("goal", ["subset", "scores", "table", "clusters.trajectories", "proxy"])
def test_a_goal_may_be_any_node_with_a_target(goal, compose):
    assert "_target_" in goal_node(with_goal(compose(), goal))


def with_goal(cfg: DictConfig, goal: str) -> DictConfig:
    changed = cfg.copy()
    OmegaConf.set_readonly(changed, False)
    changed.goal = goal
    return changed


def test_the_goal_is_taken_from_the_command_line(compose):
    assert goal_node(compose("goal=proxy"))._target_ == "xmas.training.proxy.Proxy"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "selector=xmass",
            r"selector=xmass does not exist; did you mean selector=xmas\? There are",
        ),
        (
            "selector=random,lenght",
            r"selector=lenght does not exist; did you mean selector=length\?",
        ),
        ("experiment=smok", r"did you mean experiment=smoke\?"),
        ("pool=zzzz", r"pool=zzzz does not exist\. There are demo, demo_unseen, files, llava665k"),
        ("+benchmark@suite.x=gqaa", r"did you mean benchmark=gqa\?"),
        ("hardware=gpu", r"hardware=gpu does not exist"),
        ("hardware=deepspeed", r"hardware=deepspeed was removed; take hardware=fsdp, which"),
        (
            "experiment=null",
            r"experiment=null: a group has a choice or none; leave it out with ~ex",
        ),
    ],
)
def test_an_unknown_choice_is_answered_with_the_nearest(argument, message):
    with pytest.raises(ConfigError, match=message):
        check_choices(["-m", "goal=scores", argument])


@pytest.mark.parametrize(
    "argument",
    [
        "selector=xmas",
        "selector=random,length,xmas",
        "'selector=random,xmas'",
        "~experiment",
        "+benchmark@suite.cn=mmbench_cn",
        "/benchmark@suite.cn=mmbench_cn",
        "features@features.trajectories=trajectories",
        "subset.fraction=0.2",
        "store.root=/tmp/a=b",
        "goal=subset",
        "--help",
        "hydra/job_logging=xmas",
        "hydra/job_logging=disabled",  # Hydra's own
        "hydra/launcher=submitit_slurm",
    ],
)
def test_what_exists_passes(argument):
    assert check_choices([argument]) is None


@pytest.mark.parametrize(
    ("argument", "near"),
    [
        ("+selektor=xmas", "selektor is no setting; did you mean selector=xmas?"),
        (
            "++subste.fraction=0.1",
            "subste.fraction is no setting; did you mean subset.fraction=0.1?",
        ),
    ],
)
def test_an_added_key_that_is_nearly_a_setting_is_refused(argument, near):
    with pytest.raises(ConfigError) as refused:
        check_added(["goal=table", argument])
    assert str(refused.value) == near


@pytest.mark.parametrize(
    "argument",
    ["+mine=3", "+seed=1", "++subset.floors.ocr_vqa=1000", "+benchmark@suite.cn=mmbench_cn",
     "selektor=xmas", "+every.random=1", "store.root=+selektor=1"],
)  # fmt: skip
def test_other_added_keys_pass(argument):
    assert check_added([argument]) is None


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("selektor=xmas", "selektor is no setting; did you mean selector=xmas?"),
        ("~selektor", "selektor is no setting; did you mean ~selector?"),
        ("selektor.k=3", "selektor.k is no setting; did you mean selector.k=3?"),
        ("subset.fracton=0.1", "subset.fracton is no setting; did you mean subset.fraction=0.1?"),
        ("table.selctor=[a,b]", "table.selctor is no setting; did you mean table.selector=[a,b]?"),
        ("seed.x=1", "seed.x is no setting: seed has nothing below it"),
        (
            "weights.qqqq=1",
            "weights.qqqq is no setting. There are weights.published, weights.random",
        ),
    ],
)
def test_hydra_s_refusal_of_an_unknown_key_becomes_one_line(argument, line, compose):
    with pytest.raises(ConfigCompositionException) as refused:
        compose(argument)
    assert explained(str(refused.value), ["goal=subset", argument], compose()) == line


def test_hydra_s_other_refusals_stay_without_the_advice_to_append(compose):
    with pytest.raises(ConfigCompositionException) as refused:
        compose("selector/qqqq=1")
    assert explained(str(refused.value), [], compose()) == "Could not override 'selector/qqqq'."


def test_choices_of_the_user_s_own_folder_exist(tmp_path):
    (tmp_path / "selector").mkdir()
    (tmp_path / "selector" / "mine.yaml").write_text("_target_: mine.Mine\n")
    for given in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        check_choices([*given, "selector=mine,xmas"])
        with pytest.raises(ConfigError, match="did you mean selector=mine"):
            check_choices([*given, "selector=mime"])
    with pytest.raises(ConfigError, match="selector=mine does not exist"):
        check_choices(["selector=mine"])


def test_hydra_would_not_have_guessed(compose):
    """What `check_choices` is for; when this fails, Hydra does it."""
    with pytest.raises(HydraException) as refused:
        compose("selector=xmass")
    assert "did you mean" not in str(refused.value)


@pytest.mark.parametrize(
    ("pool", "experiment", "warned"),
    [("files", "demo", True), ("files", "smoke", True), ("demo", "demo", False),
     ("files", "mine", False), ("files", None, False)],
)  # fmt: skip
def test_another_pool_in_the_demo_s_experiment_is_warned_of(pool, experiment, warned, caplog):
    with caplog.at_level(logging.WARNING, logger="xmas"):
        warn_of_demo_values({"pool": pool, "experiment": experiment})
    assert ("template and budgets are the demo's" in caplog.text) == warned


# The command, as a user runs it.


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    code = "import sys; from xmas.cli.command import main; sys.argv[0] = 'xmas'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("selector=xmass", "xmas: selector=xmass does not exist; did you mean selector=xmas?"),
        ("goal=subsets", "xmas: goal=subsets names nothing that can be made; did you mean subset?"),
    ],
)
def test_a_mistake_on_the_command_line_ends_in_one_line(argument, message, server, tmp_path):
    ended = server.command(argument, "seed=1", cwd=tmp_path)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_the_command_makes_a_subset_once(toy: Toy, server, tmp_path):
    store = tmp_path / "store"
    arguments = [*toy.overrides(), f"store.root={store}", "selector=random", "subset.fraction=0.5"]
    first = run(*arguments, cwd=tmp_path)
    second = server.command(*arguments, cwd=tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr
    place = Path(first.stdout.strip())
    assert second.stdout == first.stdout
    assert len(json.loads((place / "rows.json").read_text())) == 20
    assert f"{place.name} computing" in first.stderr
    assert "computing" not in second.stderr
    assert f"{place.name} reused" in second.stderr
    assert place.parent.parent == store
    assert [path.name for path in tmp_path.iterdir()] == ["store"]  # no outputs folder of Hydra's


def test_a_pool_of_files_without_a_file_says_what_to_set(compose):
    subset = build(compose("pool=files").subset)
    with pytest.raises(PoolError, match=r"^pool\.annotations is not set: give the path of a JSON"):
        key(subset)


def test_an_unknown_setting_ends_in_one_line(server, tmp_path):
    ended = server.command("subset.fracton=0.1", f"store.root={tmp_path}/store", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "xmas: subset.fracton is no setting; did you mean subset.fraction=0.1?\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_pool_is_named_in_one_line(toy: Toy, server, tmp_path):
    arguments = [*toy.overrides(), f"store.root={tmp_path}", "pool.annotations=/absent.json"]
    ended = server.command(*arguments, "selector=random", cwd=tmp_path)
    assert ended.returncode == 1
    assert "xmas: pool.annotations=/absent.json: No such file" in ended.stderr
    assert "Traceback" not in ended.stderr


@dataclasses.dataclass(frozen=True)
class Told(Stage):
    """A stage that says something, and notes whether all ranks share what it computes."""

    kind = "told"

    def compute(self, store: Store, out: Path) -> None:
        (out / "shared").write_text(str(distributed.shared()))

    def make(self, store: Store) -> str:
        return (store.get(self) / "shared").read_text()


def test_a_goal_that_says_something_is_computed_where_ranks_share_fits(tmp_path):
    """A fit is refused where rank 0 computes alone; scores and subsets fit, and say something."""
    assert make(Told(), Store(str(tmp_path))) == "True"
