"""Several ranks make what one process makes: two processes that talk by gloo, on a CPU."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from server import Server
from test_resume import KILLED, SELDOM, done, results
from toy import HARDWARE, RECIPE, Toy, losses, shared

from xmas.store import Store, distributed
from xmas.target.target import Target
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.sharding import strategy_of
from xmas.training.proxy import Proxy
from xmas.training.starts.first_stage import FirstStage
from xmas.training.starts.pretrained import Pretrained


@pytest.fixture(scope="module")
def run(toy: Toy, server: Server, tmp_path_factory) -> Callable[..., Path]:
    """Runs a job to its end, the same one once; gives the folder with its store."""
    folders: dict[str, Path] = {}

    def make(job: str, **options) -> Path:
        name = job + json.dumps(options, sort_keys=True)
        if name not in folders:
            folders[name] = root = tmp_path_factory.mktemp("ranks")
            shared(toy, root)
            code = server.run(toy, root, job, **({"seconds": SELDOM} | options))
            assert code == 0, (root / "said.log").read_text()
        return folders[name]

    return make


def gradients(root: Path) -> list[tuple[dict[str, torch.Tensor], int]]:
    """Of every optimiser step, put together, and how many of them were cut over the ranks."""
    steps: dict[int, dict[str, list[torch.Tensor]]] = {}
    cuts: dict[int, int] = {}
    for path in sorted((root / "gradients").iterdir()):  # of a step: rank after rank
        step = int(path.stem.partition("-")[0])
        with safe_open(path, "pt") as file:
            cuts[step] = int(file.metadata()["cut"])
            for name in file.keys():  # noqa: SIM118
                steps.setdefault(step, {}).setdefault(name, []).append(file.get_tensor(name))
    return [
        ({name: torch.cat(parts) for name, parts in steps[step].items()}, cuts[step])
        for step in sorted(steps)
    ]


def compare(one: Path, other: Path, steps: int, tolerance: float) -> None:
    first, second = gradients(one), gradients(other)
    assert len(first) == len(second) == steps
    for (mine, _), (theirs, _) in zip(first, second, strict=True):
        assert mine.keys() == theirs.keys()
        assert any(bool(gradient.any()) for gradient in mine.values())
        for name, gradient in mine.items():
            scale = float(gradient.abs().max()) + 1e-12
            torch.testing.assert_close(
                theirs[name] / scale, gradient / scale, rtol=0, atol=tolerance
            )


def curve(root: Path, kind: str) -> list[dict[str, float]]:
    (folder,) = (root / kind).glob("[!.]*")
    return losses(folder)


# Of a proxy 5 micro-batches an epoch: the third step has the last of one, the first of the other.
FEWER = {"proxy": {"recipe": {"micro_batch": 9, "batch": 18}}, "target": {}}


@pytest.mark.parametrize("job", ["proxy", "target"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_give_the_gradients_of_one_process_that_accumulates(run, job, strategy):
    """Text-only micro-batches, dropout, an epoch of an odd number of micro-batches included."""
    single = run(job, **FEWER[job])
    double = run(job, world=2, hardware={"strategy": strategy}, **FEWER[job])
    compare(single, double, steps=5 if job == "proxy" else 6, tolerance=1e-6)
    assert all((cut > 0) == (strategy == "fsdp2") for _, cut in gradients(double))
    for mine, theirs in zip(curve(single, job), curve(double, job), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6)


CASES = {
    "LoRA, packed, recomputed": {"hardware": {"packing": True, "checkpointing": 1.0}},
    "full, half recomputed": {"target": {"lora": None}, "hardware": {"checkpointing": 0.5}},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_in_16_bits_fit_as_one_process(run, strategy, case):
    """Bit for bit: embeddings, norms, positions keep their types; tied weights are written once."""
    options = CASES[case] | {"recipe": {"epochs": 1, "precision": "bf16-mixed"}}
    hardware = options["hardware"] | {"strategy": strategy}
    single, double = (
        run("target", **options),
        run("target", world=2, **options | {"hardware": hardware}),
    )
    compare(single, double, steps=3, tolerance=1e-6)
    assert all((cut > 0) == (strategy == "fsdp2") for _, cut in gradients(double))
    assert curve(double, "target") == curve(single, "target")
    assert results(double, "target") == results(single, "target")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_in_16_bits_clip_as_one_process(run, strategy):
    """The norm of shards is summed in another order, so from the second step 16 bits may round
    otherwise."""
    options = {
        "target": {"lora": None},
        "recipe": {"epochs": 1, "precision": "bf16-mixed", "clip": 0.1},
        "hardware": {"checkpointing": 0.5},
    }
    double = options | {"hardware": options["hardware"] | {"strategy": strategy}}
    one, two = gradients(run("target", **options)), gradients(run("target", world=2, **double))
    assert len(one) == len(two) == 3
    for step, ((mine, _), (theirs, _)) in enumerate(zip(one, two, strict=True)):
        for name, gradient in mine.items():
            scale = float(gradient.abs().max()) + 1e-12
            tolerance = 1e-6 if step == 0 or strategy == "ddp" else 1e-2
            torch.testing.assert_close(
                theirs[name] / scale, gradient / scale, rtol=0, atol=tolerance
            )


def test_under_the_mean_of_the_step_two_ranks_give_the_gradients_of_the_doubled_batch(run):
    mean = {"token_mean": "step", "epochs": 1}  # the last step: one micro-batch for two ranks
    two = run("proxy", world=2, recipe=mean)
    doubled = run("proxy", recipe=mean | {"micro_batch": RECIPE.batch})
    compare(doubled, two, steps=6, tolerance=2e-5)
    for mine, theirs in zip(curve(doubled, "proxy"), curve(two, "proxy"), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5)
    with pytest.raises(AssertionError):
        compare(run("proxy", recipe={"epochs": 1}), two, steps=6, tolerance=1e-3)


@pytest.mark.parametrize("mean", ["micro_batch", "step"])
def test_micro_batches_without_a_label_are_passed_by_two_ranks(run, mean):
    """A row a micro-batch, with an image or of text alone; one of three weighs nothing."""
    masked = {"recipe": {"epochs": 1, "micro_batch": 1, "token_mean": mean}}
    masked["first"] = 19  # rows, three of text alone
    masked["masked"] = [row for row in range(19) if row % 3 == 0]
    single, double = run("proxy", **masked), run("proxy", world=2, **masked)
    compare(single, double, steps=3, tolerance=2e-5)
    for mine, theirs in zip(curve(single, "proxy"), curve(double, "proxy"), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-5)
        assert 0 < mine["loss"] < 10


def test_ranks_share_a_scan_that_the_store_is_asked_for(run):
    """Through clusters, which rank 0 makes alone and calls the other one for their trajectories."""
    single, double = run("groups"), run("groups", world=2)
    shares = [done(double, f"scanned-{rank}") for rank in (0, 1)]
    assert min(shares) > 0
    assert sum(shares) == done(single, "scanned-None")
    mine, theirs = results(single, "trajectories"), results(double, "trajectories")
    for root in (single, double):  # scans inside the fit are counted for the trajectories
        (place,) = (root / "trajectories").glob("[!.]*")
        scans = json.loads((place / "scan_seconds.json").read_text())
        assert json.loads((place / "meta.json").read_text())["seconds"] >= sum(scans.values()) > 0
    assert mine.keys() == theirs.keys()
    for kind in ("proxy", "trajectories"):  # recorded by rank 0, which all of them follow
        assert mine[f"{kind}/inputs"] == theirs[f"{kind}/inputs"] != ""
    for name in ("values.npy", "reasons.npy"):
        files = [next((root / "trajectories").glob(f"[!.]*/{name}")) for root in (single, double)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not [
        draft for kind in ("proxy", "trajectories", "clusters") for draft in drafts(double / kind)
    ]


KINDS = {"activations": "activations", "answers": "answers", "clip": "clip_embeddings"}


@pytest.mark.parametrize("job", [*KINDS, "vision"])
def test_ranks_share_a_pass_over_a_pool(toy, server, tmp_path_factory, job):
    """Bit for bit: a row is in the same batch, however many ranks there are."""
    toy.store.get(toy.proxy)
    files, batches = {}, {}
    for world in (1, 2):
        root = tmp_path_factory.mktemp(job)
        shared(toy, root, "proxy")
        if job == "vision":
            (root / job).unlink()
        code = server.run(toy, root, job, world=world, seconds=SELDOM)
        assert code == 0, (root / "said.log").read_text()
        (result,) = (root / KINDS.get(job, job)).glob("[!.]*")
        files[world] = {path.name: path.read_bytes() for path in sorted(result.rglob("*.npy"))}
        batches[world] = [done(root, f"passed-{rank}") for rank in ("None", 0, 1)]
        assert not drafts(result.parent)
    assert files[1] == files[2]
    assert files[1]
    assert batches[1][1:] == [0, 0]
    assert min(batches[2][1:]) > 0
    assert sum(batches[2]) == sum(batches[1])


def test_a_pass_of_two_ranks_that_were_killed_goes_on_with_one(toy, server, tmp_path_factory):
    roots = [tmp_path_factory.mktemp("killed") for _ in range(2)]
    for root in roots:
        shared(toy, root)
    died = ("batch of activations", 3)
    assert server.run(toy, roots[0], "activations", dies=died, world=2) == KILLED
    before = done(roots[0], "looks")
    for root in roots:
        assert server.run(toy, root, "activations") == 0, (root / "said.log").read_text()
    assert results(roots[0], "activations") == results(roots[1], "activations")
    assert done(roots[0], "looks") < before + done(roots[1], "looks")


def drafts(folder: Path) -> list[Path]:
    return [draft for draft in folder.glob(".*") if draft.suffix != ".lock"]


def test_what_all_ranks_open_is_made_by_one_and_leaves_no_draft(toy, server, tmp_path):
    """Tokens and tower features; not the toy's own, among which tests that fail leave drafts."""
    shared(toy, tmp_path)
    opened = ("tokens", "vision")
    for kind in opened:
        (tmp_path / kind).unlink()
    once = {"world": 2, "recipe": {"epochs": 1}, "seconds": SELDOM}
    assert server.run(toy, tmp_path, "proxy", **once) == 0, (tmp_path / "said.log").read_text()
    for kind in (*opened, "proxy"):
        assert len([*(tmp_path / kind).glob("[!.]*")]) == 1
        assert not drafts(tmp_path / kind)


