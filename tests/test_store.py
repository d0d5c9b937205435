"""The store: a result is named by what made it, made once, and whole or not there."""

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from xmas.store import (
    Made,
    Stage,
    Store,
    content,
    describe,
    key,
    lock,
    sha256_of,
    volatile,
    worked_on,
    write_atomically,
)
from xmas.store.durable import make_folder


@dataclasses.dataclass(frozen=True)
class Text(Stage):
    """Writes `text.txt`; every computation leaves a file in `calls`."""

    kind: ClassVar[str] = "text"

    calls: str = volatile()
    text: str = "plum"
    size: float = 1.0
    workers: int = volatile(1)
    seconds: float = volatile(0.0)

    def compute(self, store: Store, out: Path) -> None:
        Path(self.calls).mkdir(parents=True, exist_ok=True)
        (Path(self.calls) / str(time.monotonic_ns())).touch()
        time.sleep(self.seconds)
        (out / "text.txt").write_text(self.text)


@dataclasses.dataclass(frozen=True)
class Renamed(Text):
    """The same fields under another type."""


@dataclasses.dataclass(frozen=True)
class Newer(Text):
    version: ClassVar[int] = 2


@dataclasses.dataclass(frozen=True)
class Reader(Stage):
    """Reads a file, given by a path or by a stage that makes it, and adds what it calls."""

    kind: ClassVar[str] = "reader"

    source: str | Made = content()
    before: Text | None = None
    seconds: float = volatile(0.0)

    def compute(self, store: Store, out: Path) -> None:
        time.sleep(self.seconds)
        if self.before is not None:
            store.get(self.before)
        found = store.find(self.source)
        (out / "length.txt").write_text(str(found.stat().st_size))


@dataclasses.dataclass(frozen=True)
class Holder(Stage):
    """Holds anything."""

    kind: ClassVar[str] = "holder"

    held: Any = None

    def compute(self, store: Store, out: Path) -> None:
        (out / "held.txt").write_text("held")


@dataclasses.dataclass(frozen=True)
class Steps(Stage):
    """Three parts; fails where `fails` says so, and takes up the parts that are there."""

    kind: ClassVar[str] = "steps"

    fails: str = volatile("nowhere")

    def compute(self, store: Store, out: Path) -> None:
        for number in range(3):
            part = out / f"{number}.txt"
            if part.exists():
                continue
            if self.fails == str(number):
                time.sleep(0.04)
                raise OSError(f"disk full at part {number}")
            part.write_text(f"by {self.fails}")


@dataclasses.dataclass(frozen=True)
class Asking(Stage):
    """Asks for stages, unless an earlier attempt has; may then fail or be killed."""

    kind: ClassVar[str] = "asking"

    asked: tuple[Stage, ...]
    holds: Stage | None = None  # and never asks for
    fails: bool = volatile(False)
    kills: bool = volatile(False)

    def compute(self, store: Store, out: Path) -> None:
        if (out / "0.txt").exists():
            return
        for stage in self.asked:
            store.get(stage)
        if self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails:
            time.sleep(0.04)
            raise OSError("interrupted")


@dataclasses.dataclass(frozen=True)
class Calling(Stage):
    """Takes 0.02 s and calls a function, as a fit calls what measures its snapshots."""

    kind: ClassVar[str] = "calling"

    call: Callable[[], None] = volatile(lambda: None)

    def compute(self, store: Store, out: Path) -> None:
        time.sleep(0.02)
        self.call()


@dataclasses.dataclass(frozen=True)
class Called(Stage):
    """Takes 0.02 s, and 0.04 s in a call of the stage it asks for, besides the 0.08 s of a text."""

    kind: ClassVar[str] = "called"

    text: Text

    def compute(self, store: Store, out: Path) -> None:
        def call() -> None:
            with store.counted_for(self):
                time.sleep(0.04)
                store.get(dataclasses.replace(self.text, seconds=0.08))

        store.get(Calling(call))
        time.sleep(0.02)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def text(tmp_path: Path) -> Text:
    return Text(str(tmp_path / "calls"))


def computations(stage: Text) -> int:
    return len(list(Path(stage.calls).glob("*")))


def test_a_result_is_computed_once(store, text):
    first = store.get(text)
    assert (first / "text.txt").read_text() == "plum"
    assert store.get(text) == first == store.path(text)
    assert computations(text) == 1
    assert first == Path(store.root) / "text" / key(text)


def test_building_a_stage_and_asking_for_its_path_touches_no_disk(store, text):
    store.path(text)
    assert not Path(store.root).exists()
    assert computations(text) == 0


