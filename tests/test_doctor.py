"""The doctor: each fault is found, named with its place, and told what to do about it."""

import dataclasses
import json
import re
import shutil
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import official
import pytest
from PIL import Image
from toy import build as build_toy

from xmas.cli.config import build
from xmas.data.pool import Pool
from xmas.demo.bench import DemoBench
from xmas.demo.pool import DemoPool
from xmas.doctor import Doctor, DoctorError
from xmas.doctor.machine import (
    check_devices,
    check_disk,
    check_packages,
    check_shared_memory,
)
from xmas.doctor.models import check_models
from xmas.evaluation.benchmarks.gqa import Gqa
from xmas.evaluation.benchmarks.mmvet import MMVet
from xmas.evaluation.benchmarks.vizwiz import VizWiz
from xmas.evaluation.facts import facts_of
from xmas.evaluation.judge.judge import Judge, Judging
from xmas.models.assembled import Assembled
from xmas.models.sources import Source, tokenizer_of
from xmas.store import Made, Stage, Store, sha256_of
from xmas.training.fit.recipe import Hardware


@pytest.fixture
def toy(tmp_path):
    return build_toy(tmp_path / "toy")


@pytest.fixture
def gqa(tmp_path):
    """Three questions about two images, in the official format."""
    (tmp_path / "gqa").mkdir()
    asked = [{"question_id": f"{n}", "text": "Red?", "image": f"{n % 2}.png"} for n in range(3)]
    lines = "\n".join(json.dumps(each) for each in asked)
    (tmp_path / "gqa" / "questions.jsonl").write_text(lines)
    truth = {each["question_id"]: {"answer": "yes"} for each in asked}
    (tmp_path / "gqa" / "truth.json").write_text(json.dumps(truth))
    for number in range(2):
        Image.new("RGB", (9, 7)).save(tmp_path / "gqa" / f"{number}.png")
    return Gqa(
        str(tmp_path / "gqa" / "questions.jsonl"),
        str(tmp_path / "gqa" / "truth.json"),
        str(tmp_path / "gqa"),
        count=3,
    )


def fault(doctor, store):
    """The report of a doctor who finds something."""
    with pytest.raises(DoctorError) as raised:
        doctor.make(store)
    return str(raised.value)


def test_what_is_well_is_told_with_its_numbers(toy, gqa):
    report = Doctor(toy.pool, {"gqa": gqa}).make(toy.store)
    assert "FAIL" not in report
    assert "OK    pool toy: 41 rows, 34 with an image (13 different), 7 text-only" in report
    assert f"sha256 {sha256_of(toy.folder / 'pool.json')}, not checked" in report
    assert "13 images, all decoded" in report
    assert (
        "3 questions, testdev_balanced, the expected number, each with its truth; images all"
        in (report)
    )
    assert "python 3." in report
    assert "GB free" in report


def test_the_longest_conversation_and_repeated_ids_are_told(toy):
    records = json.loads((toy.folder / "pool.json").read_text(encoding="utf-8"))
    said = []
    for each in records:  # as trained: without a first turn of the model and the placeholder
        turns = each["conversations"][each["conversations"][0]["from"] == "gpt" :]
        texts = [turn["value"] for turn in turns]
        shown = "image" in each
        texts = [t.replace("<image>", "").strip() if shown and "<image>" in t else t for t in texts]
        said.append(sum(map(len, texts)))
    longest = said.index(max(said))
    repeated = len(records) - len({each["id"] for each in records})
    report = Doctor(toy.pool, {}).make(toy.store)
    assert f"the longest conversation is row {longest}: {max(said)} characters" in report
    assert f"{repeated} rows repeat an id" in report


