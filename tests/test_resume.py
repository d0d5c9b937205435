"""`kill -9` anywhere: the next attempt goes on and ends with the same files, bit for bit."""

import csv
import dataclasses
import functools
import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from server import Server
from toy import Toy, losses, shared

SELDOM = 600.0  # seconds between checkpoints: none is written
MICROBATCHES = 22  # of a proxy's fit in `killable`: two a step, a checkpoint after every step
QUESTIONS = 20
KILLED = -signal.SIGKILL
TIMES = {"meta.json", "scan_seconds.json"}


@pytest.fixture(scope="module")
def empty(toy: Toy, tmp_path_factory) -> Callable[[], Path]:
    """Makes folders of stores in which nothing is fitted but the model that a job asks."""
    asked = {"score": ("target", toy.target()), "answers": ("proxy", toy.proxy)}

    def make(job: str) -> Path:
        folder = tmp_path_factory.mktemp("killed")
        kind, fitted = asked.get(job, (None, None))
        if fitted is not None:
            toy.store.get(fitted)
        shared(toy, folder, *([kind] if kind else []))
        return folder

    return make


def results(root: Path, job: str) -> dict[str, str]:
    """The sha256 of every file of the finished results of a job, but for records of time; their
    inputs.

    An adapter names the folder of its base model, which lies in another store each time.
    """
    before = {"trajectories": ("proxy",), "clusters": ("activations",)}
    kinds = (*before.get(job, ()), job)
    found = {
        f"{kind}/{file.relative_to(folder)}": hashlib.sha256(
            file.read_bytes().replace(str(root).encode(), b"")
        ).hexdigest()
        for kind in kinds
        for folder in (root / kind).glob("[!.]*")
        for file in folder.rglob("*")
        if file.is_file() and file.name not in TIMES
    }
    assert len({name.split("/")[0] for name in found}) in (0, len(kinds))
    for kind in kinds:
        for path in (root / kind).glob("[!.]*/meta.json"):
            found[f"{kind}/inputs"] = " ".join(sorted(json.loads(path.read_text())["inputs"]))
    return found


@pytest.fixture(scope="module")
def uninterrupted(toy: Toy, server: Server, empty) -> Callable[[str], Path]:
    """The store of a job that nothing interrupted, made once."""

    @functools.cache
    def of(job: str) -> Path:
        if job == "proxy":
            return of("trajectories")  # which have fitted one
        root = empty(job)
        assert server.run(toy, root, job) == 0, (root / "said.log").read_text()
        return root

    return of


@pytest.fixture(scope="module")
def whole(uninterrupted) -> Callable[[str], dict[str, str]]:
    """The files of a job that nothing interrupted."""

    @functools.cache
    def of(job: str) -> dict[str, str]:
        made = results(uninterrupted(job), job)
        assert len(made) >= 3
        return made

    return of


def done(root: Path, log: str) -> int:
    """How often something was done, over all attempts."""
    path = root / f"{log}.log"
    return path.stat().st_size if path.exists() else 0


def goes_on(server, toy, root, job, whole, seconds: float = 0) -> None:
    """The next attempt ends well, with the files of an uninterrupted run and no others."""
    assert not any((root / job).glob("[!.]*")), "it had ended before it was killed"
    assert any((root / job).glob(".*[!k]")), "it had not begun"
    assert server.run(toy, root, job, seconds=seconds) == 0, (root / "said.log").read_text()
    assert results(root, job) == whole(job)


@dataclasses.dataclass(frozen=True)
class Kills:
    """Where each attempt at a job is killed: in which call of what, and the work done by then.

    Work is what `log` counts, of all attempts together.

    Args:
        uninterrupted: the work of a run that nothing interrupts.
        work: that of all these attempts and the one that ends.
    """

    log: str
    uninterrupted: int
    places: list[tuple[str, int, int]]
    work: int