def ask(root: str, stage: Stage, ready: Any) -> None:
    ready.wait()
    Store(root).get(stage)


def test_processes_that_ask_at_once_compute_once(store, text, monkeypatch):
    monkeypatch.setattr(lock, "POLL", 0.01)
    slow = dataclasses.replace(text, seconds=0.1)
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(4)
    asking = [context.Process(target=ask, args=(store.root, slow, ready)) for _ in range(4)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert [one.exitcode for one in asking] == [0, 0, 0, 0]
    assert computations(slow) == 1
    assert store.path(slow).exists()


def test_volatile_fields_do_not_count(text):
    moved = dataclasses.replace(text, calls="/elsewhere", workers=8, seconds=9.0)
    assert key(moved) == key(text)


@pytest.mark.parametrize("change", [{"text": "pear"}, {"size": 2.0}])
def test_every_other_field_counts(text, change):
    assert key(dataclasses.replace(text, **change)) != key(text)


def test_type_and_version_count(text):
    keys = {key(kind(text.calls)) for kind in (Text, Renamed, Newer)}
    assert len(keys) == 3


def test_whole_numbers_and_floats_are_one_key(text):
    assert key(dataclasses.replace(text, size=1)) == key(dataclasses.replace(text, size=1.0))
    assert key(dataclasses.replace(text, size=True)) != key(dataclasses.replace(text, size=1))


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**64 - 1, 10**400])
def test_a_whole_number_that_is_no_float_is_refused(number, text):
    with pytest.raises(ValueError, match=r"^size=.* is no exact float: .* at most 2\^53"):
        key(dataclasses.replace(text, size=number))
    with pytest.raises(ValueError, match="is no exact float"):
        key(Holder([1, {"a": number}]))


def test_large_whole_numbers_that_are_floats_are_told_apart():
    numbers = [2**53 - 1, 2**53, 2**53 + 2, 2**64, 2**64 + 4096]
    assert len({key(Holder(number)) for number in numbers}) == len(numbers)


def test_lists_and_tuples_are_one_key_and_the_order_of_a_dict_does_not_count():
    assert key(Holder([1, 2])) == key(Holder((1, 2))) != key(Holder([2, 1]))
    assert key(Holder({"a": 1, "b": 2})) == key(Holder({"b": 2, "a": 1}))
    assert key(Holder({"a": 1, "b": 2})) != key(Holder({"a": 2, "b": 1}))


def test_keys_stay_the_same_between_processes_and_releases():
    plain = b'{"held": [1.0, null, "\\u00e9"], "type": "test_store.Holder", "version": 1}'
    assert key(Holder([1, None, "é"])) == hashlib.sha256(plain).hexdigest()[:12]


@pytest.mark.parametrize(
    "held", [Path("a"), {1, 2}, b"bytes", Text, [object()]], ids=lambda held: type(held).__name__
)
def test_a_field_that_is_not_plain_is_refused(store, held):
    with pytest.raises(TypeError, match="neither plain data nor a dataclass"):
        store.get(Holder(held))
    assert not Path(store.root).exists()


def test_a_file_counts_by_its_content(tmp_path):
    place, elsewhere = tmp_path / "a.json", tmp_path / "deep" / "b.json"
    elsewhere.parent.mkdir()
    place.write_text("same")
    elsewhere.write_text("same")
    assert key(Reader(str(place))) == key(Reader(str(elsewhere)))
    before = key(Reader(str(place)))
    place.write_text("else")
    assert key(Reader(str(place))) != before


def test_a_folder_counts_by_its_names_and_contents(tmp_path):
    def folder(name: str, **files: str) -> str:
        for file, text in files.items():
            (tmp_path / name / "in").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "in" / file).write_text(text)
        return str(tmp_path / name)

    same = [folder("one", a="x", b="y"), folder("two", b="y", a="x")]
    others = [
        folder("renamed", a="x", c="y"),
        folder("swapped", a="y", b="x"),
        folder("less", a="x"),
    ]
    assert key(Reader(same[0])) == key(Reader(same[1]))
    assert len({key(Reader(place)) for place in [same[0], *others]}) == 4
    assert sha256_of(same[0]) == sha256_of(same[1])


def test_a_result_is_called_reused_once_and_not_by_the_process_that_computed_it(
    store, text, caplog, monkeypatch
):
    def events(ask):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="xmas"):
            ask()
        return [message.split()[2] for message in caplog.messages]

    assert events(lambda: store.get(text)) == ["computing", "done"]
    assert events(lambda: store.get(text)) == []
    monkeypatch.setattr("xmas.store.store._LOGGED", set())  # of another process
    assert events(lambda: store.get(text)) == ["reused"]
    assert events(lambda: store.get(text)) == []


