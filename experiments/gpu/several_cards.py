"""Fits and scans over several cards of a host: they equal those of one card, and how they scale.

    python experiments/gpu/several_cards.py               # 2 cards, and 8 where there are so many
    python experiments/gpu/several_cards.py --table       # Markdown of what has been measured
    python experiments/gpu/several_cards.py --tiny --device cpu      # two processes over gloo

It starts its ranks itself, by torchrun; one card's numbers are measured by the same lines in one
process. Parts, resuming and exit status are those of `first_hour.py`.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from parts import Figures, Part, Setting, check, neighbours, read, run, tables

from xmas.attention.engine import Running, Scan
from xmas.attention.metric import Spectra
from xmas.attention.shards import Shards
from xmas.store import distributed
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainables import trainable
from xmas.training.fit.trainer import fit

neighbours("extraction", "training")

import engine  # noqa: E402
import throughput  # noqa: E402

ONE_CARD = "fit: one card"
STEPS = 4  # the first has a learning rate of zero, and warms up


class Clock(Callback):
    """Seconds from the end of the first optimiser step to the end of the last."""

    def __init__(self) -> None:
        self.start_time = self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if trainer.global_step == 1:
            self.start_time = time.perf_counter()
        self.seconds = time.perf_counter() - self.start_time


def fit_on(device: torch.device, tiny: bool, strategy: str, folder: Path) -> Figures:
    """A LoRA fit of the 7B over the ranks that were started; the batch is the same on any number.

    At the tiny size in float32, where the ranks' order of sums is all that differs.
    """
    rank, world = distributed.rank_and_world()
    size = throughput.SIZES["tiny" if tiny else "7b"]
    recipe = Recipe(
        rate=2e-2 if tiny else 2e-4,  # at the tiny size losses are to depend on the gradients
        batch=size["micro"] * (2 if tiny else 8),
        micro_batch=size["micro"],
        precision="32-true" if tiny else "bf16-mixed",
    )
    lora = dataclasses.replace(size["lora"], dropout=0.0)
    model = trainable(
        throughput.random_model(size, device, torch.float32 if tiny else torch.bfloat16),
        lora,
        recipe.precision,
    )
    table = throughput.Drawn(recipe.batch * STEPS, throughput.vocabulary(size))
    clock = Clock()
    fit(
        model, table, np.arange(len(table)), table.pictures, recipe=recipe, seed=0, out=folder,
        label="fit", pad=throughput.vocabulary(size) - 1, callbacks=[clock],
        hardware=Hardware(
            accelerator="cpu" if device.type == "cpu" else "gpu", devices=world, strategy=strategy,
            packing=True, checkpointing=1.0, logit_rows=4096,
        ),
    )  # fmt: skip
    if rank:
        return {}  # rank 0 writes the losses, and may not have when another rank is here
    tokens = float(table.lengths.sum()) * (STEPS - 1) / STEPS
    losses = [float(row.split(",")[1]) for row in (folder / "loss.csv").read_text().split()[1:]]
    return {"tokens/s": tokens / clock.seconds, "losses": losses}


def scan_on(device: torch.device, tiny: bool, strategy: str, folder: Path) -> Figures:
    """A scan whose shards the ranks share; its values are in `values.npy`."""
    name = "tiny" if tiny else "stablelm"
    size = dataclasses.replace(engine.sizes(name), examples=24 if tiny else 512)
    dtype = torch.float32 if tiny else torch.bfloat16
    torch.manual_seed(0)
    with device:
        model = engine.LlavaForConditionalGeneration(size.config).to(dtype).eval()
    rank, _ = distributed.rank_and_world()
    with tempfile.TemporaryDirectory() as own:
        material = engine.material_of(size, 1.0, 0, Path(own))
        running = Running(weights=str(dtype).removeprefix("torch."), shard_rows=size.examples // 8)
        scan = Scan(model, material, Spectra(batch_tokens=size.batch_tokens), running)
        shards = Shards(folder / "shards", scan.plan.bounds, (0,), scan.spectra.k)
        start_time = time.perf_counter()
        scan.run(shards, (0,), label="scan")
        seconds = time.perf_counter() - start_time
        if rank == 0:
            shards.merge(folder / "values.npy", scan.plan.order, len(scan.reasons))
    return {"rows/s": size.examples / seconds}


WORK = {"fit": fit_on, "scan": scan_on}


def started(setting: Setting, work: str, cards: int, folder: Path, strategy: str) -> Figures:
    """What rank 0 of some ranks has measured. Raises CheckFailedError: a rank failed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cards)]
    command = [
        sys.executable, *(launcher if cards > 1 else []), __file__, "--work", work,
        "--strategy", strategy, "--folder", str(folder), "--device", setting.device.type,
        *(["--tiny"] if setting.tiny else []),
    ]  # fmt: skip
    threads = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=threads)
    check(ended.returncode == 0, f"{work} on {cards}: {ended.stderr.strip()[-3000:]}")
    return json.loads((folder / "figures.json").read_text())


