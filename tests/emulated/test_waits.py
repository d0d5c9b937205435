"""Budgets of the host: how often it waits for the device, and what it copies from there."""

from collections import Counter

import pytest
from test_engine import randomised, snapshot
from toy import Toy

from emulated.fits import ROWS, fitted, recipe
from emulated.gpu import Counted, Gpu
from xmas.attention.engine import Running, Scan
from xmas.attention.feed import Material
from xmas.attention.metric import Spectra
from xmas.attention.shards import Shards
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