def test_missing_and_truncated_images_are_named_with_their_row(toy):
    examples = toy.pool.open(toy.store)
    rows = [int(row) for row in examples.has_image.nonzero()[0][:2]]
    lost, cut = (examples.images_of(row)[0] for row in rows)
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-30])
    report = fault(Doctor(toy.pool, {}), toy.store)
    assert report.startswith("2 of ")  # one a source
    assert re.findall(r"(\d+ of \d+ images of \w+) missing or damaged", report) == [
        "1 of 4 images of zoo", "1 of 1 images of élèves"
    ]  # fmt: skip
    assert f"row {rows[0]}: {lost}: missing" in report
    assert f"row {rows[1]}: {cut}: " in report
    assert "-> fetch them again" in report
    report = fault(Doctor(toy.pool, {}, images="exists"), toy.store)
    assert "1 of 1 images of élèves missing" in report


def test_an_image_too_large_has_its_own_remedy(toy):
    pool = dataclasses.replace(toy.pool, max_pixels=1023)
    report = fault(Doctor(pool, {}), toy.store)
    assert "-> shrink the file, remove its rows, or raise pool.max_pixels" in report
    assert "fetch them again" not in report


def test_known_faults_of_a_source_are_told_with_it(toy):
    known = {"drawn": "the owners' server lost three", "zoo": "nothing"}
    lost = next((toy.folder / "images" / "drawn").glob("*.png"))
    lost.rename(lost.with_suffix(".gif"))
    report = fault(Doctor(toy.pool, {}, known=known), toy.store)
    assert f"{lost}: missing, but {lost.stem}.gif is there: rename it" in report
    assert "or remove their rows; known: the owners' server lost three" in report
    assert "nothing" not in report


def test_a_gif_named_otherwise_is_a_warning_and_no_fault(toy):
    place = next((toy.folder / "images" / "drawn").glob("*.png"))
    Image.new("RGB", (9, 7)).save(place, format="GIF")
    report = Doctor(toy.pool, {}).make(toy.store)
    assert f"WARN  pool toy: 1 images are not what their names say: {place} is GIF" in report
    assert "do not save them again" in report
    assert "13 images, all decoded" in report


def test_a_file_that_is_no_image_is_damaged(toy):
    place = next((toy.folder / "images").rglob("*.png"))
    place.write_text("<html>404</html>")
    assert "cannot identify image file" in fault(Doctor(toy.pool, {}), toy.store)


def test_annotations_that_are_no_list_or_changed_are_refused(toy):
    pinned = dataclasses.replace(toy.pool, sha256=sha256_of(toy.folder / "pool.json"))
    assert "as configured" in Doctor(pinned, {}).make(toy.store)
    (toy.folder / "pool.json").write_text('"rows"')
    assert "expected a JSON list" in fault(Doctor(toy.pool, {}), toy.store)
    assert "the configuration expects" in fault(Doctor(pinned, {}), toy.store)
    (toy.folder / "pool.json").unlink()
    assert "No such file" in fault(Doctor(toy.pool, {}), toy.store)


def test_a_malformed_row_is_named(toy):
    records = json.loads((toy.folder / "pool.json").read_text(encoding="utf-8"))
    records[17]["conversations"][0]["from"] = "user"
    (toy.folder / "pool.json").write_text(json.dumps(records), encoding="utf-8")
    assert "row 17" in fault(Doctor(toy.pool, {}), toy.store)


def test_faults_of_a_benchmark_are_named(toy, gqa, tmp_path):
    short = dataclasses.replace(gqa, count=12_578)
    assert "3 found, 12578 expected" in fault(Doctor(toy.pool, {"gqa": short}), toy.store)
    (tmp_path / "gqa" / "1.png").unlink()
    report = fault(Doctor(toy.pool, {"gqa": gqa}), toy.store)
    assert f"1 of 2 images missing: {tmp_path / 'gqa' / '1.png'}" in report
    (tmp_path / "gqa" / "truth.json").unlink()
    report = fault(Doctor(toy.pool, {"gqa": gqa}), toy.store)
    assert f"FAIL  benchmark gqa: annotations: there is no {tmp_path / 'gqa' / 'truth.json'}" in (
        report
    )
    assert "-> it comes from questions1.2.zip of https://cs.stanford.edu" in report
    assert "set suite.gqa.annotations=PATH" in report
    (tmp_path / "gqa" / "truth.json").write_text('{"0": {"answer": "yes"}}')
    assert "truth.json: no truth for question '1'" in fault(
        Doctor(toy.pool, {"gqa": gqa}), toy.store
    )


