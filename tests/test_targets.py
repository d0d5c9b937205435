"""What a configuration may name: a hostile file runs nothing, a package that is allowed works."""

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xmas.cli.config import build
from xmas.cli.config_error import ConfigError
from xmas.cli.hydra_guard import check
from xmas.cli.targets import VARIABLE, allowed_by_user
from xmas.selection.methods.random import Random
from xmas.store import Store

ALIEN = [  # each ran, or could have run, when Hydra resolved targets
    *("os.system", "os.popen", "builtins.eval", "builtins.exec", "builtins.open", "subprocess.run"),
    *("subprocess.Popen", "shutil.copyfile", "shutil.rmtree", "distutils.spawn.spawn"),
    *("torch.load", "torch.hub.load", "pandas.read_pickle", "numpy.load", "pickle.loads"),
    *("hydra.utils.instantiate", "importlib.import_module", "functools.partial", "runpy.run_path"),
    *("xmasx.Random", "hydra_plugins.xmas_sweep.Local", "antigravity.webbrowser.open"),
]
INNER = [  # reached through modules of the package
    "xmas.cli.command.os.system",
    "xmas.cli.command.main",
    "xmas.cli.targets.importlib.import_module",
    "xmas.store.lock.os.system",
    "xmas.data.pool.functools.partial",
    "xmas.data.pool.Path",
    "xmas.cli.config.OmegaConf.load",
    "xmas.cli.targets._located",
    "xmas.store.Store.get",
    "xmas.data.pool.Pool.__init__",
    "xmas.data.pool.Pool.__class__",
    "xmas.__loader__.exec_module",
    "xmas.data.readers.llava.LlavaRows",
    "xmas.attention.collector.np.e.mT",
    "xmas.cli.config.GOALS.index",
]


