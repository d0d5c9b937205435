"""Parts that run a model forward: extraction, answers' losses, generation, proxies at full size."""

import argparse
import contextlib
import io
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fitting import size_of
from parts import Figures, Part, Setting, check, neighbours
from torch import nn

from xmas.features.losses.answer_scorer import AnswerScorer, ScorerSettings
from xmas.models.precision import cast_parameters

neighbours("extraction", "generation", "training")

import engine  # noqa: E402
import full_size  # noqa: E402
import solver  # noqa: E402
import speed  # noqa: E402
import throughput  # noqa: E402


@contextlib.contextmanager
def exact_products():
    """float32 without TF32, also in convolutions, where torch has it on by default."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@torch.no_grad()
def precision(setting: Setting) -> Figures:
    """What TF32 costs the patches' convolution, and that rotary frequencies survive every cast."""
    model = throughput.random_model(size_of(setting), setting.device, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        cast_parameters(model, dtype)
        kinds = {str(b.dtype) for b in model.buffers() if b.is_floating_point()}
        check(kinds == {"torch.float32"}, f"buffers in {kinds} after a cast to {dtype}")
    torch.manual_seed(0)
    pixels, convolution = torch.randn(4, 3, 336, 336), nn.Conv2d(3, 256, 14, stride=14, bias=False)
    expected = convolution.double()(pixels.double())
    convolution = convolution.float().to(setting.device)

    def error() -> float:
        patches = convolution(pixels.to(setting.device)).double().cpu()
        return float((patches - expected).norm() / expected.norm())

    by_default = error()
    with exact_products():
        exact = error()
    check(exact < 1e-5, f"the patches' convolution in float32 differs by {exact:.1e}")
    return {
        "error of the patches' convolution": by_default,
        "without TF32": exact,
        "TF32 in convolutions": torch.backends.cudnn.allow_tf32,
        "TF32 in products": torch.backends.cuda.matmul.allow_tf32,
    }


def solvers(setting: Setting) -> Figures:
    """The solvers of the leading singular values, on the attention of a random model."""
    lengths, batch = ((17, 20), 2) if setting.tiny else ((32, 128, 512), 16)
    name = next(iter(solver.MATRICES))
    with exact_products():
        lines = solver.measure(name, setting.device.type, batch, 3, 0, lengths)
    chosen = next(method for method in solver.METHODS if "`leading`" in method)
    worst = max(line.errors[chosen] for line in lines)
    check(worst < 1e-4, f"values of `leading` differ by {worst:.1e} from float64")
    return {
        "largest error of `leading`": worst,
        "ms a matrix": [
            {"solver": method} | {f"T={line.text}": line.ms[method] for line in lines}
            for method in solver.METHODS
        ],
    }


def extraction(
    setting: Setting, *, model: str, weights: str, tolerance: float, snapshots: int, examples: int
) -> Figures:
    """The engine, the release's way and the bare forward; errors against a float64 SVD of eager
    attention.
    """
    small = {"model": "tiny", "snapshots": 2, "examples": None, "workers": 0}
    asked = {
        "model": model, "snapshots": snapshots, "examples": examples, "workers": 4,
        "weights": weights, "device": setting.device.type, "rounds": 1, "seed": 0, "warm": True,
        "text": None, "ways": engine.WAYS,
    }  # fmt: skip
    asked |= small if setting.tiny else {}
    with tempfile.TemporaryDirectory() as folder, exact_products():
        measured: Any = engine.measure(argparse.Namespace(**asked), 1.8, Path(folder))
    for way, error in measured["largest_error"].items():
        if way != engine.RELEASE:
            check(error < tolerance, f"{way}: values differ by {error:.1e}, at most {tolerance}")
    rates = measured["examples_a_second"]
    return {
        "engine against the release's way": measured["engine_against_release"],
        "engine against bare forward": measured["engine_against_bare"],
        "ways": [
            {
                "way": way,
                "examples/s": rate,
                "largest error": measured["largest_error"].get(way, float("nan")),
            }
            for way, rate in rates.items()
        ],
    }


def answers(setting: Setting) -> Figures:
    """Losses of answers in 16 bits against those in float32 of the same rows."""
    size = size_of(setting)
    rows = 4 if setting.tiny else 64
    table = throughput.Drawn(rows, throughput.vocabulary(size))
    values = {}
    model = throughput.random_model(size, setting.device, torch.bfloat16).eval()
    for weights in ("bfloat16", "float32"):
        scorer = AnswerScorer(
            model, table, np.arange(rows), pictures=table.pictures, pad=0,
            how=ScorerSettings(weights=weights),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            shards = scorer.shards(Path(folder) / "shards", [0])
            start_time = time.perf_counter()
            scorer.run(shards, lambda step: {}, label="answers")
            seconds = time.perf_counter() - start_time
            values[weights] = shards.merge(Path(folder) / "values.npy", scorer.order, rows)[:, 0, 0]
        if weights == "bfloat16":
            rate = rows / seconds
    error = float(np.abs(values["bfloat16"] / values["float32"] - 1).max())
    check(error < 0.05, f"losses in bfloat16 differ from float32's by {error:.3f}")
    return {"rows/s in bfloat16": rate, "largest relative difference of a loss": error}


def generation_is_exact(setting: Setting) -> Figures:
    """In float32 one by one, in a running batch and by transformers: the same tokens."""
    name = "demo" if setting.tiny else "demo_336"
    count = 2 if setting.tiny else 40
    with exact_products():
        measured = _generated(
            setting, name, count, workloads=("short",) if setting.tiny else ("short", "long")
        )
    for one in measured:
        for way, share in one["changed"].items():
            check(share == 0, f"{one['workload']}, {way}: {100 * share:.1f} % of answers differ")
    return {"questions": sum(one["questions"] for one in measured)}


def generation_of_7b(setting: Setting) -> Figures:
    """Answers a second of the 7B in float16."""
    name = "demo" if setting.tiny else "llava15_7b"
    measured = _generated(setting, name, 2 if setting.tiny else 64, workloads=("short",))
    if not setting.tiny:
        measured += _generated(setting, name, 16, workloads=("long",))
    return {
        "ways": [
            {
                "workload": one["workload"], "way": way, "answers/s": one["questions"] / seconds,
                "changed": one["changed"][way],
            }
            for one in measured
            for way, seconds in one["seconds"].items()
        ]
    }  # fmt: skip


def _generated(
    setting: Setting, name: str, count: int, *, workloads: tuple[str, ...]
) -> list[dict[str, Any]]:
    args = argparse.Namespace(
        model=name, device=setting.device.type, batches=[2 if setting.tiny else 32], long=count,
        short=count, seed=0, warm=not setting.tiny, per_image=[1], workloads=workloads,
    )  # fmt: skip
    return speed.measured(speed.build(args), args)


def proxy(setting: Setting, *, name: str) -> Figures:
    """A proxy at full size: a training step with AdamW in float32, and a scan."""
    config = full_size.FULL_SIZE[name]()
    if setting.tiny:
        full_size.narrow(config)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        rows = 1 if setting.tiny else 4
        return full_size.measure(name, Path(folder), rows, setting.device, config)


PARTS = [
    Part("precision: casts and TF32", precision),
    Part("solver of singular values", solvers),
    Part(
        "extraction: a narrow model in float32",
        partial(
            extraction, model="small", weights="float32", tolerance=1e-4, snapshots=2, examples=24
        ),
    ),
    Part(
        "extraction: StableLM-2-1.6B in float16",
        partial(
            extraction, model="stablelm", weights="float16", tolerance=0.05, snapshots=3,
            examples=96,
        ),
    ),
    Part("answers: losses in 16 bits and 32", answers),
    Part("generation: equal tokens in float32", generation_is_exact),
    Part("generation: 7B in float16", generation_of_7b),
    *(
        Part(f"proxy at full size: {name}, a step and a scan", partial(proxy, name=name))
        for name in full_size.PROXIES
    ),
]  # fmt: skip
