"""Snapshots on the device: what is copied is what is counted."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy import Toy

from xmas.attention.weights import Weights
from xmas.models.vlm import freeze_tower, load


class Copies(TorchDispatchMode):
    """Counts the bytes of the copies that a conversion to another precision makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            self.bytes += result.numel() * result.element_size()
        return result


@pytest.fixture(scope="module")
def model(toy: Toy):
    return freeze_tower(load(toy.store.get(toy.start)).model)


@pytest.fixture(scope="module")
def trained(model) -> dict[str, torch.Tensor]:
    """A snapshot: all weights but the tower's, as a proxy keeps them."""
    return {
        name: weight.detach() + 1 for name, weight in model.named_parameters()
        if weight.requires_grad
    }  # fmt: skip


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_the_memory_of_snapshots_is_what_is_counted_before(model, trained, precision):
    """Weights that every snapshot replaces are not copied; the tower is once, in 16 bits."""
    weights = Weights(model, precision, head=True)
    own = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    copies = Copies()
    with copies, weights.resident([1, 2, 3], lambda step: trained) as snapshots:
        pass
    counted = 3 * weights.bytes(trained) + weights.frozen_bytes(trained)
    if precision == torch.float32:
        assert copies.bytes == weights.frozen_bytes(trained) == 0  # snapshots are used as they are
    else:
        assert copies.bytes == counted
        assert 0 < weights.frozen_bytes(trained) < weights.bytes(trained)
    frozen = set(snapshots[1]) - set(trained)
    assert {snapshots[1][name].data_ptr() for name in frozen} == {
        snapshots[3][name].data_ptr() for name in frozen
    }
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == own


def test_groups_leave_room_for_the_weights_that_all_snapshots_share(model, trained):
    weights = Weights(model, torch.bfloat16, head=True)
    room = weights.frozen_bytes(trained) + 2 * weights.bytes(trained)
    steps = [1, 2, 3, 4, 5]
    assert weights.groups(steps, lambda step: trained, room) == [[1, 2], [3, 4], [5]]
    assert weights.groups(steps, lambda step: trained, room - 1) == [[step] for step in steps]
