"""The engine on a GPU: a CPU's values, in every precision and arrangement, from start to end.

`pytest -m emulated` runs them on an emulated device where there is none, and
`XMAS_TEST_DEVICE=cpu pytest -m gpu tests/test_gpu.py` on a CPU.
"""

import dataclasses
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from test_capture import MODELS, collector, eager, given
from test_engine import STEP, close, randomised, snapshot
from toy import ROWS, TEXT_ONLY, Toy, shared

from xmas.attention.capture import attention_of
from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.logsumexp import KernelLogSumExp
from xmas.attention.metric import Spectra
from xmas.attention.released import Window
from xmas.attention.shards import Shards
from xmas.attention.weights import Weights, free_bytes
from xmas.features.trajectories import Trajectories
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import load
from xmas.training.fit.recipe import Hardware

DEVICE = torch.device(os.environ.get("XMAS_TEST_DEVICE", "cuda"))
FULL = Path(__file__).parent.parent / "experiments" / "extraction" / "full_size.py"
PROXIES = ("tinyllava_stablelm", "llava_onevision_05b", "smolvlm_256m")

pytestmark = [pytest.mark.gpu, pytest.mark.emulated]


@pytest.fixture(scope="module")
def parts(toy: Toy):
    """The toy's start point with peaked attention, on a CPU."""
    found = load(toy.store.get(toy.start))
    randomised(found.model.model.language_model)
    return found


@pytest.fixture(scope="module")
def material(toy: Toy, parts) -> Material:
    examples = toy.pool.open()
    pictures = FromFiles(examples, parts.processor)
    table = toy.proxy.tokens().open(toy.store)
    return Material(table, pictures, examples.shown, parts.tokenizer.pad_token_id)


@pytest.fixture
def scanned(parts, material):
    def run(device=DEVICE, model=parts.model, **options) -> np.ndarray:
        named = {field.name for field in dataclasses.fields(Running)}
        running = {name: options.pop(name) for name in list(options) if name in named}
        spectra = Spectra(**{"batch_tokens": 512} | options)
        try:
            return Scan(model.to(device), material, spectra, Running(**running)).once("test")
        finally:
            model.to("cpu")

    return run


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared_from": 0.0},
        {"shared_from": 1.0, "workers": 1},
        {"combine": "concat_text", "normalise": "center_rows"},
        {"combine": "concat_vision", "rows": "answer_only"},
        {"combine": "last", "precision": "float64"},
    ],
    ids=str,
)
def test_values_are_those_of_a_cpu(scanned, options):
    wanted = scanned(torch.device("cpu"), **options)
    assert tuple(np.flatnonzero(np.isnan(wanted).any(axis=1))) == TEXT_ONLY
    close(scanned(**options), wanted, 1e-4)


def test_released_values_are_those_of_a_cpu(scanned):
    window = {"mode": "released", "k": 3, "window": Window(27, 5, 19)}
    close(scanned(**window), scanned(torch.device("cpu"), **window), 1e-4)


