"""Peak memory and time of every model preset on every hardware preset, by the estimate.

    python experiments/estimate/memory.py
    python experiments/estimate/memory.py hardware.packing=false hardware.checkpointing=0

A line for each model and recipe, a column for each hardware: GB on one device, and the hours of a
fit on LLaVA-665k's counts (a fifth of it for a target), which are assumed: no file is read. What is
larger than the device is in brackets: the command refuses it. Arguments override both presets.
"""

import argparse
import tempfile

import hydra

from xmas.cli.config import build, folder
from xmas.estimate.assumed import Assumed
from xmas.estimate.per_stage import work
from xmas.estimate.work import Context
from xmas.store import Store
from xmas.training.fit.sharding import check_precision

MODELS = {
    "llava15_7b, lora": "target=llava15_7b target/recipe=lora",
    "llava15_7b, lora_xmas": "target=llava15_7b target/recipe=lora_xmas",
    "llava15_7b, full": "target=llava15_7b target/recipe=full",
    "llava15_13b, lora": "target=llava15_13b target/recipe=lora",
    "llava15_13b, full": "target=llava15_13b target/recipe=full",
    "qwen25_vl_3b, lora": "target=qwen25_vl_3b target/recipe=lora",
    "first_stage of 7b": "target=llava15_7b projector@target.start.projector=first_stage "
    "target.start.projector.stage.pool.annotations=/absent.json "
    "target.start.projector.stage.pool.images=.",
    "tinyllava_stablelm": "proxy=tinyllava_stablelm",
    "llava_onevision_05b": "proxy=llava_onevision_05b",
    "smolvlm_256m": "proxy=smolvlm_256m",
}
HARDWARE = ("h100", "h200", "one_gpu", "a6000", "rtx4090", "fsdp")
POOL = ("pool=files", "pool.annotations=/absent.json", "pool.images=.")


def estimated(model: str, hardware: str, changes: list[str]) -> str:
    """GB on a device and hours, as a cell of the table."""
    options = [*MODELS[model].split(), *POOL, f"hardware={hardware}", *changes]
    cfg = hydra.compose("config", options)
    if model.startswith("first_stage"):
        stage = build(cfg.target).start.projector.stage
    else:
        stage = build(cfg.target if "target" in MODELS[model] else cfg.proxy)
    try:
        check_precision(stage.recipe, stage.hardware)
    except ValueError:
        return "refused"
    with tempfile.TemporaryDirectory() as root:
        known = Context(Store(root), stage.hardware, Assumed(), (stage.tokens(),))
        costs = work(stage, known)
    size, hours = costs.device / 1e9, costs.seconds(stage.hardware) / 3600
    cell = f"{size:.0f} GB" if costs.device <= stage.hardware.memory else f"({size:.0f} GB)"
    return f"{cell}, {hours:.1f} h"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("changes", nargs="*", help="overrides of the presets, as on a command line")
    parser.add_argument("--tiny", action="store_true", help="one model on one device")
    options = parser.parse_args()
    models, devices = (["smolvlm_256m"], HARDWARE[:1]) if options.tiny else (MODELS, HARDWARE)
    with hydra.initialize_config_dir(folder(), version_base="1.3"):
        print("| model | " + " | ".join(devices) + " |")
        print("|---|" + "---:|" * len(devices))
        for model in models:
            cells = [estimated(model, hardware, options.changes) for hardware in devices]
            print(f"| {model} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
