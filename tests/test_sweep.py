"""Multiruns: what is shared is made once, who fails or dies is named, the same command goes on."""

import dataclasses
import gc
import importlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from toy import Toy

from hydra_plugins.xmas_sweep import Grid
from xmas.cli import garbage
from xmas.cli.config import folder
from xmas.cli.sweep import server as process
from xmas.cli.sweep import torchrun
from xmas.cli.sweep.job import Job, Outcome, log_name
from xmas.cli.sweep.processes import imported_once
from xmas.cli.sweep.summary import SweepError, follow

HERE = Path(__file__).parent
LAUNCHERS = {path.stem for path in (Path(folder()) / "hydra" / "launcher").glob("*.yaml")}


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder for marks, beside one with the selector's YAML."""
    (tmp_path / "selector").mkdir()
    (tmp_path / "marks").mkdir()
    (tmp_path / "selector" / "sweeping.yaml").write_text(
        f"_target_: sweeping.Sweeping\nmarks: {tmp_path / 'marks'}\nfails: false\n"
    )
    return tmp_path / "marks"


def swept(marks: Path, toy: Toy, *arguments: str) -> list[str]:
    """The arguments of the command."""
    given = [
        *toy.overrides(),
        f"store.root={marks.parent / 'store'}",
        "selector=sweeping",
        "allow=sweeping",
    ]
    return ["-m", "--config-dir", str(marks.parent), *given, *arguments]


def marked(marks: Path, what: str) -> int:
    return len(list(marks.glob(f"{what}-*")))


def logs(marks: Path) -> str:
    return "\n".join(path.read_text() for path in (marks.parent / "store/logs").glob("*.log"))


def test_jobs_that_start_together_survive_one_that_is_killed_and_one_that_fails(toy, server, marks):
    """Seed 3 fails at once; of the others, the one that computes what all share is killed."""
    (marks / "deadly").touch()
    arguments = swept(
        marks,
        toy,
        *("seed=0,1,2", "selector.fails=false,true", "subset.rows=20"),
        *("hydra/launcher=processes", "hydra.launcher.n_jobs=6"),
        "hydra.launcher.devices=[0,1,2,3,4,5]",
    )
    ended = server.command(*arguments, cwd=marks.parent)
    assert ended.returncode == 1, ended.stderr
    assert marked(marks, "started") == 2  # the dead one's lock was taken over
    assert marked(marks, "finished") == 1
    summary = ended.stderr[ended.stderr.index("xmas: 4 of 6 jobs failed") :]
    assert "Traceback" not in summary
    assert summary.count("killed by SIGKILL") == 1
    assert summary.count("OSError: no space left") == 3
    named = re.findall(r"log: (.*)", summary)
    assert len(named) == 4
    told = [Path(path).read_text() for path in named]
    assert sum("Traceback" in text and "no space left" in text for text in told) == 3
    assert "waits for another process" in logs(marks)
    assert len(list((marks.parent / "store/subset").glob("[!.]*"))) == 2

    (marks / "mended").touch()
    again = server.command(*arguments, cwd=marks.parent)
    assert again.returncode == 0, again.stderr
    assert marked(marks, "finished") == 1
    assert len(list((marks.parent / "store/subset").glob("[!.]*"))) == 6
    devices = {path.name for path in marks.glob("devices-*")}
    assert devices <= {f"devices-{number}" for number in range(6)}
    assert len(devices) > 1


def test_each_shared_stage_is_computed_once_by_four_jobs_that_start_together(toy, server, marks):
    arguments = swept(
        marks,
        toy,
        *("selector=random,length", "subset.fraction=0.2,0.5", "seed=0,1"),
        *("hydra/launcher=processes", "hydra.launcher.n_jobs=4"),
    )
    ended = server.command(*arguments, cwd=marks.parent)
    assert ended.returncode == 0, ended.stderr
    made = Counter(re.findall(r"(\w+) +([0-9a-f]{12}) (?:computing|resumed)", logs(marks)))
    assert set(made.values()) == {1}
    assert Counter(kind for kind, _ in made) >= Counter(subset=8, ranking=4, tokens=1)
    finished = {path.parent.name for path in (marks.parent / "store").glob("*/[!.]*/meta.json")}
    assert {key for _, key in made} == finished