def one_card(setting: Setting) -> Figures:
    """What the others are compared with."""
    with tempfile.TemporaryDirectory() as folder:
        return _listed(started(setting, "fit", 1, Path(folder), "auto"))


def fit_over(setting: Setting, *, cards: int, strategy: str) -> Figures:
    """A fit over some cards has the losses of one card."""
    reference = setting.records.get(ONE_CARD, {}).get("figures")
    check(reference is not None, f"the part {ONE_CARD!r} has no losses to compare with")
    with tempfile.TemporaryDirectory() as folder:
        measured = started(setting, "fit", cards, Path(folder), strategy)
    expected = [float(loss) for loss in reference["losses"].split()]
    tolerance = 1e-4 if setting.tiny else 0.02  # bfloat16: sums of ranks in another order
    check(
        bool(np.allclose(measured["losses"], expected, rtol=tolerance)),
        f"losses {measured['losses']} on {cards} cards, {expected} on one",
    )
    scaling = measured["tokens/s"] / reference["tokens/s"] / cards
    return _listed(measured) | {"of linear scaling": scaling}


def scan_over(setting: Setting, *, cards: int) -> Figures:
    """A scan over some cards has the bits of one card's."""
    values, rates = {}, {}
    for count in (1, cards):
        with tempfile.TemporaryDirectory() as folder:
            rates[count] = started(setting, "scan", count, Path(folder), "auto")["rows/s"]
            values[count] = np.load(Path(folder) / "values.npy")
    equal = np.array_equal(values[1], values[cards], equal_nan=True)
    check(equal, f"values of {cards} cards are not those of one")
    check(bool(np.isfinite(values[1]).any()), "no row has a value")
    return {"rows/s": rates[cards], "of linear scaling": rates[cards] / rates[1] / cards}


def _listed(measured: Figures) -> Figures:
    """Losses as a text, as all figures of a part are a line."""
    return measured | {"losses": " ".join(f"{loss:.6f}" for loss in measured["losses"])}


def parts_for(counts: list[int]) -> list[Part]:
    listed = [Part(ONE_CARD, one_card)]
    for cards in counts:
        listed += [
            *(
                Part(
                    f"fit: {strategy} over {cards} cards",
                    partial(fit_over, cards=cards, strategy=strategy),
                    needs=("NCCL",),
                )
                for strategy in ("ddp", "fsdp2")
            ),
            Part(f"scan over {cards} cards", partial(scan_over, cards=cards)),
        ]
    return listed


def work(options: argparse.Namespace) -> None:
    """One of the ranks: fit or scan; rank 0 writes what it measured."""
    rank, _ = distributed.rank_and_world()
    device = torch.device(options.device)
    if device.type == "cuda":
        device = torch.device("cuda", distributed.local())
        torch.cuda.set_device(device)
    figures = WORK[options.work](device, options.tiny, options.strategy, options.folder)
    if rank == 0:
        (options.folder / "figures.json").write_text(json.dumps(figures))
    sys.stdout.flush()
    sys.stderr.flush()
    # FSDP2's caches keep gloo's group, whose threads now and then abort an interpreter that ends.
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("several_cards.jsonl"))
    parser.add_argument("--cards", type=int, nargs="+", help="default: 2, and 8 if there are 8")
    parser.add_argument("--only", default="", metavar="TEXT", help="parts whose name contains it")
    parser.add_argument("--table", action="store_true", help="print what --out has as Markdown")
    parser.add_argument("--tiny", action="store_true", help="two thin layers, to see that it runs")
    parser.add_argument("--device", default="cuda", help="cpu: with --tiny")
    ranks = parser.add_argument_group("of the ranks that this script starts")
    ranks.add_argument("--work", choices=WORK)
    ranks.add_argument("--strategy", default="auto")
    ranks.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.work:
        return work(options)
    if options.table:
        return print(tables(read(options.out)))
    available = torch.cuda.device_count() if options.device == "cuda" else 2
    counts = options.cards or [count for count in (2, 8) if count <= available]
    if not counts or max(counts) > available:
        parser.error(f"{available} cards on this host; --tiny --device cpu starts two processes")
    device = torch.device(options.device)
    raise SystemExit(
        run(parts_for(counts), options.out, device, tiny=options.tiny, only=options.only)
    )


if __name__ == "__main__":
    main()
