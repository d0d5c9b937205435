"""What a token costs the host, one wait and, replayed, one launch; an adapter merged on the GPU."""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from random_llava import EOS, random_groups, random_llava
from torch.utils._python_dispatch import TorchDispatchMode

from emulated.gpu import Gpu
from xmas.evaluation.generation.continuous_batch import ContinuousBatch
from xmas.evaluation.generation.decode import decode_singly
from xmas.evaluation.generation.prompts import shared_prefix
from xmas.models.precision import cast_parameters
from xmas.training.fit.trainables import Lora, merge_adapter, with_lora

LAYERS = 3


class Launches(TorchDispatchMode):
    """Counts the operators that launch a kernel; those in a graph are none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = [one.alias_info for one in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if not is_view and func.overloadpacket.__name__ != "_unsafe_view":
            self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model() -> Any:
    return cast_parameters(random_llava(LAYERS), torch.float16, "cuda")


@pytest.fixture
def cost(gpu: Gpu, model):
    """The waits and launches of one more token of an answer, all lengths seen before."""

    def measured(batch: int, new: int, graphs: bool, groups: Any) -> tuple[int, int]:
        options: Any = {"max_new_tokens": new, "eos": EOS, "graphs": graphs}
        if batch == 1:
            answers = decode_singly(model, groups, **options)
        else:
            options |= {"slots": batch, "prefix": shared_prefix(one for one, _ in groups)}
            longest = len(groups[0][0].prompts[0].ids)
            answers = ContinuousBatch(model, longest=longest, **options).answers(groups)
        with Launches() as launches, gpu.counting() as counted:
            list(answers)
        return sum(counted.waits.values()), sum(launches.names.values())

    def run(batch: int, graphs: bool) -> tuple[float, float]:
        """Three equal batches of questions: the third has only replayed steps, if any."""
        costs = [
            [measured(batch, new, graphs, random_groups([6] * batch * times)) for times in (2, 3)]
            for new in (4, 9)
        ]
        waits, launches = (
            ((costs[1][1][at] - costs[1][0][at]) - (costs[0][1][at] - costs[0][0][at])) / 5
            for at in (0, 1)
        )
        return waits, launches

    return run


@pytest.mark.parametrize("batch", [1, 3])
def test_the_host_waits_once_a_token(cost, batch):
    for graphs in (False, True):
        assert cost(batch, graphs)[0] == 1


def test_a_replayed_token_is_one_launch_and_its_copy_to_the_host(cost):
    assert cost(1, graphs=False)[1] > 40 * LAYERS
    assert cost(1, graphs=True)[1] <= 3


def test_a_replayed_step_of_a_batch_leaves_the_head_to_the_host(cost):
    """The states of unfinished rows are picked eagerly: which ones changes from step to step."""
    assert cost(3, graphs=False)[1] > 40 * LAYERS
    assert cost(3, graphs=True)[1] <= 15


def test_an_adapter_is_merged_on_the_device_a_layer_at_a_time(gpu: Gpu):
    """The bits of a CPU, and never more than one layer there in float32."""
    adapted = with_lora(random_llava(LAYERS), Lora(rank=3, alpha=6))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    other: Any = copy.deepcopy(adapted)
    expected = cast_parameters(merge_adapter(other), torch.float16)
    with gpu.counting() as counted:
        merged = merge_adapter(adapted, torch.float16, "cuda")  # pyright: ignore[reportArgumentType]
        merged = cast_parameters(merged, torch.float16, "cuda")
    weights = dict(merged.named_parameters())
    for name, weight in expected.named_parameters():
        assert weights[name].device.type == "cuda"
        assert torch.equal(weights[name].cpu(), weight)
    halves = sum(2 * weight.numel() for weight in weights.values())
    assert counted.peak < 1.6 * halves  # all of it in float32 would be twice that