KILLS = {
    "proxy": Kills(
        "steps",
        MICROBATCHES,
        [
            ("training step", 7, 6),
            ("training step", 2, 7),  # between two microbatches of a step
            ("snapshot", 1, 13),  # its step is in the checkpoint already
            ("snapshot's file", 1, 13),
            ("checkpoint", 3, 19),
        ],
        25,
    ),
    "trajectories": Kills(
        "steps",
        MICROBATCHES,
        [
            ("scan", 2, 2),  # within the first snapshot
            ("shard", 1, 2),  # between the values of a shard and their mark
            ("shard", 2, 2),  # before the mark is on disk
            ("seconds of a scan", 2, 12),
            ("end of the fit", 1, 22),
            ("merge", 1, 22),
            ("description", 1, 22),
            ("parts", 1, 22),  # the result is whole, its parts are still there
        ],
        22,
    ),
    "target": Kills(
        "steps",
        12,
        [
            ("adapter", 1, 0),  # of the rehearsal
            ("parts", 2, 4),  # a checkpoint is there, the former one still is
            ("checkpoint", 3, 10),
            ("training step", 3, 12),
            ("end of the fit", 1, 14),
            ("adapter", 2, 14),  # between the fit and the adapter there is nothing to go on from
        ],
        14,
    ),
    "answers": Kills(
        "read",
        25,
        [
            ("batch of answers", 1, 0),
            ("batch of answers", 9, 8),  # within a shard
            ("shard", 3, 12),  # between the values of a shard and their mark
            ("shard", 2, 14),  # before the mark is on disk
            ("batch of answers", 12, 25),  # of the pass without images
            ("values of answers", 1, 29),
            ("parts", 1, 29),  # the result is whole, its parts are still there
        ],
        29,
    ),
    "clusters": Kills(
        "looks",
        8,
        [
            ("batch of activations", 1, 0),
            ("batch of activations", 5, 4),
            ("mark of activations", 1, 6),
            ("pass of k-means", 3, 10),
            ("centroids", 1, 10),
        ],
        10,
    ),
    # One question at a time, so that no answer depends on where the run was killed.
    "score": Kills(
        "answered", QUESTIONS, [("answers", 1, 0), ("question", 1, 0), ("question", 14, 13)], 20
    ),
}


@pytest.mark.parametrize("job", KILLS)
def test_what_is_killed_in_one_place_after_another_goes_on(
    toy, server, empty, whole, uninterrupted, job
):
    """With a checkpoint after every step; no attempt repeats more than is in none."""
    root, kills = empty(job), KILLS[job]
    for where, call, work in kills.places:
        assert server.run(toy, root, job, dies=(where, call)) == KILLED, where
        assert not any((root / job).glob("[!.]*")), where
        assert done(root, kills.log) == work, where
    # Half a checkpoint is no part of a proxy that ends before its next one is due.
    goes_on(server, toy, root, job, whole, seconds=SELDOM if job == "proxy" else 0)
    assert done(root, kills.log) == kills.work
    assert done(uninterrupted(job), kills.log) == kills.uninterrupted


@pytest.mark.parametrize(("job", "seed"), [("proxy", 1), ("trajectories", 2), ("target", 3)])
def test_a_fit_that_was_killed_from_outside_twice_goes_on(toy, server, empty, whole, job, seed):
    rng = random.Random(seed)
    root = empty(job)
    for low, high in ((3, 8), (11, 14)):
        killed_from_outside(server, toy, root, job, "steps", rng.randint(low, high), rng)
    goes_on(server, toy, root, job, whole)
    assert done(root, "steps") <= MICROBATCHES + 8


def killed_from_outside(server, toy, root, job, log, at: int, rng: random.Random) -> None:
    """Kill -9 a little after so many steps, wherever the process then is."""
    child = server.start(toy, root, job, lingers={log: at})
    while done(root, log) < at:
        assert not server.has_ended(), (root / "said.log").read_text()
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    assert server.wait() == KILLED, (root / "said.log").read_text()


def test_a_process_killed_while_it_draws_a_progress_bar_blocks_no_other(toy, server, empty):
    """Nothing that bars of several processes share, as tqdm's lock, stays held."""
    root = empty("clusters")
    assert server.run(toy, root, "clusters", dies=("progress bar", 1)) == KILLED
    assert server.run(toy, root, "clusters") == 0, (root / "said.log").read_text()


def test_without_a_checkpoint_a_fit_starts_again(toy, server, empty, whole):
    root = empty("trajectories")
    dies = ("training step", 16)
    assert server.run(toy, root, "trajectories", dies=dies, seconds=SELDOM) == KILLED
    goes_on(server, toy, root, "trajectories", whole, seconds=SELDOM)
    assert done(root, "steps") > MICROBATCHES + 12