def test_ranks_share_the_questions_of_a_benchmark(toy, server, tmp_path_factory):
    files = {}
    for world in (1, 2):
        root = tmp_path_factory.mktemp("score")
        toy.store.get(toy.target())
        shared(toy, root, "target")
        assert server.run(toy, root, "score", world=world) == 0, (root / "said.log").read_text()
        files[world] = next((root / "score").glob("[!.]*/answers.jsonl")).read_bytes()
        assert done(root, "answered") == 20
    assert files[1] == files[2]


def test_ranks_share_the_rows_held_out(toy, server, tmp_path_factory):
    """Score and losses are those of one process."""
    scores, losses = {}, {}
    for world in (1, 2):
        root = tmp_path_factory.mktemp("held_out")
        toy.store.get(toy.target())
        shared(toy, root, "target")
        code = server.run(toy, root, "score of rows held out", world=world)
        assert code == 0, (root / "said.log").read_text()
        (scored,) = (root / "score").glob("[!.]*/score.json")
        scores[world] = json.loads(scored.read_text())
        (values,) = (root / "answer_losses").glob("[!.]*/values.npy")
        losses[world] = np.load(values)
        assert not drafts(root / "answer_losses") + drafts(root / "held_out")
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-6)
    assert scores[1]["score"] == pytest.approx(scores[2]["score"], rel=1e-6)
    assert len(losses[1]) == scores[1]["num"] == 18


