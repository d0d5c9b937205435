"""Optimiser steps a second of a small language model, by how long idle threads spin.

    python experiments/threads/spin.py [--seconds 5]

Each setting in a process, on quiet cores and next to a busy process.
"""

import argparse
import os
import subprocess
import sys
import time

SETTINGS = [
    {},
    {"OMP_WAIT_POLICY": "PASSIVE"},
    {"GOMP_SPINCOUNT": "100"},
    {"GOMP_SPINCOUNT": "1000"},
    {"GOMP_SPINCOUNT": "10000"},
    {"OMP_NUM_THREADS": "1"},
]
OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def measure(seconds: float) -> float:
    """Steps a second: 4 layers of 128, 8 rows of 64 tokens, as the demo's models."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
        vocab_size=2000,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, 2000, (8, 64))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(5):
        step()
    started, steps = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        step()
        steps += 1
    return steps / (time.monotonic() - started)


def measured(setting: dict[str, str], seconds: float) -> str:
    """The same in a process of its own: OpenMP reads the environment once."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN}
    ended = subprocess.run(
        [sys.executable, __file__, "--one", "--seconds", str(seconds)],
        env=environment | setting, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ended.stdout.strip()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seconds", type=float, default=5.0, help="of each setting")
    asked.add_argument("--one", action="store_true", help="print the rate of this process alone")
    asked.add_argument("--tiny", action="store_true", help="a moment of one, to see that it runs")
    given = asked.parse_args()
    if given.one:
        print(f"{measure(given.seconds):.1f}")
        return
    settings, seconds = (SETTINGS[:1], 0.01) if given.tiny else (SETTINGS, given.seconds)
    quiet = [measured(setting, seconds) for setting in settings]
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        shared = [measured(setting, seconds) for setting in settings]
    finally:
        busy.kill()
        busy.wait()
    print("| setting | quiet | next to a busy process |\n| --- | ---: | ---: |")
    for setting, alone, contended in zip(settings, quiet, shared, strict=True):
        name = ", ".join(f"{key}={value}" for key, value in setting.items()) or "torch's default"
        print(f"| {name} | {alone} | {contended} |")


if __name__ == "__main__":
    main()
