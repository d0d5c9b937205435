"""`kill -9` anywhere: the next attempt goes on and ends with the same files, bit for bit."""

import csv
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

MICRO_BATCHES = 22  # of a fit in `killable`: two a step, a checkpoint behind every step
TOKEN_BATCHES = 8  # of the toy's rows, a mark behind every seven rows or more
READ = 25  # batches of a pass over the toy's answers, with images and without
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
def whole(toy: Toy, server: Server, empty) -> Callable[[str], dict[str, str]]:
    """The files of a job that nothing interrupted, made once."""
    made: dict[str, dict[str, str]] = {}

    def of(job: str) -> dict[str, str]:
        if job not in made:
            root = empty(job)
            assert server.run(toy, root, job) == 0, (root / "said.log").read_text()
            made[job] = results(root, job)
            assert len(made[job]) >= 3
        return made[job]

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


FITS = [
    ("proxy", "training step", 7),
    ("proxy", "training step", 8),  # between two micro-batches of a step
    ("proxy", "checkpoint", 7),
    ("proxy", "snapshot", 2),  # its step is in the checkpoint already
    ("proxy", "snapshot's file", 2),
    ("proxy", "end of the fit", 1),
    ("trajectories", "scan", 7),  # within a shard of the first step
    ("trajectories", "shard", 5),  # between the values of a shard and their mark
    ("trajectories", "shard", 6),  # before the mark is on disk
    ("trajectories", "seconds of a scan", 2),
    ("trajectories", "merge", 1),
    ("trajectories", "description", 1),
    ("trajectories", "parts", 1),  # the result is whole, its parts are still there
    ("target", "training step", 11),
    ("target", "checkpoint", 5),
    ("target", "end of the fit", 1),
]


@pytest.mark.parametrize(("job", "where", "call"), FITS)
def test_a_fit_that_was_killed_goes_on(toy, server, empty, whole, job, where, call):
    root = empty(job)
    assert server.run(toy, root, job, dies=(where, call)) == KILLED
    before = done(root, "steps")
    goes_on(server, toy, root, job, whole)
    assert done(root, "steps") <= MICRO_BATCHES + 4  # what stood in no checkpoint
    assert before > 0


@pytest.mark.parametrize(("job", "seed"), [("proxy", 1), ("trajectories", 2), ("target", 3)])
def test_a_fit_that_was_killed_from_outside_twice_goes_on(toy, server, empty, whole, job, seed):
    rng = random.Random(seed)
    root = empty(job)
    for low, high in ((3, 8), (11, 14)):
        killed_from_outside(server, toy, root, job, "steps", rng.randint(low, high), rng)
    goes_on(server, toy, root, job, whole)
    assert done(root, "steps") <= MICRO_BATCHES + 8


def killed_from_outside(server, toy, root, job, log, at: int, rng: random.Random) -> None:
    """Kill -9 a little after so many steps, wherever the process then is."""
    child = server.start(toy, root, job, lingers={log: at})
    while done(root, log) < at:
        os.kill(child, 0)  # ProcessLookupError: it has ended before
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    assert server.wait() == KILLED, (root / "said.log").read_text()


def test_a_process_killed_while_it_draws_a_progress_bar_blocks_no_other(toy, server, empty):
    """Nothing that bars of several processes share, as tqdm's lock, stays held."""
    root = empty("proxy")
    assert server.run(toy, root, "proxy", dies=("progress bar", 1)) == KILLED
    assert server.run(toy, root, "proxy") == 0, (root / "said.log").read_text()


def test_a_target_killed_behind_its_fit_is_made_again(toy, server, empty, whole):
    """Between the fit and the adapter there is nothing to go on from."""
    root = empty("target")
    assert server.run(toy, root, "target", dies=("adapter", 1)) == KILLED
    goes_on(server, toy, root, "target", whole)


def test_half_a_checkpoint_is_no_part_of_a_result(toy, server, empty, whole):
    """Where the attempt that goes on ends before its next checkpoint is due."""
    root = empty("proxy")
    assert server.run(toy, root, "proxy", dies=("checkpoint", 8)) == KILLED
    goes_on(server, toy, root, "proxy", whole, seconds=600)


def test_without_a_checkpoint_a_fit_starts_again(toy, server, empty, whole):
    root = empty("trajectories")
    dies = ("training step", 16)
    assert server.run(toy, root, "trajectories", dies=dies, seconds=600) == KILLED
    goes_on(server, toy, root, "trajectories", whole, seconds=600)
    assert done(root, "steps") > MICRO_BATCHES + 12