def test_hashes_of_a_benchmark_s_files_are_told_and_checked(toy, gqa):
    found = sha256_of(gqa.questions)
    told = f"questions: {gqa.questions}, sha256 {found}"
    report = Doctor(toy.pool, {"gqa": gqa}).make(toy.store)
    assert f"OK    benchmark gqa: {told}, not checked: doctor.sha256 does not name it" in report
    pinned = {"gqa": {"questions": found}}
    assert f"{told}, as expected" in Doctor(toy.pool, {"gqa": gqa}, sha256=pinned).make(toy.store)
    other = {"gqa": {"questions": "0" * 64}}
    report = fault(Doctor(toy.pool, {"gqa": gqa}, sha256=other), toy.store)
    assert f"FAIL  benchmark gqa: {told}, expected {'0' * 64}" in report
    with pytest.raises(ValueError, match=r"sha256.pope: the suite has no such benchmark"):
        Doctor(toy.pool, {"gqa": gqa}, sha256={"pope": {}}).make(toy.store)


def test_files_that_a_stage_has_drawn_are_known_by_its_key(toy, gqa, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Drawn(Stage):
        kind: ClassVar[str] = "drawn_questions"

        def compute(self, store, out):
            for path in (gqa.questions, gqa.annotations):
                shutil.copy(path, out)

    store = Store(str(tmp_path / "store"))
    store.get(Drawn())
    drawn = dataclasses.replace(gqa, questions=Made(Drawn(), "questions.jsonl"))
    report = Doctor(toy.pool, {"gqa": drawn}).make(store)
    assert "benchmark gqa: 3 questions" in report
    assert "benchmark gqa: questions: " not in report
    assert f"annotations: {gqa.annotations}, sha256 " in report
    expected = {"gqa": {"questions": sha256_of(gqa.questions)}}
    assert "as expected" in Doctor(toy.pool, {"gqa": drawn}, sha256=expected).make(store)


def test_label_files_of_another_release_are_found(toy, tmp_path):
    (tmp_path / "pope").mkdir()
    pope = official.pope(tmp_path / "pope", np.random.default_rng(0)).benchmark
    later = tmp_path / "pope" / "coco" / "coco_pope_random.json"
    later.write_text("".join(later.read_text().splitlines(keepends=True)[:-1]))
    report = fault(Doctor(toy.pool, {"pope": pope}, images="exists"), toy.store)
    assert "coco_pope_random.json: labels: 2909 found, 2910 expected; another release" in report


def test_a_test_split_is_looked_at_without_its_truth(toy, tmp_path):
    of = official.vizwiz_val(tmp_path, np.random.default_rng(0)).benchmark
    test = VizWiz(of.questions, str(tmp_path), count=4319)
    report = fault(Doctor(toy.pool, {"vizwiz": test}), toy.store)
    assert "4,319 questions, test, the expected number, whose truth only the server has" in report
    assert "4,319 of 4,319 images missing" in report
    assert "-> they come from https://vizwiz.cs.colorado.edu/VizWiz_final/images/test.zip" in report


def test_every_file_of_the_ten_has_a_source(compose):
    suite = build(compose("suite=ten").suite)
    assert len(suite) >= 9
    for benchmark in suite.values():
        for field in dataclasses.fields(benchmark):
            if field.metadata.get("identity") == "content":  # a file
                assert field.name in facts_of(benchmark).sources, (benchmark.name, field.name)


def test_a_judge_that_cannot_be_asked_is_found_and_files_that_need_not_be_are_not_missed(
    toy, tmp_path, monkeypatch
):
    bench = Made(DemoBench(), "mmvet")
    judge = Judge("fake", key_variable="XMAS_TEST_JUDGE_KEY")
    mmvet = MMVet(Judging(judge), questions=bench, annotations=bench, images=bench)
    monkeypatch.delenv("XMAS_TEST_JUDGE_KEY", raising=False)
    report = fault(Doctor(toy.pool, {"mmvet": mmvet}), toy.store)
    assert "FAIL  benchmark mmvet: the environment variable XMAS_TEST_JUDGE_KEY is not set" in (
        report
    )
    monkeypatch.setenv("XMAS_TEST_JUDGE_KEY", "sk-secret-0123")
    report = Doctor(toy.pool, {"mmvet": mmvet}).make(toy.store)
    assert "benchmark mmvet: not made yet" in report
    assert "sk-secret" not in report


def test_what_stages_will_make_is_not_made_now(tmp_path):
    store = Store(str(tmp_path / "store"))
    pool = Pool(Made(DemoPool(), "pool.json"), Made(DemoPool(), "images"), name="demo")
    bench = DemoBench()
    gqa = Gqa(Made(bench, "questions.jsonl"), Made(bench, "truth.json"), Made(bench, "images"))
    report = Doctor(pool, {"gqa": gqa}).make(store)
    assert "pool demo: not made yet" in report
    assert "benchmark gqa: not made yet" in report
    assert not (tmp_path / "store").exists()


def test_an_unknown_way_to_look_at_images_is_refused(toy):
    with pytest.raises(ValueError, match="expected decode or exists"):
        Doctor(toy.pool, {}, images="look").make(toy.store)


def test_a_full_disk_is_a_warning_and_a_locked_one_a_fault(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 3_000_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    store = Store(str(tmp_path / "store"))
    assert [str(each) for each in check_disk(store)] == [
        f"WARN  store: 3 GB free at {store.root}; a run at full size takes more"
    ]
    monkeypatch.setattr("os.access", lambda place, mode: False)
    assert [each.level for each in check_disk(store)] == ["FAIL"]


def test_no_faiss_and_two_of_it_are_faults(monkeypatch):
    both = {"faiss-cpu": "1.15.1", "faiss-gpu": "1.15.1"}
    assert [each.level for each in check_packages(both)] == ["OK", "FAIL"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in str(list(check_packages({}))[1])


def test_any_two_builds_of_faiss_are_a_fault():
    three = {"faiss-gpu": "1.15.1", "faiss-gpu-cu13-cuvs": "1.15.0", "torch": "2.13"}
    (_, fault) = check_packages(three)
    assert "faiss-gpu and faiss-gpu-cu13-cuvs are installed" in fault.message
    assert fault.remedy.startswith("pip uninstall faiss-gpu faiss-gpu-cu13-cuvs")


@pytest.fixture
def host(monkeypatch):
    """A host with GPUs that torch sees, of which faiss sees some."""
    import faiss
    import torch

    def make(gpus: int, *, faiss_sees: int = 0, cuda: str | None = "12.8") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"H100 {gpu}")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: faiss_sees, raising=False)

    return make


@pytest.mark.parametrize(
    ("gpus", "accelerator", "level", "message"),
    [
        (2, "gpu", "OK", "all passes and fits run on CUDA 12.8: H100 0, H100 1"),
        (1, "gpu", "FAIL", "hardware has 2 GPUs, torch, built for CUDA 12.8, sees 1"),
        (2, "cpu", "WARN", "run on the CPU; the GPUs of this host are not used: H100 0, H100 1"),
        (0, "cpu", "OK", "run on the CPU"),
        (0, "auto", "OK", "run on the CPU"),
    ],
)
def test_the_device_is_told_and_compared_with_the_hardware_setting(
    host, gpus, accelerator, level, message
):
    host(gpus, faiss_sees=gpus)
    device, _ = check_devices(Hardware(accelerator, devices=2))
    assert (device.level, device.subject) == (level, "device")
    assert message in device.message


@pytest.mark.parametrize(
    ("cuda", "remedy"), [("12.8", "'xmas[gpu]': faiss-gpu is built"), ("13.0", "faiss-gpu-cu13")]
)
def test_a_build_of_faiss_that_sees_no_gpu_is_told_with_the_one_for_this_cuda(host, cuda, remedy):
    host(1, cuda=cuda)
    _, faiss = check_devices(Hardware("gpu"))
    assert (faiss.level, faiss.message) == ("WARN", "clusters on the CPU")
    assert faiss.remedy.startswith("pip uninstall faiss-cpu; pip install ")
    assert remedy in faiss.remedy
    _, on_cpu = check_devices(Hardware("cpu"))
    assert on_cpu.level == "OK"


def test_gpus_of_the_host_that_torch_is_not_built_for_are_told(host, tmp_path, monkeypatch):
    for gpu in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / gpu).mkdir()
        (tmp_path / gpu / "information").write_text("Model: \t\t NVIDIA H100\nIRQ:   \t 16\n")
    host(0, cuda=None)
    device, faiss = check_devices(Hardware("cpu"), str(tmp_path))
    assert device.level == faiss.level == "WARN"
    assert device.message == (
        "torch, built for CPUs, cannot use the GPUs of this host: NVIDIA H100, NVIDIA H100"
    )
    assert device.remedy.startswith("make install CUDA=1")
    assert faiss.remedy.startswith("pip uninstall faiss-cpu; pip install 'xmas[gpu]'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert [finding.level for finding in check_devices(Hardware("cpu"), str(tmp_path))] == [
        "OK", "OK",
    ]  # fmt: skip


