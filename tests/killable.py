"""A server that runs stages of the toy in forked processes, which die where a test says.

Everything is imported once, before the forks, so that a killed process costs no start of torch.
Jobs, and commands as a user types them, come as lines of JSON on standard input. To each the
answer is a line with its process id when it starts and a line with its exit status when it ends,
minus the signal that killed it. A job of several ranks is that many processes, as torchrun would
start them; the id is the last one's, and when one fails the others are killed.

A command has a process of its own. Jobs of as many ranks follow each other in the same processes
until one fails or is killed: a fork copies the pages it touches, a third of the cost of a fit.
"""

import contextlib
import dataclasses
import faulthandler
import gc
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import antlr4  # noqa: F401  # imported by a fit
import numpy as np
import pandas  # noqa: F401  # imported by pyarrow where rows are written
import pyarrow.parquet  # noqa: F401
import torch
from commands import command
from composing import quick_commands
from large_pages import use_large_pages
from peft import PeftModel
from safetensors.torch import save_file
from torch.distributed import TCPStore
from torch.distributed.tensor import DTensor
from toy import OVERRIDES, RECIPE, Toy, picture_name, shared
from tqdm import tqdm
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from unsynced import unsynced

import xmas.estimate  # noqa: F401  # imported by commands that make stages
from xmas.attention import shards
from xmas.attention.engine import Scan
from xmas.data.held_out import HoldOut
from xmas.data.pool import Pool
from xmas.evaluation import answer_losses
from xmas.evaluation.benchmarks.heldout import HeldOutLikelihood
from xmas.evaluation.generation import answer_file
from xmas.evaluation.generation import generate as generating
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.protocol import Question, Scored
from xmas.evaluation.scores import Score
from xmas.features import trajectories
from xmas.features.activations import Activations
from xmas.features.clip.clip import ClipEmbeddings
from xmas.features.clip.clip_model import Clip
from xmas.features.clustering.assigner import Assigner
from xmas.features.clustering.kmeans import Clusters
from xmas.features.clustering.spherical import Spherical
from xmas.features.losses import answers as of_answers
from xmas.features.losses.answer_scorer import AnswerScorer, ScorerSettings
from xmas.features.losses.answers import Answers
from xmas.models import vision_cache
from xmas.models.chat.tokens import TokenTable
from xmas.results.logger.csv import Csv
from xmas.store import Stage, Store, arrays, checkpoint, commit, versions
from xmas.store.progress import Bar
from xmas.training import probe
from xmas.training.fit import callbacks
from xmas.training.fit.module import FitModule
from xmas.training.fit.recipe import Hardware
from xmas.training.proxy import Proxy

HANGS = 800  # seconds; a job that takes longer says where it hangs and ends, before pytest does
LONG = dataclasses.replace(RECIPE, epochs=2)  # 22 micro-batches in twos: 11 optimiser steps
PATCHES = contextlib.ExitStack()  # of the job that runs; undone when it ends


@dataclasses.dataclass(frozen=True)
class Asked:
    """Twenty questions about the toy's pictures, which nobody scores."""

    name: ClassVar[str] = "asked"
    metric: ClassVar[str] = "none"

    folder: str
    split: str = "toy"
    max_new_tokens: int = 8

    def asked(self, store: Store) -> list[Question]:
        images = Path(self.folder) / "images"
        return [
            Question(number, f"What is drawn{'?' * number}", images / picture_name(number % 13))
            for number in range(20)
        ]

    def score(self, answers: list[dict[str, Any]], store: Store) -> Scored:
        return Scored(0.0, len(answers), {})


