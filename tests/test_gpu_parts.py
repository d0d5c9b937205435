"""The parts of `experiments/gpu` at full size: `pytest -m gpu`, about eight minutes of an H100.

LoRA of LLaVA-1.5-7B in every precision and arrangement, resuming, merging, generation, features and
clusters, each with its checks. At a tiny size the emulated GPU runs the same lines,
`tests/emulated/test_gpu_scripts.py`.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments" / "gpu"))

from first_hour import all_parts
from parts import FAILED, MISSING, Setting, attempt

pytestmark = pytest.mark.gpu
PARTS = {part.name: part for part in all_parts()}


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(torch.device("cuda"), torch.version.cuda is None, records={})


@pytest.mark.filterwarnings("default")  # of the libraries, as in a process of the script's own
@pytest.mark.parametrize("name", PARTS)
def test_a_part_holds_at_full_size(name, setting):
    record = attempt(PARTS[name], setting)
    setting.records[name] = record  # later fits compare their losses with the first one's
    if record["state"] == MISSING:
        pytest.skip(f"not available: {record['why']}")
    assert record["state"] != FAILED, record["why"]
