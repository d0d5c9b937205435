"""Time and error of solvers for the five leading singular values, on the same matrices in one run.

    python experiments/extraction/solver.py [--device cuda] [--batch 16] [--repeats 9] [--seed 0]

Prints the tables of `solver.md`. Needs torch, numpy, transformers and xmas.
"""

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaModel

from xmas.attention import subspace
from xmas.attention.capture import attention_of
from xmas.attention.metric import Spectra
from xmas.attention.spectrum import certified, exact, leading

K, PREFIX, IMAGE = 5, 31, 576  # values; tokens before the image, and of the image
LENGTHS = (32, 64, 128, 200, 512)  # text rows


@dataclasses.dataclass(frozen=True)
class Measured:
    """Solvers on the matrices of one number of text rows; `tail`: second over first, 17th over
    fifth singular value of the first matrix.
    """

    text: int
    ms: dict[str, float]  # a matrix
    errors: dict[str, float]  # largest relative error of the five values, against float64
    certified: int
    tail: tuple[float, float]


def of_model(text: int, batch: int, *, deviation: float, seed: int) -> torch.Tensor:
    """Attention of a random Llama, four layers of eight heads, tokens drawn uniformly."""
    shape = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=1000,
    )  # fmt: skip
    model = LlamaModel(shape).eval()
    generator = torch.Generator().manual_seed(seed)
    first, length = PREFIX + IMAGE, PREFIX + IMAGE + text
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, deviation, generator=generator)
        seen = Spectra().collector(
            model,
            text=torch.arange(first, length).expand(batch, -1),
            text_mask=torch.ones(batch, text, dtype=torch.bool),
            image=torch.arange(PREFIX, first).expand(batch, -1),
        )
        with attention_of(model, seen, stop=True):
            model(input_ids=torch.randint(1000, (batch, length), generator=generator))
    return seen.total


def of_noise(text: int, batch: int, *, seed: int) -> torch.Tensor:
    """Softmax of standard normal logits, 24 layers summed."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(batch, text, IMAGE, generator=generator) for _ in range(24))
    return sum(layer.softmax(dim=-1) for layer in logits)


MATRICES: dict[str, Callable[..., torch.Tensor]] = {
    "model, weights of deviation 0.5": lambda *size, seed: of_model(
        *size, deviation=0.5, seed=seed
    ),
    "model, weights of deviation 0.02": lambda *size, seed: of_model(
        *size, deviation=0.02, seed=seed
    ),
    "softmax of noise": of_noise,
}


def gram32(matrices: torch.Tensor, k: int) -> torch.Tensor:
    values = torch.linalg.eigvalsh(matrices @ matrices.mT)
    return values.flip(1)[:, :k].clamp_min(0).sqrt()


METHODS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "svdvals, float32": lambda matrices, k: torch.linalg.svdvals(matrices)[:, :k],
    "svd_lowrank, q=5, niter=2": lambda matrices, k: torch.svd_lowrank(matrices, q=k, niter=2)[1],
    "Gram eigvalsh, float32": gram32,
    "Gram eigvalsh, float64 (`exact`)": exact,
    "blocks, certified (`certified`)": certified,
    "`leading`, as chosen by size": leading,
}


def seconds(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(
    name: str, device: str, batch: int, repeats: int, seed: int, lengths: Sequence[int] = LENGTHS
) -> list[Measured]:
    """Every solver on the matrices of `name`, a line for each number of text rows."""
    lines = []
    for text in lengths:
        matrices = MATRICES[name](text, batch, seed=seed)
        values = np.linalg.svd(matrices.double().numpy(), compute_uv=False)
        placed = matrices.to(device)
        torch.manual_seed(seed)
        errors = {
            method: float(np.abs(run(placed, K).cpu().double().numpy() / values[:, :K] - 1).max())
            for method, run in METHODS.items()
        }
        spent: dict[str, list[float]] = {method: [] for method in METHODS}
        for _ in range(repeats):  # in turns, so that other work on the machine spoils all alike
            for method, run in METHODS.items():
                spent[method].append(seconds(lambda run=run: run(placed, K), device))  # noqa: B023
        grams = placed.double() @ placed.double().mT
        lines.append(
            Measured(
                text,
                {method: 1e3 * min(spent[method]) / batch for method in METHODS},
                errors,
                int(subspace.leading_eigenvalues(grams, K)[1].sum()),
                (float(values[0, 1] / values[0, 0]), float(values[0, 16] / values[0, 4])),
            )
        )
    return lines


def table(name: str, lines: list[Measured], batch: int) -> str:
    rows = [
        f"| solver | {' | '.join(f'T={line.text}' for line in lines)} |",
        f"|---|{'---|' * len(lines)}",
    ]
    for method in METHODS:
        cells = (f"{line.ms[method]:.3g} ({line.errors[method]:.0e})" for line in lines)
        rows.append(f"| {method} | {' | '.join(cells)} |")
    certified_rows = (f"{line.certified} of {batch}" for line in lines)
    rows.append(f"| certified by blocks | {' | '.join(certified_rows)} |")
    tails = (f"{line.tail[0]:.1e}, {line.tail[1]:.2f}" for line in lines)
    rows.append(f"| second over first value, 17th over fifth | {' | '.join(tails)} |")
    return "\n".join((f"\n**{name}**\n", *rows))


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="few and short, to see that it runs")
    given = parser.parse_args()
    lengths = LENGTHS
    if given.tiny:
        given.batch, given.repeats, lengths = 2, 1, (17, 20)
    place = torch.cuda.get_device_name() if given.device == "cuda" else processor()
    print(
        f"{place}; {torch.get_num_threads()} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}; "
        f"batch {given.batch}, least of {given.repeats}, seed {given.seed}"
    )
    for name in MATRICES:
        lines = measure(name, given.device, given.batch, given.repeats, given.seed, lengths)
        print(table(name, lines, given.batch), flush=True)


if __name__ == "__main__":
    main()