def stage(toy: Toy, given: dict[str, Any]) -> Stage:
    """The stage of a job; checkpoints every so many seconds."""
    job, world = given["job"], given.get("world", 1)
    hardware = Hardware(
        accelerator="cpu",
        devices=world,
        checkpoint_seconds=given["seconds"],
        **given.get("hardware", {}),
    )
    recipe = dataclasses.replace(LONG, **given.get("recipe", {}))
    proxy: Proxy = dataclasses.replace(toy.proxy, recipe=recipe, hardware=hardware)
    if "first" in given:
        proxy = dataclasses.replace(proxy, pool=first_rows(toy, given["first"]))
    activations = Activations(proxy, step=0, layers=(0, 1), batch_tokens=512, mark_rows=7)
    made: dict[str, Callable[[], Stage]] = {
        "proxy": lambda: proxy,
        "trajectories": lambda: dataclasses.replace(toy.trajectories, proxy=proxy),
        "groups": lambda: Clusters(dataclasses.replace(toy.trajectories, proxy=proxy), k=5),
        "activations": lambda: activations,
        "clusters": lambda: Spherical(activations, k=5, hardware=hardware),
        "clip": lambda: ClipEmbeddings(
            toy.pool, toy.towers, image_batch=4, text_block=11, image_block=1
        ),
        "vision": lambda: dataclasses.replace(toy.vision, batch=4),
        "answers": lambda: Answers(toy.proxy, ScorerSettings(batch_tokens=200, shard_rows=5)),
        "target": lambda: dataclasses.replace(
            toy.target(), recipe=recipe, hardware=hardware, **given.get("target", {})
        ),
        "score": lambda: Score(
            Asked(str(toy.folder)), toy.target(), Generation(precision="float32")
        ),
        "score of rows held out": lambda: held_out_score(toy),
        "batched score": lambda: Score(
            Asked(str(toy.folder)), toy.target(), Generation(batch=3, precision="float32")
        ),
    }
    return made[job]()


def first_rows(toy: Toy, count: int) -> Pool:
    """A pool of as many rows of the toy's, in a file of its own."""
    records = json.loads(Path(toy.pool.annotations).read_text())[:count]
    file = Path(toy.store.root) / f"first-{os.environ.get('RANK')}.json"
    file.write_text(json.dumps(records))
    return dataclasses.replace(toy.pool, annotations=str(file))


def held_out_score(toy: Toy) -> Score:
    """In parts of a row or two, so that every rank has some."""
    put(answer_losses, "BATCH_TOKENS", 64)
    put(answer_losses, "_MARK_ROWS", 1)
    pool = dataclasses.replace(toy.pool, hold_out=HoldOut(share=0.3))
    return Score(HeldOutLikelihood(pool), toy.target(), Generation(precision="float32"))


def put(holder: Any, name: str, value: Any) -> None:
    """Replace an attribute until the job ends."""
    PATCHES.enter_context(mock.patch.object(holder, name, value))


def keep_gradients(root: Path) -> None:
    """`gradients/<step>-<rank>.safetensors`: what an optimiser step is made of, a rank's part."""

    def keep(self: FitModule, optimizer: Any) -> None:
        held = {name: one.grad for name, one in self.named_parameters() if one.grad is not None}
        cut = sum(isinstance(one, DTensor) for one in held.values())
        if self.global_rank == 0 or cut:
            parts = {
                name: one.to_local() if isinstance(one, DTensor) else one
                for name, one in held.items()
            }
            (root / "gradients").mkdir(exist_ok=True)
            path = root / "gradients" / f"{self.global_step}-{self.global_rank}.safetensors"
            save_file(parts, path, {"cut": str(cut)})

    put(FitModule, "on_before_optimizer_step", keep)


def mask(rows: list[int]) -> None:
    """Take the labels of these rows from every table of tokens that is opened."""
    opened = TokenTable.__init__

    def without(self: TokenTable, folder: Path, layout: Any) -> None:
        opened(self, folder, layout)
        self._labelled = self._labelled.copy()
        for row in rows:
            self._labelled[self.offsets[row] : self.offsets[row + 1]] = False

    put(TokenTable, "__init__", without)


def count(log: Path, holder: Any, name: str, lingers: int | None = None) -> None:
    """Leave a byte in a file for every call.

    Calls after the first `lingers` in the file take a second longer each, so that a kill from
    outside arrives before the end, however late the killer is woken.
    """
    original = getattr(holder, name)

    def counted(*given: Any, **options: Any) -> Any:
        with log.open("ab") as file:
            file.write(b".")
        if lingers is not None and log.stat().st_size > lingers:
            time.sleep(1)
        return original(*given, **options)

    put(holder, name, counted)