@pytest.mark.parametrize(("where", "call"), [("question", 1), ("question", 14), ("answers", 1)])
def test_answers_that_were_killed_go_on(toy, server, empty, whole, where, call):
    """One at a time, so that no answer depends on where the run was killed."""
    root = empty("score")
    assert server.run(toy, root, "score", dies=(where, call)) == KILLED
    goes_on(server, toy, root, "score", whole)
    assert done(root, "answered") <= QUESTIONS + 1


@pytest.mark.parametrize("call", [2, 11, 19])
def test_answers_in_batches_that_were_killed_go_on(toy, server, empty, call):
    """Then who shares the batch with whom has changed, and rounding may turn a token."""
    root, other = empty("score"), empty("score")
    assert server.run(toy, root, "batched score", dies=("question", call)) == KILLED
    before = done(root, "answered")
    for folder in (root, other):
        assert server.run(toy, folder, "batched score") == 0, (folder / "said.log").read_text()
    assert done(root, "answered") - before == QUESTIONS - (call - 1)  # none that stood there
    resumed, whole = answers(root), answers(other)
    assert [line["question_id"] for line in resumed] == list(range(QUESTIONS))
    assert [line["question_id"] for line in whole] == list(range(QUESTIONS))
    changed = sum(a["text"] != b["text"] for a, b in zip(resumed, whole, strict=True))
    assert changed <= 1  # in float32, of twenty
    assert not list(root.glob("score/*/*.partial"))


@pytest.mark.parametrize("job", ["score", "batched score"])
def test_two_ranks_give_the_answers_of_one(toy, server, empty, job):
    """Each its share; one of them puts the file together."""
    root, other = empty("score"), empty("score")
    assert server.run(toy, root, job, ranks=2) == 0, (root / "said.log").read_text()
    assert done(root, "answered") == QUESTIONS
    assert server.run(toy, other, job) == 0
    (two,) = root.glob("score/.*/answers.jsonl")
    (one,) = other.glob("score/*/answers.jsonl")
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


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("batch of answers", 1),
        ("batch of answers", 9),  # within a shard
        ("shard", 7),  # between the values of a shard and their mark
        ("shard", 8),  # before the mark is on disk
        ("batch of answers", READ - 2),  # of the pass without images
        ("values of answers", 1),
        ("parts", 1),  # the result is whole, its parts are still there
    ],
)
def test_a_pass_over_the_answers_that_was_killed_goes_on(toy, server, empty, whole, where, call):
    root = empty("answers")
    assert server.run(toy, root, "answers", dies=(where, call)) == KILLED
    before = done(root, "read")
    goes_on(server, toy, root, "answers", whole)
    assert READ <= done(root, "read") <= READ + 5  # a shard's batches at most are run again
    assert before <= READ


@pytest.mark.parametrize("seed", [4, 5])
def test_answers_that_were_killed_from_outside_go_on(toy, server, empty, whole, seed):
    rng = random.Random(seed)
    root = empty("score")
    killed_from_outside(server, toy, root, "score", "answered", rng.randint(4, 14), rng)
    goes_on(server, toy, root, "score", whole)
    assert done(root, "answered") <= QUESTIONS + 1


LOOKS = [
    ("batch of activations", 1),
    ("batch of activations", 5),
    ("mark of activations", 2),
    ("pass of k-means", 3),
    ("centroids", 2),
]


@pytest.mark.parametrize(("where", "call"), LOOKS)
def test_activations_and_their_clusters_that_were_killed_go_on(
    toy, server, empty, whole, where, call
):
    root = empty("clusters")
    assert server.run(toy, root, "clusters", dies=(where, call)) == KILLED
    before = done(root, "looks")
    goes_on(server, toy, root, "clusters", whole)
    again = done(root, "looks") - before
    assert again == 0 if where in ("pass of k-means", "centroids") else again > 0
    assert before + again <= TOKEN_BATCHES + 2  # what stood behind no mark


def test_uninterrupted_runs_are_the_same_bit_for_bit(toy, server, empty, whole):
    """Otherwise the comparisons above would be of nothing."""
    for job in ("trajectories", "clusters", "target", "answers", "score"):
        root = empty(job)
        assert server.run(toy, root, job) == 0
        assert results(root, job) == whole(job)
        if job == "answers":
            assert done(root, "read") == READ
    assert done(root, "answered") == QUESTIONS
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
