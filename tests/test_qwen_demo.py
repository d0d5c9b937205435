"""The whole demo with a tiny Qwen3-VL as proxy and target, killed on the way and begun again."""

import hashlib
import signal
from pathlib import Path

from server import Server

COMMAND = (
    "goal=scores experiment=smoke proxy=qwen3_vl_tiny target=qwen3_vl_tiny selector=xmas "
    "demo_pool.rows=40 demo_pool.captions=60 demo_pool.facts=20 demo_pool.claims=20 "
    "demo_pool.choices=20 demo_pool.reviews=20 demo_bench.questions=5 proxy.snapshots=2 "
    "clusters.trajectories.k=3 subset.fraction=0.5 reference.base=true "
    "~suite.mme ~suite.gqa ~suite.mmbench hardware.checkpoint_seconds=0"
).split()
KINDS = ("proxy", "trajectories", "clusters", "ranking", "subset", "target", "score", "scores")
TIMES = {"meta.json", "scan_seconds.json", "manifest.json"}  # the last says how long its files took
DEATHS = [("training step", 2), ("scan", 1), ("question", 5)]


def results(root: Path) -> dict[str, str]:
    """The sha256 of every file of the results, but for records of time."""
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for kind in KINDS
        for folder in (root / kind).glob("[!.]*")
        for file in folder.rglob("*")
        if file.is_file() and file.name not in TIMES
    }


def test_killed_anywhere_it_ends_with_the_same_files(server: Server, tmp_path):
    """In a fit, in a scan of attention and among the answers."""
    store, whole = tmp_path / "store", tmp_path / "whole"
    command = (*COMMAND, f"store.root={store}")
    ended = server.command(*command, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    store.rename(whole)
    store.mkdir()
    for made in whole.glob("[!.]*"):
        if made.is_dir() and made.name not in KINDS:  # is the same for both: pool, tokens, start
            (store / made.name).symlink_to(made)
    for dies in DEATHS:
        ended = server.command(*command, cwd=tmp_path, dies=dies)
        assert ended.returncode == -signal.SIGKILL, f"{dies}: {ended.stderr}"
    ended = server.command(*command, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    expected = results(whole)
    assert {name.split("/")[0] for name in expected} == set(KINDS)
    assert results(store) == expected
