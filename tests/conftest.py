"""Settings made before anything imports torch (few threads, no network), and the shared fixtures.

Fixtures of every module, each made once in a session (a worker of pytest-xdist is one):

- `toy`: a pool of 41 rows with pictures, and every stage on it; its store is filled as tests ask.
- `compose(*overrides)`: the configuration, composed by Hydra; the same overrides are composed once.
- `toy_selector(name, *overrides)`: a selector of the configuration, on the toy's pool and sizes.
- `server`: a process that has imported torch and xmas, and runs jobs and commands in its forks.

Helpers that are no fixtures: `toy` builds pools and stages, `tiny` models of published families,
`official` benchmarks in their owners' formats, `choices` those of the configuration, `killable` is
what `server` runs, `commands` its part without torch, `scored` fills a store with scores, `given`
makes stages of given arrays, `sweeping` selectors for multiruns, `waiting` jobs that wait, `added`
runs tests in a copy of the repository, `scripts_in_turn` those of experiments, `composing` is what
`compose` does, with files read by `parsed` and joined by `merging`, `fake_judge` and `offline`
stand in for hosts, `cluster` starts SLURM, `emulated` is a GPU on a CPU. `unsynced` leaves out
syncs, `captured_logs` most of pytest's looks for loggers, `large_pages` makes forks quick.

A worker of pytest-xdist has one thread, or the workers wait for each other; a single process has
two. Idle threads sleep instead of spinning: on a machine with other work, spinning makes the toy's
small matrices fifty times slower.

Every call into xmas is held to its annotations, by `annotations`.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # threads cost more than so few weights

import functools
import gc
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import annotations
import captured_logs
import pytest

sys.dont_write_bytecode = False  # some containers ask for it; each process would compile anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

annotations.install()
captured_logs.install()

MEMORY = Path("/dev/shm")  # has room for half a GB of small files; in containers often 64 MB
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

THIRD_PARTY = (  # warnings of other packages that nothing here can avoid; all others are errors
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft 0.21
    "ignore:Pydantic V1 style:DeprecationWarning",  # wandb-workspaces 0.4
)


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr.startswith("emulated"):  # before anything imports torch
        from emulated.gpu import install

        install()
    gc.disable()  # imports make millions of objects and no garbage
    from unsynced import unsynced  # with xmas, which is imported after torch is emulated

    unsynced()
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)


def starts_server(path: Path) -> bool:
    """Whether a test or fixture of the file asks for `server`."""
    return bool(re.search(r"def \w+\([^)]*\bserver\b", path.read_text(encoding="utf-8")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the server first: they are one worker's, and the longest of all its work."""
    first = {path for path in {item.path for item in items} if starts_server(path)}
    items.sort(key=lambda item: item.path not in first)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is one worker's, which has its fixtures once; one worker starts the server.

    By marks `--dist loadgroup` would do it, but xdist 3.8 writes groups where pytest 9.2 does not
    read them.
    """
    from xdist.scheduler import LoadFileScheduling

    server = {str(path) for path in Path(__file__).parent.rglob("test_*.py") if starts_server(path)}

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "server" if str(config.rootpath / file) in server else file

    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none; XMAS_TEST_DEVICE=cpu runs it all the same."""
    if item.get_closest_marker("gpu") and "XMAS_TEST_DEVICE" not in os.environ:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU here; pytest -m emulated has most of it on an emulated one")


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported is not gone through at every collection of garbage
    # Within a file seldom: at every 50,000 objects, composed configurations were gone through up to
    # three times, a tenth of the seconds of such files. Now they need 90 MB more until its end.
    gc.set_threshold(2_000_000, 20, 20)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Any:
    """What a file leaves, a million objects in the end, is gone through once and not again."""
    captured_logs.not_propagating.cache_clear()
    ran = yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return ran


@pytest.fixture(scope="session")
def compose():
    """A function of overrides that gives the configuration, read-only.

    Files are parsed once a session, and merged once for the same choices of groups; to a copy come
    the values of the other overrides, as Hydra does it. `hydra_node=True` adds Hydra's own node. An
    interpolation is resolved where it is read, so that what it takes from the environment is that
    of the reading test.
    """
    from composing import compositions

    with compositions() as composed:
        yield composed


@pytest.fixture(scope="session")
def toy_selector(toy, compose):
    """A function of a selector's name and overrides that gives it on the toy's pool."""
    from choices import EVERY_SELECTOR

    from xmas.cli.config import build

    @functools.cache
    def selector(name: str, *overrides: str):
        if overrides:
            return build(compose(*toy.overrides(), f"selector={name}", *overrides).selector)
        files = (
            f"rating.file={toy.scores}",
            "every.quality_diversity.lowest=0",
            "every.quality_diversity.highest=9",
            f"every.icons.toward={toy.tasks}",
            f"every.influence.toward={toy.tasks}/colours",
        )
        return build(compose(*toy.overrides(), *EVERY_SELECTOR, *files).every[name])

    return selector


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory):
    """A pool of 41 rows with its files written; stages are computed as tests ask for them."""
    from toy import build

    return build(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def server():
    """Forks of a process that has imported torch and all of xmas; started where a test asks."""
    from server import Server

    running = Server()
    yield running
    running.close()