def test_only_the_hash_of_a_large_file_is_worth_a_line(tmp_path, caplog):
    small, large = tmp_path / "small.bin", tmp_path / "large.bin"
    small.write_bytes(b"1")
    with large.open("wb") as file:
        file.truncate(100_000_001)  # sparse: takes no disk
    with caplog.at_level(logging.INFO, logger="xmas"):
        sha256_of(small)
        sha256_of(large)
    (line,) = caplog.messages
    assert line.startswith(f"sha256 of {large}: ")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        key(Reader(str(tmp_path / "absent.json")))


def test_a_made_file_counts_by_the_stage_that_makes_it(store, text):
    made = Reader(Made(text, "text.txt"))
    assert key(made) == key(Reader(Made(dataclasses.replace(text, workers=5), "text.txt")))
    assert key(made) != key(Reader(Made(dataclasses.replace(text, text="pear"), "text.txt")))
    assert key(made) != key(Reader(Made(text, "other.txt")))
    assert computations(text) == 0  # naming computes nothing
    assert (store.get(made) / "length.txt").read_text() == "4"
    assert computations(text) == 1
    assert store.find(Made(text, "text.txt")) == store.path(text) / "text.txt"


def test_an_interrupted_stage_goes_on_in_its_draft(store):
    done = store.path(Steps())
    draft = done.with_name(f".{done.name}")
    with pytest.raises(OSError, match="disk full at part 1"):
        store.get(Steps(fails="1"))
    assert not done.exists()
    assert (draft / "0.txt").read_text() == "by 1"
    assert "disk full at part 1" in (draft / "error.txt").read_text()
    assert "Traceback" in (draft / "error.txt").read_text()
    with pytest.raises(OSError, match="disk full at part 2"):
        store.get(Steps(fails="2"))
    assert "part 1" not in (draft / "error.txt").read_text()
    assert store.get(Steps()) == done
    assert [(done / f"{number}.txt").read_text() for number in range(3)] == [
        "by 1",
        "by 2",
        "by nowhere",
    ]
    assert not draft.exists()
    assert sorted(file.name for file in done.iterdir()) == [
        *("0.txt", "1.txt", "2.txt"),
        "meta.json",
    ]
    assert json.loads((done / "meta.json").read_text())["seconds"] >= 0.08  # over all attempts


def test_meta_says_what_was_made_and_by_what(store, text):
    stage = Reader(Made(text, "text.txt"), before=text)
    meta = json.loads((store.get(stage) / "meta.json").read_text())
    assert set(meta) == {
        *("kind", "key", "config", "seconds", "inputs", "versions", "commit", "host", "cpus"),
        *("device", "devices", "label", "finished", "files", "sha256"),
    }
    assert meta["kind"] == "reader"
    assert meta["key"] == key(stage) == store.path(stage).name
    assert meta["config"] == describe(stage)
    assert meta["config"]["before"]["text"] == "plum"
    assert {"python", "numpy", "torch", "transformers"} <= set(meta["versions"])
    assert meta["commit"] is None or len(meta["commit"].rstrip("+")) == 40


def test_seconds_of_a_stage_leave_out_those_it_asked_for(store, text):
    inner = dataclasses.replace(text, seconds=0.08)
    outer = Reader(Made(inner, "text.txt"), before=inner, seconds=0.02)
    started = time.monotonic()
    store.get(outer)
    whole = time.monotonic() - started
    spent = {
        stage.kind: json.loads((store.get(stage) / "meta.json").read_text())["seconds"]
        for stage in (outer, inner)
    }
    assert spent["reader"] >= 0.02
    assert spent["text"] >= 0.08
    assert sum(spent.values()) < whole + 0.01  # no second is counted twice


def name(stage: Stage) -> str:
    return f"{stage.kind}/{key(stage)}"


def inputs(store: Store, stage: Stage) -> list[str]:
    return json.loads((store.get(stage) / "meta.json").read_text())["inputs"]


def test_inputs_are_what_a_computation_asked_for_computed_or_reused_once(store, text):
    pear = dataclasses.replace(text, text="pear")
    store.get(pear)
    stage = Reader(Made(text, "text.txt"), before=pear)
    outer = Asking((stage, pear, stage), holds=dataclasses.replace(text, text="fig"))
    assert inputs(store, outer) == [name(stage), name(pear)]  # not what it holds, not twice
    assert inputs(store, stage) == [name(pear), name(text)]
    assert inputs(store, text) == []