@pytest.mark.parametrize(("job", "call"), [("target", 4), ("target", 5), ("proxy", 4)])
def test_ranks_that_were_killed_go_on(toy, server, run, tmp_path, job, call):
    two = {"world": 2} | FEWER[job]
    whole = run(job, hardware={"strategy": "ddp"}, **two)  # which auto is
    shared(toy, tmp_path)
    assert server.run(toy, tmp_path, job, dies=("training step", call), **two) == KILLED
    before = done(tmp_path, "steps")
    assert not any((tmp_path / job).glob("[!.]*"))
    assert server.run(toy, tmp_path, job, **two) == 0, (tmp_path / "said.log").read_text()
    assert results(tmp_path, job) == results(whole, job)
    assert done(tmp_path, "steps") <= before + done(whole, "steps") - 2 * (call // 2)


def test_another_number_of_ranks_goes_on(toy, server, run, tmp_path):
    whole = run("target")
    shared(toy, tmp_path)
    assert server.run(toy, tmp_path, "target", dies=("training step", 9)) == KILLED
    assert done(tmp_path, "steps") == 8  # of one process: four steps
    assert server.run(toy, tmp_path, "target", world=2) == 0, (tmp_path / "said.log").read_text()
    assert done(tmp_path, "steps") == 8 + 4
    for mine, theirs in zip(curve(whole, "target"), curve(tmp_path, "target"), strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6)


def test_cut_weights_are_saved_whole_and_go_on(toy, server, run, tmp_path):
    whole = run("target")
    shared(toy, tmp_path)
    cut = {"world": 2, "hardware": {"strategy": "fsdp2"}}
    assert server.run(toy, tmp_path, "target", dies=("training step", 4), **cut) == KILLED
    more = cut | {"seconds": SELDOM}
    assert server.run(toy, tmp_path, "target", **more) == 0, (tmp_path / "said.log").read_text()
    assert results(tmp_path, "target") == results(whole, "target")


def test_attention_is_not_measured_with_weights_that_are_cut(toy, server, tmp_path):
    shared(toy, tmp_path)
    cut = {"world": 2, "hardware": {"strategy": "fsdp2"}, "seconds": SELDOM}
    assert server.run(toy, tmp_path, "trajectories", **cut) != 0
    assert "hardware.strategy=ddp" in (tmp_path / "said.log").read_text()


def test_what_rank_0_cannot_make_ends_the_others(toy, server, tmp_path):
    """Not by hanging: the draft of the tokens is a file."""
    root = tmp_path / "store"
    root.mkdir()
    shared(toy, root)
    (root / "tokens").unlink()
    (root / "tokens").write_text("no folder")
    assert server.run(toy, root, "proxy", world=2, alone=True) != 0  # nobody kills rank 1
    log = (root / "said.log").read_text()
    assert "FileExistsError" in log  # of rank 0
    assert "rank 0 could not make tokens" in log or "rank 0 has ended" in log


def test_as_many_processes_as_devices_have_to_be_started(toy: Toy, tmp_path):
    with pytest.raises(ValueError, match=r"torchrun --standalone --nproc-per-node 2 -m xmas"):
        strategy_of(Hardware(devices=2))
    with pytest.raises(ValueError, match="2 hosts of 4 devices, but 1 processes"):
        strategy_of(Hardware(devices=4, nodes=2))
    proxy = dataclasses.replace(toy.proxy, hardware=dataclasses.replace(HARDWARE, devices=2))
    shared(toy, tmp_path)
    with pytest.raises(ValueError, match="processes were started"):
        Store(str(tmp_path)).get(proxy)


def test_every_stage_that_fits_is_made_together():
    for stage in (FirstStage, Pretrained, Proxy, Target):
        assert stage.together, stage.__name__
    with (
        distributed.sharing(False),
        pytest.raises(RuntimeError, match="has to say `together = True`"),
    ):
        strategy_of(Hardware())
    assert strategy_of(Hardware()) == "auto"


def test_devices_that_were_started_but_not_asked_for_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "toy")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.rank_and_world() == (0, 2)
    with pytest.raises(ValueError, match="1 hosts of 1 devices, but 2 processes were started"):
        strategy_of(Hardware())
    assert strategy_of(Hardware(devices=2)) == "ddp"
    assert strategy_of(Hardware(devices=2, strategy="ddp")) == "ddp"


def test_a_strategy_that_is_no_strategy_here_is_refused_where_it_is_set():
    for strategy in ("deepspeed_stage_2", "fsdp", "dpp"):
        with pytest.raises(ValueError, match=rf"strategy '{strategy}' is none of auto, ddp, fsdp2"):
            Hardware(devices=2, strategy=strategy)
    with pytest.raises(ValueError, match="hardware=fsdp"):
        Hardware(devices=2, strategy="deepspeed_stage_2")


def test_a_group_of_processes_ends_before_the_interpreter(tmp_path, monkeypatch):
    """Threads of gloo that outlive the interpreter abort a process that has succeeded."""
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(distributed.atexit, "register", at_exit.append)
    distributed.end_group_at_exit.cache_clear()
    distributed.end_group_at_exit()
    distributed.end_group_at_exit()
    (end,) = at_exit
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    end()
    assert not torch.distributed.is_initialized()
    end()  # a fit of one process has none
    distributed.end_group_at_exit.cache_clear()