def test_what_is_forced_is_computed_anew_once_by_jobs_that_share_it(toy, server, tmp_path):
    toy.store.get(toy.subset().ranking)
    record = toy.store.path(toy.subset().ranking) / "meta.json"
    before = record.read_text()
    ended = server.command(
        *("-m", *toy.overrides(), f"store.root={toy.store.root}"),
        *("selector=random", "force=ranking", "subset.rows=5,6,7"),
        *("hydra/launcher=processes", "hydra.launcher.n_jobs=3"),
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    texts = [path.read_text() for path in (Path(toy.store.root) / "logs").glob("*.log")]
    jobs = [text for text in texts if "force=ranking" in text]
    assert len(jobs) == 3
    assert "".join(jobs).count(f"{record.parent.name} computing") == 1
    assert record.read_text() != before


def test_before_jobs_are_forked_what_their_goals_name_is_imported_and_no_torch_for_random(compose):
    def imported(*overrides: str) -> set[str]:
        cfg = compose(*overrides, hydra_node=True)
        return {*imported_once([dataclasses.replace(job(0), config=pickle.dumps(cfg))] * 2)}

    alone, of_random, of_length = imported("goal=proxi"), imported(), imported("selector=length")
    assert of_random - alone >= {"xmas.selection.methods.random", "xmas.selection.subset"}
    assert of_length - alone >= {"xmas.selection.methods.length", "xmas.training.proxy"}
    assert not any(name.startswith("xmas.training") for name in of_random)
    for faulty in ("os.system", "xmas"):  # the job itself says what is wrong with it
        assert not imported(f"selector._target_={faulty}") & {"os", ""}
    for name in (*of_random, *of_length, *process.AFTER_TORCH):  # the server is silent about them
        importlib.import_module(name)


def test_the_server_of_jobs_lives_where_a_module_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_library.py").write_text("raise OSError('cannot open shared object file')")
    (tmp_path / "whole_library.py").touch()
    try:
        process.prepare(["xmas.nowhere", "broken_library", "", "whole_library"])
        assert not gc.isenabled()
    finally:
        garbage.resume()
    assert sys.modules.pop("whole_library")


def test_a_multirun_collects_garbage_as_it_may_run_for_days():
    class Seen:
        def launch(self, jobs: list[list[str]], initial_job_idx: int) -> list[bool]:
            return [gc.isenabled() for _ in jobs]

    grid = object.__new__(Grid)  # Hydra has loaded its base class twice
    grid.config, grid.launcher = OmegaConf.create({"hydra": {"sweeper": {"params": {}}}}), Seen()
    grid.params, grid.max_batch_size, grid.batch_index = {}, None, 0
    grid.hydra_context = SimpleNamespace(config_loader=None)
    garbage.pause()
    try:
        assert grid.sweep(["seed=0,1"]) == [[True, True]]
    finally:
        garbage.resume()


def test_a_failed_job_leaves_the_later_ones_running_in_one_process_too(toy, server, marks):
    given = swept(marks, toy, "selector.fails=true,false", "subset.rows=10")
    ended = server.command(*given, cwd=marks.parent)
    assert ended.returncode == 1
    assert "xmas: 1 of 2 jobs failed" in ended.stderr
    (named,) = re.findall(r"log: (.*)", ended.stderr)
    assert "OSError: no space left" in Path(named).read_text()
    assert "Traceback" in Path(named).read_text()
    (made,) = ended.stdout.split()
    assert len(json.loads((Path(made) / "rows.json").read_text())) == 10


def torchrun_of_two(marks: Path, toy: Toy, *arguments: str) -> subprocess.CompletedProcess:
    given = swept(marks, toy, *arguments, "hardware.devices=2", "hardware.strategy=ddp")
    return subprocess.run(
        [sys.executable, "-m", "xmas", *given],
        cwd=marks.parent,
        env=os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_job_that_needs_two_devices_is_started_by_torchrun(toy, marks):
    ended = torchrun_of_two(marks, toy, "subset.rows=10")
    assert ended.returncode == 0, ended.stderr + logs(marks)
    assert {path.name for path in marks.glob("rank-*")} == {"rank-0"}  # what one makes alone
    assert marked(marks, "finished") == 1
    failed = torchrun_of_two(marks, toy, "selector.fails=true")
    assert failed.returncode == 1
    assert "torchrun ended with status 1" in failed.stderr
    (named,) = re.findall(r"log: (.*)", failed.stderr)
    assert "no space left" in Path(named).read_text()


def test_torchrun_starts_a_process_a_device():
    one = OmegaConf.create({"devices": 1, "nodes": 1})
    eight = OmegaConf.create({"devices": 8, "nodes": 1})
    assert not torchrun.wanted(one)
    assert not torchrun.wanted(None)
    assert torchrun.wanted(eight)
    assert torchrun.command(eight)[-3:] == ["--nproc-per-node", "8", "--standalone"]


def test_hosts_of_a_job_meet_on_the_first(monkeypatch):
    two = OmegaConf.create({"devices": 4, "nodes": 2})
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(ValueError, match=r"nodes=2: a job on several hosts needs"):
        torchrun.command(two)
    pytest.importorskip("submitit")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[07-08]")
    monkeypatch.setenv("SLURM_JOB_ID", "43")
    found = " ".join(torchrun.command(two))
    assert "--nproc-per-node 4 --nnodes 2" in found
    assert "--rdzv-id 43 --rdzv-endpoint node07:29500" in found


def job(number: int) -> Job:
    return Job(number, (f"seed={number}",), b"", f"logs/{number}.log")


def test_all_are_waited_for_before_the_failed_ones_are_named():
    waited = []

    def outcomes():
        for number in (2, 0, 1):
            waited.append(number)
            yield Outcome(job(number), 1.0, None if number == 1 else f"error {number}")

    with pytest.raises(SweepError) as raised:
        follow(outcomes(), 3)
    assert waited == [2, 0, 1]
    assert str(raised.value).splitlines() == [
        "xmas: 2 of 3 jobs failed",
        *("  #0 seed=0", "    error 0", "    log: logs/0.log"),
        *("  #2 seed=2", "    error 2", "    log: logs/2.log"),
        "The others are done. The same command resumes the failed ones.",
    ]


def test_a_log_keeps_its_name_and_has_no_other_s():
    one = log_name(["selector=xmas", "seed=0"])
    assert one == log_name(["selector=xmas", "seed=0"])
    assert one.startswith("selector=xmas,seed=0-")
    odd = log_name(["pool.annotations=/a/b c.json", "x" * 300])
    assert "/" not in odd
    assert " " not in odd
    assert len(odd) < 140
    assert log_name(["a" * 200]) != log_name(["a" * 201])


@pytest.mark.parametrize("name", sorted(LAUNCHERS))
def test_every_launcher_composes_and_is_a_plugin(compose, name):
    from hydra.core.plugins import Plugins

    assert {"local", "processes"} <= LAUNCHERS
    if name.startswith("slurm"):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    cfg = compose(f"hydra/launcher={name}", hydra_node=True)
    assert cfg.hydra.launcher._target_ in Plugins.instance().class_name_to_class
    assert cfg.hydra.sweeper._target_ in Plugins.instance().class_name_to_class