def test_inputs_and_seconds_of_interrupted_attempts_are_kept(store, text):
    first, second = (dataclasses.replace(text, text=fruit) for fruit in ("fig", "pear"))
    with pytest.raises(OSError, match="interrupted"):
        store.get(Asking((first, second), fails=True))
    draft = store.path(Asking((first, second)))
    draft = draft.with_name(f".{draft.name}")
    assert {path.name for path in draft.iterdir()} == {"attempts.json", "error.txt", "stage.json"}
    (draft / "0.txt").touch()  # the next attempt takes this up and does not ask again
    attempts = json.loads((draft / "attempts.json").read_text())
    assert attempts["seconds"] >= 0.04
    (draft / "attempts.json").write_text(json.dumps(attempts | {"seconds": 1000.2}))
    done = store.get(Asking((first, second)))
    meta = json.loads((done / "meta.json").read_text())
    assert meta["inputs"] == [name(first), name(second)]
    assert meta["seconds"] >= 1000.2
    assert {path.name for path in done.iterdir()} == {"meta.json", "0.txt"}


def test_a_killed_attempt_has_left_what_it_asked_for(store, text):
    stage = Asking((text,), kills=True)
    process = multiprocessing.get_context("fork").Process(target=Store.get, args=(store, stage))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (store.path(stage).with_name(f".{key(stage)}") / "0.txt").touch()
    assert inputs(store, Asking((text,))) == [name(text)]


def test_a_draft_of_the_time_before_inputs_were_recorded_is_resumed_without(store):
    draft = store.path(Steps()).with_name(f".{key(Steps())}")
    draft.mkdir(parents=True)
    (draft / "0.txt").write_text("by then")
    (draft / "seconds.json").write_text("7.5")
    with pytest.raises(OSError, match="disk full at part 2"):
        store.get(Steps(fails="2"))
    done = store.get(Steps())
    meta = json.loads((done / "meta.json").read_text())
    assert "inputs" not in meta
    assert 7.54 <= meta["seconds"] < 100
    assert not (done / "seconds.json").exists()
    assert not (done / "attempts.json").exists()


def test_work_that_another_stage_calls_counts_for_the_one_that_waits(store, text):
    scan = Called(text)
    started = time.monotonic()
    store.get(scan)
    whole = time.monotonic() - started
    seconds, recorded = {}, {}
    for stage in (scan, Calling(), text):
        meta = json.loads((store.path(stage) / "meta.json").read_text())
        seconds[stage.kind], recorded[stage.kind] = meta["seconds"], meta["inputs"]
    assert recorded == {"called": [name(Calling()), name(text)], "calling": [], "text": []}
    assert seconds["called"] >= 0.06
    assert seconds["calling"] >= 0.02
    assert seconds["text"] >= 0.08
    assert sum(seconds.values()) < whole + 0.01  # no second is counted twice


def test_results_are_the_finished_ones_in_the_order_of_their_folders(store, text):
    assert store.results("text") == []
    made = [store.get(dataclasses.replace(text, text=name)) for name in ("plum", "pear", "fig")]
    with pytest.raises(OSError, match="disk full"):
        store.get(Steps(fails="0"))
    assert store.results("steps") == []
    found = store.results("text")
    assert [folder for folder, _ in found] == sorted(made)
    assert {meta["config"]["text"] for _, meta in found} == {"plum", "pear", "fig"}


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    place = tmp_path / "weights.bin"
    write_atomically(place, lambda path: path.write_text("whole"))

    def half(path: Path) -> None:
        path.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(place, half)
    assert place.read_text() == "whole"


@dataclasses.dataclass(frozen=True)
class Fit(Stage):
    kind: ClassVar[str] = "fit"

    hardware: SimpleNamespace


@dataclasses.dataclass(frozen=True)
class Scan(Stage):
    kind: ClassVar[str] = "scan"

    fit: Fit


def test_a_record_says_on_how_many_devices_a_stage_is_spread():
    fit = Fit(SimpleNamespace(accelerator="cpu", world=4))
    assert worked_on(fit)["devices"] == 4
    assert worked_on(Scan(fit))["devices"] == 4  # it measures on what the fit runs on
    assert worked_on(fit)["device"].startswith("CPU, ")
    assert worked_on(Stage())["devices"] == 1


def test_under_torchrun_all_processes_count_also_those_that_wait(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert worked_on(Stage())["devices"] == 3


def test_a_folder_that_is_a_file_is_named(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("no folder")
    with pytest.raises(FileExistsError, match=r"/tokens'"):
        make_folder(path)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