def test_shared_memory_has_to_hold_the_batches_of_the_workers(tmp_path, monkeypatch):
    """Docker's 64 MB hold three batches of sixteen images."""
    free = {"bytes": 64 << 20}
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free["bytes"]))
    (fault,) = check_shared_memory(Hardware("gpu", devices=2, workers=8), str(tmp_path))
    assert fault.level == "FAIL"
    assert fault.message == f"0.1 GB free at {tmp_path} for 16 workers, which need up to 0.7"
    assert fault.remedy == "docker run --shm-size=1g, or set hardware.workers=0"
    free["bytes"] = 1 << 30
    (well,) = check_shared_memory(Hardware("gpu", devices=2, workers=8), str(tmp_path))
    assert well.level == "OK"
    assert not list(check_shared_memory(Hardware("gpu"), str(tmp_path)))


def test_tokenizers_of_a_start_point_are_loaded_before_anything_runs(toy, tmp_path, monkeypatch):
    """A whole one, one of `tokenizer.model` that is cut short, and a repository not yet here."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whole = toy.store.get(toy.tokenizer)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer.model").write_bytes(b"\x0a\x0fno model")
    (broken / "tokenizer_config.json").write_text("{}")
    findings = {}
    for folder in (whole, broken):
        start = Assembled(Source(str(folder)), Source("xmas-tests/absent"))
        findings[folder] = {finding.subject: finding for finding in check_models(start)}
    good, absent = findings[whole].values()
    assert (good.level, good.subject) == ("OK", "start.language")
    assert good.message.endswith(f"tokenizer of {len(tokenizer_of(whole)):,} tokens")
    assert (absent.level, absent.subject) == ("WARN", "start.vision")
    bad = findings[broken][f"start.language.name={broken}"]
    assert bad.level == "FAIL"
    assert "tokenizer.model" in bad.message
    report = fault(Doctor(toy.pool, {}, Assembled(Source(str(broken)), Source("x/y"))), toy.store)
    assert f"FAIL  start.language.name={broken}: its tokenizer does not load" in report