def die(*given: Any, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(holder: Any, name: str, call: int) -> None:
    """Die in place of the given call of a function."""
    original, calls = getattr(holder, name), 0

    def counted(*given: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return die() if calls == call else original(*given, **options)

    put(holder, name, counted)


def die_writing(holder: Any, call: int) -> None:
    """Die in the given call of `write_atomically`, with half of the largest file written."""
    original, calls = holder.write_atomically, 0

    def torn(path: Path, write: Callable[[Path], Any]) -> None:
        nonlocal calls
        calls += 1

        def half(partial: Path) -> None:
            write(partial)
            if calls == call:
                files = [path for path in [partial, *partial.rglob("*")] if path.is_file()]
                largest = max(files, key=lambda path: path.stat().st_size)
                os.truncate(largest, largest.stat().st_size // 2)
                die()

        original(path, half)

    put(holder, "write_atomically", torn)


DEATHS: dict[str, Callable[[int], None]] = {
    "training step": lambda call: die_at(FitModule, "training_step", call),
    "checkpoint": lambda call: die_writing(checkpoint, call),
    "snapshot": lambda call: die_at(probe.SavedSteps, "at", call),
    "snapshot's file": lambda call: die_writing(probe, call),
    "end of the fit": lambda call: die_at(callbacks.Losses, "on_fit_end", call),
    "scan": lambda call: die_at(Scan, "_batches", call),
    "shard": lambda call: die_at(np.memmap, "flush", call),
    "seconds of a scan": lambda call: die_writing(trajectories, call),
    "merge": lambda call: die_writing(shards, call),
    "description": lambda call: die_at(trajectories.Measuring, "_describe", call),
    "batch of answers": lambda call: die_at(AnswerScorer, "_values", call),
    "values of answers": lambda call: die_writing(of_answers, call),
    "parts": lambda call: die_at(shutil, "rmtree", call),
    "batch of activations": lambda call: die_at(Activations, "features", call),
    "mark of activations": lambda call: die_writing(arrays, call),
    "pass of k-means": lambda call: die_at(Assigner, "__call__", call),
    "centroids": lambda call: die_writing(checkpoint, call),
    "adapter": lambda call: die_at(PeftModel, "save_pretrained", call),
    "question": lambda call: die_at(generating, "answer_line", call),
    "answers": lambda call: die_writing(answer_file, call),
    "progress bar": lambda call: die_at(Bar, "show", call),
}


def work(given: dict[str, Any]) -> None:
    root = Path(given["root"])
    log = os.open(root / "said.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.dump_traceback_later(HANGS, exit=True)
    with PATCHES:
        watch(given, root)
        followed = "logged" in given and int(os.environ.get("RANK", 0)) == 0  # as the command does
        run_logger = Csv(given["logged"], "killed") if followed else None
        toy = Toy(Path(given["folder"]), Store(str(root), run_logger=run_logger))
        wanted = stage(toy, given)
        if given.get("ranks", 1) == 1:
            toy.store.get(wanted)
        else:
            in_ranks(toy.store, wanted, given["ranks"], root)
    sys.stdout.flush()
    sys.stderr.flush()


def watch(given: dict[str, Any], root: Path) -> None:
    """Count what the job does, and let it die where it is to."""
    keep_gradients(root)
    mask(given.get("masked", []))
    lingers = given.get("lingers", {})
    count(root / f"scanned-{os.environ.get('RANK')}.log", Scan, "_batches")
    count(root / "steps.log", FitModule, "training_step", lingers.get("steps"))
    count(root / "answered.log", generating, "answer_line", lingers.get("answered"))
    count(root / "looks.log", Activations, "features")
    count(root / "read.log", AnswerScorer, "_values")
    for pass_of in ((Activations, "features"), (AnswerScorer, "_values"), (Clip, "images")):
        count(root / f"passed-{os.environ.get('RANK')}.log", *pass_of)
    put(vision_cache, "_PART_BYTES", 1)  # a part is a batch
    count(root / f"passed-{os.environ.get('RANK')}.log", vision_cache, "check_finite")
    if given["dies"] is not None and int(os.environ.get("RANK", 0)) == given.get("world", 1) - 1:
        where, call = given["dies"]
        DEATHS[where](call)


def in_ranks(store: Store, wanted: Stage, count: int, root: Path) -> None:
    """Compute a stage in several processes of a group, into its draft; rank 0 ends last."""
    draft = store.path(wanted).with_name(f".{store.path(wanted).name}")
    draft.mkdir(parents=True, exist_ok=True)
    (draft / "attempts.json").write_text(json.dumps({"seconds": 0, "inputs": []}))
    children = []
    for rank in range(1, count):
        if (child := os.fork()) == 0:
            compute(store, wanted, draft, rank, count, root)
            os._exit(0)
        children.append(child)
    compute(store, wanted, draft, 0, count, root)
    for child in children:
        _, status = os.waitpid(child, 0)
        if code := os.waitstatus_to_exitcode(status):
            raise RuntimeError(f"a rank ended with {code}")


def compute(store: Store, wanted: Stage, draft: Path, rank: int, count: int, root: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{root}/group", rank=rank, world_size=count
    )
    wanted.compute(store, draft)
    torch.distributed.destroy_process_group()


def warm() -> None:
    """What every process would do again: tables of transformers, versions, the commit."""
    get_checkpoint_conversion_mapping("llava")
    versions()
    commit()


def fit_once(toys: Path) -> None:
    """What the first fit of a process imports, compiles and keeps: 0.06 s in every fork."""
    toy = Toy(toys, Store(str(toys / "store")))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        store = shared(toy, Path(folder))
        store.get(dataclasses.replace(toy.target(), hardware=Hardware("cpu", checkpoint_seconds=0)))


@dataclasses.dataclass
class Rank:
    """A forked process that does one job after another; it answers when one has ended well."""

    process: int
    jobs: Connection
    store: TCPStore | None  # through which it meets the others, as long as there are any

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)

    def status(self) -> int:
        """Its exit status, minus the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def serve() -> None:
    torch.set_num_threads(1)  # threads would not survive the fork
    tqdm.monitor_interval = 0  # nor would its thread
    unsynced()  # what a killed process wrote is there without it
    # All forks share the lock of tqdm: a process killed while it held it would block the rest.
    tqdm.set_lock(threading.RLock())
    quick_commands(*OVERRIDES)
    warm()
    gc.freeze()  # or a fork's first collection copies the pages of all that was imported
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
    use_large_pages()
    standing: dict[int, list[Rank]] = {}  # by how many there are
    warmed = False
    for line in sys.stdin:
        given = json.loads(line)
        if "command" in given:
            child = forked(lambda given=given: os._exit(commanded(given)))
            print(child, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        if not warmed:
            fit_once(Path(given["folder"]))
            gc.freeze()
            use_large_pages()
            warmed = True
        world = given.get("world", 1)
        ranks = standing.pop(world, None) or started(world)
        print(ranks[-1].process, flush=True)
        failure = done(given, ranks)
        if failure == 0:
            standing[world] = ranks
        print(failure, flush=True)


def forked(body: Callable[[], None]) -> int:
    """The id of a new process that runs the body, and ends with 1 where that raises."""
    child = os.fork()
    if child:
        return child
    try:
        body()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def commanded(given: dict[str, Any]) -> int:
    if given["dies"] is not None:
        where, call = given["dies"]
        DEATHS[where](call)
    return command(given)


def started(world: int) -> list[Rank]:
    """New processes, each a rank of so many, which wait for jobs."""
    # As of torchrun's agent: a rank that hosted it would be waited for, a third of a second, by
    # others that came first.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if world > 1 else None
    ranks: list[Rank] = []
    for rank in range(world):
        ours, theirs = Pipe()

        def body(rank: int = rank, ours: Connection = ours, theirs: Connection = theirs) -> None:
            ours.close()  # or it would never hear of the server's end
            if store is not None:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ |= {"WORLD_SIZE": str(world), "GLOO_SOCKET_IFNAME": "lo"}
                os.environ |= {"MASTER_ADDR": store.host, "MASTER_PORT": str(store.port)}
                os.environ |= {"TORCHELASTIC_RUN_ID": "toy", "TORCHELASTIC_RESTART_COUNT": "0"}
                os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
            while True:
                try:
                    given = theirs.recv()
                except EOFError:
                    os._exit(0)
                work(given)
                theirs.send("done")

        ranks.append(Rank(forked(body), ours, store))
        theirs.close()
    return ranks


def done(given: dict[str, Any], ranks: list[Rank]) -> int:
    """Let the ranks do a job; 0, or the exit status of the first that fails, and none is left."""
    for rank in ranks:
        rank.jobs.send(given)
    working, failure = {rank.jobs: rank for rank in ranks}, 0
    while working:
        for jobs in wait(list(working)):
            rank = working.pop(jobs)
            try:
                jobs.recv()
            except (EOFError, ConnectionResetError):  # the latter: killed before it read the job
                status = rank.status()
                failure = failure or status
                ranks = [other for other in ranks if other is not rank]
                for other in () if given.get("alone") else working.values():  # as torchrun's agent
                    other.kill()
    if failure:
        for rank in ranks:
            rank.kill()
            rank.status()
    return failure
