"""Budgets of the host: how often it waits for the device, and what it copies from there."""

from collections import Counter

import pytest
import torch
from test_engine import randomised, snapshot
from toy import Toy

from emulated.fits import ROWS, fitted, recipe
from emulated.gpu import Counted, Gpu
from xmas.attention import subspace
from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.attention.shards import Shards
from xmas.attention.spectrum import certified, leading
from xmas.models.vision_cache import FromFiles
from xmas.models.vlm import language_model, load

SOLVER = ("spectrum.py", "subspace.py")
SNAPSHOTS = "weights.py"  # copied to the device before the first unit


@pytest.fixture
def of_steps(toy: Toy, gpu: Gpu, tmp_path):
    """What the steps of an epoch cost, the first eight microbatches' checks left out."""

    def measured(epochs: int, precision: str, **hardware) -> Counted:
        for stage in (toy.start, toy.vision, toy.proxy.tokens()):
            toy.store.get(stage)
        chosen = recipe(epochs=epochs, precision=precision, clip=1.0)
        with gpu.counting() as counted:
            fitted(toy, tmp_path, recipe=chosen, **hardware)
        return counted

    def run(precision: str, **hardware) -> tuple[Counter[str], Counter[str]]:
        two, three = (measured(epochs, precision, **hardware) for epochs in (2, 3))
        return three.places - two.places, three.copied - two.copied

    return run


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_packed_fit_waits_once_a_step(of_steps, precision):
    """The losses of its microbatches, together."""
    recipe_ = recipe()
    steps, microbatches = recipe_.steps(len(ROWS)), recipe_.micro_steps(len(ROWS))
    assert steps == 2
    waits, copied = of_steps(precision, packing=True)
    assert sum(waits.values()) == steps, waits
    assert copied["to host"] == 4 * microbatches


def test_a_padded_fit_waits_once_more_a_microbatch(of_steps):
    """transformers compares position ids, to see whether rows are packed."""
    waits, _ = of_steps("32-true")
    assert sum(waits.values()) == recipe().steps(len(ROWS)) + recipe().micro_steps(len(ROWS)), waits


@pytest.mark.parametrize("shared_from", [0.0, 1.0])
@pytest.mark.parametrize("snapshots", [1, 3])
def test_a_scan_waits_once_a_unit_but_for_its_solver(
    toy: Toy, gpu: Gpu, tmp_path, snapshots, shared_from
):
    """Values and whether all attention is finite come to the host together.

    The solver's own waits: torch's eigensolver looks at its error code, `spectrum.exact` whether a
    value is too small for it; subspace iteration does both once a round.
    """
    loaded = load(toy.store.get(toy.start))
    randomised(loaded.model.model.language_model)
    examples = toy.pool.open()
    material = Material(
        toy.proxy.tokens().open(toy.store),
        FromFiles(examples, loaded.processor),
        examples.shown,
        loaded.tokenizer.pad_token_id,
    )
    steps = tuple(range(2, 2 + snapshots))
    trained = {step: snapshot(loaded, step) for step in steps}
    scan = Scan(
        loaded.model.to("cuda"),
        material,
        Spectra(batch_tokens=512),
        Running(shard_rows=11, shared_from=shared_from),
    )
    units = [unit for shard in range(scan.plan.shards) for unit in scan.plan.units(shard)]
    batches = sum(len(unit.batches) for unit in units)
    shards = Shards(tmp_path, scan.plan.bounds, steps, scan.spectra.k)
    with gpu.counting() as counted:
        scan.run(shards, steps, trained.get, label="test")
    assert shards.done().all()
    own, of_solver = (
        sum(count for place, count in counted.places.items() if place.startswith(SOLVER) == inside)
        for inside in (False, True)
    )
    own -= sum(count for place, count in counted.places.items() if place.startswith(SNAPSHOTS))
    assert own == len(units) >= 3, counted.places
    assert of_solver <= 2 * batches
    layers = len(language_model(loaded.model).layers)
    numbers = sum(len(unit.rows) for unit in units) * snapshots * (scan.spectra.k + layers)
    assert 0 <= counted.copied["to host"] - 4 * numbers <= batches  # a byte: are values too small?


def of_solver(
    gpu: Gpu, monkeypatch, *, side: int, count: int, heat: float = 1.0
) -> tuple[int, int]:
    """How often the solver waits for the device, and rounds of its subspace iteration."""
    rounds, filtered = [], subspace._filtered
    monkeypatch.setattr(
        subspace, "_filtered", lambda *given: rounds.append(given) or filtered(*given)
    )
    generator = torch.Generator().manual_seed(side)
    logits = heat * torch.randn(3, count, side, 101, generator=generator)
    matrices = logits.softmax(dim=3).sum(dim=0).to("cuda")
    with gpu.counting() as counted:
        leading(matrices, 5)
    return sum(counted.waits.values()), len(rounds)


@pytest.mark.parametrize("count", [1, 30], ids=["one matrix", "30 matrices"])
@pytest.mark.parametrize("heat", [0.01, 1.0, 3.0])
def test_above_a_side_of_32_the_solver_waits_twice_a_round(gpu: Gpu, monkeypatch, heat, count):
    """For the eigensolver and for whether all matrices have converged, and three times in all for
    the first block and whether all are certified: however many matrices, at most 19 times.
    """
    waits, rounds = of_solver(gpu, monkeypatch, side=83, count=count, heat=heat)
    assert waits == 2 * rounds + 3
    assert rounds <= subspace.ROUNDS


def test_up_to_a_side_of_32_the_solver_waits_twice(gpu: Gpu, monkeypatch):
    assert of_solver(gpu, monkeypatch, side=32, count=30) == (2, 0)


def test_matrices_that_are_not_certified_cost_four_waits_more(gpu: Gpu):
    matrices = torch.rand(4, 83, 101, generator=torch.Generator().manual_seed(0)).to("cuda")
    with gpu.counting() as counted:
        certified(matrices, 5, rounds=0)
    assert sum(counted.waits.values()) == 2 + 4, counted.places