def node(**fields):
    return OmegaConf.create(fields)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch):
    """Whether the module `mine` of a user was imported."""
    (tmp_path / "mine.py").write_text(
        "import dataclasses, os\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine:\n    size: int = 3\n"
        "def made(size): return Mine(size + 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    yield lambda: "mine" in sys.modules
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("name", ALIEN)
def test_what_is_not_of_xmas_is_refused_and_not_imported(name):
    package = name.split(".")[0]
    loaded = package in sys.modules
    with pytest.raises(
        ConfigError, match=rf"^_target_: {name} is no class of xmas; .*{package}|do"
    ):
        build(node(_target_=name))
    assert (package in sys.modules) == loaded


@pytest.mark.parametrize("name", INNER)
def test_what_is_reached_through_xmas_is_refused(name):
    with pytest.raises(
        ConfigError, match=r"defined in|leads out|not a class for config|there is no"
    ):
        build(node(_target_=name))


@pytest.mark.parametrize(
    "hostile",
    [
        {"selector": {"x": [{"y": 3}, {"_target_": "os.system", "command": "true"}]}},
        {"_target_": "xmas.store.Store", "root": {"_target_": "os.system", "command": "true"}},
        {"_target_": "os.system", "_args_": ["true"], "_partial_": True},
        {"name": "os.system", "_target_": "${name}"},
        {"part": {"_target_": "os.system"}, "whole": "${part}"},
        {"_target_": "${oc.env:HOSTILE}"},
        {"_target_": ["os.system"]},
        {"_target_": 3},
        {"_target_": None},
        {"_target_": "system"},
        {"_target_": "os..system"},
        {"_target_": "xmas.store.Store;os.system"},
        {"_target_": "xmas.st\u00f6re.os.system\n"},
    ],
)
def test_the_place_of_a_target_does_not_matter(hostile, monkeypatch):
    monkeypatch.setenv("HOSTILE", "os.system")
    with pytest.raises(
        ConfigError, match=r"_target_: .*(no class of xmas|not the name of a class)"
    ):
        build(OmegaConf.create(hostile))


def test_a_name_is_refused_before_its_neighbours_are_built(ran):
    nodes = {"first": {"_target_": "mine.Mine"}, "second": {"_target_": "os.system"}}
    with pytest.raises(ConfigError, match=r"second\._target_: os\.system"):
        build(OmegaConf.create(nodes), frozenset({"mine"}))
    assert not ran()


@pytest.mark.parametrize("option", ["_args_", "_partial_", "_recursive_", "_convert_"])
def test_hydra_s_options_of_a_target_are_no_fields(option):
    with pytest.raises(ConfigError, match=f"unexpected keyword argument '{option}'"):
        build(node(_target_="xmas.store.Store", root="store", **{option: True}))


def test_classes_of_xmas_are_built_by_any_of_their_names():
    assert build(node(_target_="xmas.store.Store", root="a")) == Store("a")
    assert build(node(_target_="xmas.Store", root="a")) == Store("a")
    assert build(node(_target_="xmas.selection.methods.random.Random")) == Random()
    with pytest.raises(ConfigError, match=r"there is no class xmas\.selection\.methods\.randon"):
        build(node(_target_="xmas.selection.methods.randon.Random"))


def test_a_package_of_the_user_s_is_refused_with_the_word_that_allows_it(ran):
    with pytest.raises(
        ConfigError,
        match=r"^_target_: mine\.Mine is no class of xmas; if you wrote mine or trust its code, "
        r"add allow=mine to the command or set XMAS_ALLOW=mine$",
    ):
        build(node(_target_="mine.Mine"))
    assert not ran()


def test_an_allowed_package_gives_its_classes_and_functions_and_no_others(ran, monkeypatch):
    allowed = allowed_by_user(["mine"], ["seed=1", "allow=[mine]"])
    assert build(node(_target_="mine.Mine", size=5), allowed).size == 5
    assert build(node(_target_="mine.made", size=5), allowed).size == 6
    for name in ("mine.os.system", "mine.dataclasses.dataclass"):
        with pytest.raises(ConfigError, match=f"{name} leads out"):
            build(node(_target_=name), allowed)
    with pytest.raises(ConfigError, match="mined"):
        build(node(_target_="mined.Mine"), allowed)
    monkeypatch.setenv(VARIABLE, "other, mine")
    assert build(node(_target_="mine.Mine")).size == 3


def test_a_file_cannot_allow_itself_anything():
    with pytest.raises(
        ConfigError, match=r"allow=mine is set in a file.*command line: allow=\[mine"
    ):
        allowed_by_user(["mine"], ["seed=1", "selector=mine", "not_allow=3"])
    for overrides in (["allow=[mine]"], ["+allow=[mine]"], ["++allow=mine"]):
        assert allowed_by_user(["mine"], overrides) == {"mine"}
    assert allowed_by_user("mine", ["allow=mine"]) == {"mine"}


@pytest.mark.parametrize("name", ["os", "builtins", "subprocess", "os.path"])
def test_python_itself_cannot_be_allowed(name, monkeypatch):
    with pytest.raises(ConfigError, match=f"allow={name}: {name} is a module of Python"):
        allowed_by_user([name], [f"allow={name}"])
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(ConfigError, match=f"allow={name}: {name} is a module of Python"):
        build(node(_target_="xmas.store.Store"))


HYDRA = {
    "hydra.callbacks.x._target_=os.system": r"hydra\.callbacks\.x\._target_: os\.system is not a",
    "hydra.callbacks.x._target_=xmas.store.lock.os.system": "not a plugin of Hydra",
    "hydra.launcher.x._target_=subprocess.Popen": r"hydra\.launcher\.x\._target_: subprocess",
    "hydra.callbacks.x._target_=${oc.env:HOME}": "not a plugin of Hydra",
    "hydra.job_logging.handlers.x.class=os.system": r"job_logging\.handlers\.x\.class: os\.system",
    "hydra.job_logging.handlers.x.class=logging.os.system": "is not a handler, formatter or filter",
    "hydra.hydra_logging.formatters.x.class=subprocess.Popen": "hydra_logging.*subprocess",
    "hydra.job_logging.filters={x: {'()': os.system}}": r"filters\.x\.\(\): os\.system is not",
}


@pytest.mark.parametrize("override", HYDRA)
def test_hydra_s_own_node_names_nothing_hostile(compose, override):
    path, _, value = override.partition("=")
    cfg = OmegaConf.create(OmegaConf.to_container(compose(hydra_node=True).hydra, resolve=False))
    OmegaConf.update(cfg, path.removeprefix("hydra."), OmegaConf.create(f"x: {value}").x)
    with pytest.raises(ConfigError, match=HYDRA[override]):
        check(cfg, frozenset())


@pytest.mark.parametrize("launcher", ["local", "processes", "submitit_slurm", "basic"])
def test_hydra_s_own_node_passes_as_it_is(compose, launcher):
    if launcher == "submitit_slurm":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    check(compose(f"hydra/launcher={launcher}", hydra_node=True).hydra, frozenset())


def test_the_command_refuses_a_hostile_file_and_runs_an_allowed_one(server, tmp_path, toy):
    """Selector, callback and logging of a downloaded folder; then a user's own selector."""
    mark, conf = tmp_path / "ran", tmp_path / "conf"
    (conf / "selector").mkdir(parents=True)
    (conf / "hydra" / "callbacks").mkdir(parents=True)
    hostile = f"_target_: os.system\ncommand: touch {mark}\n"
    (conf / "selector" / "evil.yaml").write_text(hostile)
    (conf / "selector" / "mine.yaml").write_text("_target_: sweeping.Sweeping\nmarks: .\n")
    (conf / "hydra" / "callbacks" / "evil.yaml").write_text(
        f"x:\n  {hostile}".replace("\nc", "\n  c")
    )
    own = ["--config-dir", str(conf), *toy.overrides(), f"store.root={tmp_path / 'store'}"]
    for arguments, line in [
        (
            ["selector=evil"],
            "ranking.selector._target_: os.system is no class of xmas; nothing of Py",
        ),
        (["selector=evil", "allow=os"], "allow=os: os is a module of Python"),
        (
            ["hydra/callbacks=evil"],
            "hydra.callbacks.x._target_: os.system is not a plugin of Hydra",
        ),
        (["selector=mine"], "if you wrote sweeping or trust its code, add allow=sweeping"),
    ]:
        ended = server.command(*own, *arguments, cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert line in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not mark.exists()
    ended = server.command(*own, "selector=mine", "allow=sweeping", "goal=estimate", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