@pytest.mark.parametrize("call", [2, 11, 19])
def test_answers_in_batches_that_were_killed_go_on(toy, server, empty, uninterrupted, call):
    """Then who shares the batch with whom has changed, and rounding may turn a token."""
    root = empty("score")
    assert server.run(toy, root, "batched score", dies=("question", call)) == KILLED
    before = done(root, "answered")
    assert server.run(toy, root, "batched score") == 0, (root / "said.log").read_text()
    assert done(root, "answered") - before == QUESTIONS - (call - 1)  # none that stood there
    resumed, whole = answers(root), answers(uninterrupted("batched score"))
    assert [line["question_id"] for line in resumed] == list(range(QUESTIONS))
    assert [line["question_id"] for line in whole] == list(range(QUESTIONS))
    changed = sum(a["text"] != b["text"] for a, b in zip(resumed, whole, strict=True))
    assert changed <= 1  # in float32, of twenty
    assert not list(root.glob("score/*/*.partial"))


@pytest.mark.parametrize("job", ["score", "batched score"])
def test_two_ranks_give_the_answers_of_one(toy, server, empty, uninterrupted, job):
    """Each its share; one of them puts the file together."""
    root = empty("score")
    assert server.run(toy, root, job, ranks=2) == 0, (root / "said.log").read_text()
    assert done(root, "answered") == QUESTIONS
    (two,) = root.glob("score/.*/answers.jsonl")
    (one,) = uninterrupted(job).glob("score/[!.]*/answers.jsonl")
    assert two.read_bytes() == one.read_bytes()
    assert not list(root.glob("score/*/*.partial"))


def test_what_two_ranks_left_one_finishes(toy, server, empty, whole):
    root = empty("score")
    assert server.run(toy, root, "score", dies=("question", 4), ranks=2) == KILLED
    assert len(list(root.glob("score/.*/answers.jsonl.*.partial"))) == 2
    goes_on(server, toy, root, "score", whole)
    assert done(root, "answered") <= QUESTIONS + 2


def answers(root: Path) -> list[dict]:
    (file,) = root.glob("score/[!.]*/answers.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("seed", [4, 5])
def test_answers_that_were_killed_from_outside_go_on(toy, server, empty, whole, seed):
    rng = random.Random(seed)
    root = empty("score")
    killed_from_outside(server, toy, root, "score", "answered", rng.randint(4, 14), rng)
    goes_on(server, toy, root, "score", whole)
    assert done(root, "answered") <= QUESTIONS + 1


def test_what_is_compared_are_all_files_of_a_result(whole):
    files = set(whole("trajectories"))
    assert {"proxy/loss.csv", "proxy/steps/11/trained.safetensors"} <= files
    assert {"trajectories/values.npy", "trajectories/reasons.npy"} <= files
    assert not any("shards" in name for name in files)
    assert {"activations/values.npy", "clusters/centroids.npy"} <= set(whole("clusters"))
    assert not any("batches.txt" in name or "iterations" in name for name in whole("clusters"))
    assert {"target/loss.csv", "target/adapter/adapter_model.safetensors"} <= set(whole("target"))
    assert "score/answers.jsonl" in whole("score")


@pytest.mark.parametrize("world", [1, 2])
def test_a_logged_fit_that_is_killed_has_every_step_once(toy: Toy, server, empty, world):
    root = empty("target")
    more = {"logged": str(root / "logged"), "world": world}
    assert server.run(toy, root, "target", dies=["training step", 5], **more) == KILLED
    place = root / "logged" / "csv" / "killed"
    assert not list(place.glob("*/summary.json"))
    assert server.run(toy, root, "target", **more) == 0, (root / "said.log").read_text()
    (run,) = place.glob("target-*")
    with (run / "metrics.csv").open() as file:
        logged = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    (made,) = (root / "target").glob("[!.]*")
    assert logged == [(int(line["step"]), line["loss"]) for line in losses(made)]
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6]
    assert json.loads((run / "summary.json").read_text())["summary"]["steps"] == 6
    # The second attempt went on from step 2 of the first, and did not begin again.
    assert done(root, "steps") <= 12 + 2 * world
