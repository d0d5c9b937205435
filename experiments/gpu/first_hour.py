"""Everything of xmas that a GPU does, checked and measured on one card in under eight minutes.

    python experiments/gpu/first_hour.py                  # continues where it was stopped
    python experiments/gpu/first_hour.py --only fit       # parts with this in their name
    python experiments/gpu/first_hour.py --table          # Markdown of what has been measured
    python experiments/gpu/first_hour.py --tiny           # two thin layers: does it run at all?

Models have the sizes of LLaVA-1.5-7B and of the published proxies, and random weights. Every part
appends a line of JSON to `--out`; a part that passed is not run again. The exit status is 1 where a
check failed, whose part is named. Needs torch, transformers, peft, lightning; FAISS and
flash-attention where they are installed. No Hydra, no network.
"""

import argparse
import importlib.metadata
from pathlib import Path

import torch
from parts import PASSED, Part, Setting, read, run, tables

VERSIONS = ("torch", "transformers", "peft", "lightning", "numpy", "flash-attn", "faiss-cpu")


def machine(setting: Setting) -> dict[str, object]:
    """What the other numbers were measured on."""
    known = {
        one.metadata["Name"].lower(): one.version for one in importlib.metadata.distributions()
    }
    name = torch.cuda.get_device_name() if setting.on_gpu else "CPU"
    return {"device": name} | {v: known[v] for v in VERSIONS if v in known}


def all_parts() -> list[Part]:
    """In the order in which they run: what the others rely on first."""
    import feeding
    import fitting
    import reading

    return [Part("machine", machine), *reading.PARTS, *fitting.PARTS, *feeding.PARTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("first_hour.jsonl"), help="lines of JSON")
    parser.add_argument("--only", default="", metavar="TEXT", help="parts whose name contains it")
    parser.add_argument("--list", action="store_true", help="the names of the parts")
    parser.add_argument("--table", action="store_true", help="print what --out has as Markdown")
    parser.add_argument("--tiny", action="store_true", help="two thin layers, to see that it runs")
    parser.add_argument("--device", default="cuda", help="cpu: with --tiny")
    options = parser.parse_args()
    if options.table:
        print(tables(read(options.out)))
        return
    if options.list:
        print("\n".join(part.name for part in all_parts()))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU; --device cpu --tiny runs the same lines on a CPU")
    before = read(options.out)
    if any(record["tiny"] != options.tiny for record in before.values()):
        parser.error(f"{options.out} has parts of the other size; name another file with --out")
    if before.get("machine", {}).get("state") == PASSED:
        print(f"continues {options.out}, which was begun on {before['machine']['figures']}")
    device = torch.device(options.device)
    raise SystemExit(run(all_parts(), options.out, device, tiny=options.tiny, only=options.only))


if __name__ == "__main__":
    main()