@pytest.mark.parametrize(
    ("weights", "rtol"), [("float32", 1e-5), ("bfloat16", 1e-3), ("float16", 1e-3)]
)
def test_a_row_s_values_do_not_depend_on_its_batch_mates(toy: Toy, scanned, weights, rtol):
    """Attention as the toy's start point has it: 16 bits cannot hold 1e-3 where it is peaked."""
    model = load(toy.store.get(toy.start)).model
    alone = scanned(model=model, weights=weights, batch_tokens=1, shared_from=1.0)
    for way in ({"batch_tokens": 10**6}, {"batch_tokens": 197}, {"shared_from": 0.0}):
        close(scanned(model=model, weights=weights, **way), alone, rtol)


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_every_decoder_shows_eager_attention(kind):
    model = MODELS[kind]()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.normal_(0, 0.5, generator=generator)
    model.set_attn_implementation("sdpa" if "gemma2" not in kind else "eager")
    wanted = sum(eager(model.eval(), given()))
    seen = collector()
    for name in ("text", "text_mask", "image", "kept"):
        setattr(seen, name, getattr(seen, name).to(DEVICE))
    with attention_of(model.to(DEVICE), seen):
        model(**{name: one.to(DEVICE) for name, one in given().items()})
    torch.testing.assert_close(seen.total.cpu(), wanted, rtol=1e-4, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_kernel_of_a_pass_gives_the_sums_of_its_softmax(dtype, masked):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 37, 64, generator=generator).to(DEVICE, dtype)
    allowed = torch.ones(37, 37, dtype=torch.bool, device=DEVICE).tril()
    how = {"attn_mask": allowed} if masked else {"is_causal": True}
    with KernelLogSumExp() as kernel:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.3, **how)
    logits = 0.3 * query.double() @ key.double().mT
    wanted = logits.masked_fill(~allowed, -torch.inf).logsumexp(dim=3)
    logsumexp = kernel.of(query)
    assert logsumexp is not None
    assert logsumexp.dtype == torch.float32
    torch.testing.assert_close(logsumexp.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_number_that_float16_does_not_hold_names_row_and_layer(toy: Toy, parts, scanned):
    """A token that row 10 alone holds: fine in float32, infinite in float16."""
    table = toy.proxy.tokens().open(toy.store)
    others = {int(one) for other in range(ROWS) if other != 10 for one in table[other].ids}
    alone = next(int(one) for one in table[10].ids if int(one) not in others)
    weight = parts.model.get_input_embeddings().weight
    kept = weight.data[alone].clone()
    weight.data[alone] = 1e5
    try:
        assert np.isfinite(scanned()[10]).all()
        with pytest.raises(FloatingPointError, match=r"rows \[10\] is not finite.*layers \[0\]"):
            scanned(weights="float16")
    finally:
        weight.data[alone] = kept


def test_batches_come_pinned_and_snapshots_lie_on_the_device(parts, material, tmp_path):
    snapshots = {step: snapshot(parts, step) for step in (2, 3, 5)}
    model = parts.model.to(DEVICE)
    places = {name: one.data_ptr() for name, one in model.named_parameters()}
    scan = Scan(model, material, Spectra(), Running())
    loaded = next(scan.feed(list(scan.plan.units(0))))
    assert (
        loaded.prefix_ids.is_pinned() == loaded.texts[0].ids.is_pinned() == (DEVICE.type == "cuda")
    )
    assert {one.device.type for one in loaded.to(DEVICE).pictures.values()} == {DEVICE.type}
    weights = Weights(model, torch.float16)
    assert weights.groups([2, 3, 5], snapshots.get, None) == [[2, 3, 5]]
    assert free_bytes(DEVICE) > 3 * weights.bytes(snapshots[2])
    with weights.resident([2, 3], snapshots.get) as held:
        kinds = {(one.device.type, one.dtype) for each in held.values() for one in each.values()}
        assert kinds == {(DEVICE.type, torch.float16)}
    shards = Shards(tmp_path / "shards", scan.plan.bounds, (2, 3, 5), 5)
    scan.run(shards, (2, 3, 5), snapshots.get, label="test")
    assert shards.done().all()
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == places
    model.to("cpu")


def test_steps_measured_in_a_fit_and_behind_it_are_the_same(toy: Toy, tmp_path):
    hardware = Hardware(accelerator="gpu" if DEVICE.type == "cuda" else "cpu", workers=1)
    proxy = dataclasses.replace(toy.proxy, hardware=hardware, cache_vision=False, seed=STEP)
    stage = Trajectories(proxy, Spectra(batch_tokens=512))
    values = np.load(toy.store.get(stage) / "values.npy")  # during the fit
    again = np.load(shared(toy, tmp_path, "proxy").get(stage) / "values.npy")  # of its saved steps
    assert np.isfinite(np.delete(values, TEXT_ONLY, axis=0)).all()
    close(again, values, 1e-4)


@pytest.mark.skipif(
    DEVICE.type != "cuda" or torch.version.cuda is None, reason="up to 31 GB and minutes of a CPU"
)
@pytest.mark.parametrize("name", PROXIES)
def test_each_proxy_takes_a_training_step_and_a_scan_at_full_size(name, tmp_path, capsys):
    runpy.run_path(str(FULL))["measure"](name, tmp_path, 2, DEVICE)
    shown = capsys.readouterr().out
    assert "training step" in shown
    assert "scan" in shown
    torch.cuda.empty_cache()
