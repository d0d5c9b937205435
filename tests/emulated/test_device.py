"""The emulated device itself: what it refuses, what it counts, and its numbers are the CPU's."""

import pytest
import torch

from emulated.gpu import Gpu, install

CUDA = torch.device("cuda")


def assign_by_mask(numbers: torch.Tensor) -> None:
    numbers[numbers > 0] = 2.0


def test_numbers_and_gradients_are_those_of_the_cpu():
    weight = torch.randn(5, 3)
    rows = torch.randn(7, 3)
    losses = []
    for device in ("cpu", "cuda"):
        layer = torch.nn.Linear(3, 5, bias=False, device=device)
        with torch.no_grad():
            layer.weight.copy_(weight)
        loss = layer(rows.to(device)).softmax(-1).square().sum()
        loss.backward()
        losses.append((loss.detach().cpu(), layer.weight.grad.cpu()))
        assert layer.weight.grad.device.type == device
    assert torch.equal(losses[0][0], losses[1][0])
    assert torch.equal(losses[0][1], losses[1][1])


def test_tensors_of_two_devices_are_refused(gpu: Gpu):
    numbers = torch.ones(3, device=CUDA)
    with pytest.raises(RuntimeError, match="all tensors to be on the same device"):
        numbers + torch.ones(3)
    assert (numbers + torch.tensor(1.0)).tolist() == [2.0] * 3  # a number goes anywhere
    gpu.devices = 2
    try:
        with pytest.raises(RuntimeError, match="cuda:0 and cuda:1"):
            numbers + torch.ones(3, device="cuda:1")
    finally:
        gpu.devices = 1


def test_a_softmax_of_half_precision_may_be_float32():
    """As eager attention asks for it; on a CPU torch converts first."""
    numbers = torch.randn(3, 5).half()
    values = numbers.to(CUDA).softmax(-1, dtype=torch.float32)
    assert values.dtype == torch.float32
    assert torch.equal(values.cpu(), numbers.softmax(-1, dtype=torch.float32))


def test_what_cuda_does_not_have_is_refused():
    with pytest.raises(TypeError, match="convert cuda:0 device type tensor to numpy"):
        torch.ones(3, device=CUDA).numpy()
    whole = torch.ones(2, 2, dtype=torch.int64, device=CUDA)
    with pytest.raises(RuntimeError, match="aten::mm is not implemented for integers"):
        whole @ whole


@pytest.mark.parametrize(
    ("makes_host_wait", "reason"),
    [
        (lambda numbers: numbers.sum().item(), "aten::_local_scalar_dense"),
        (lambda numbers: numbers.cpu(), "copy to host"),
        (lambda numbers: numbers.copy_(torch.zeros(3)), "copy to device"),
        (lambda numbers: numbers[numbers > 0], "aten::nonzero"),
        (lambda numbers: numbers.nonzero(), "aten::nonzero"),
        (lambda numbers: numbers[torch.tensor([0, 1])], "copy to device"),
        (assign_by_mask, "aten::_index_put_impl_ by a mask"),
        (lambda numbers: bool(numbers.any()), "aten::_local_scalar_dense"),
    ],
)
def test_the_host_s_waits_are_counted(gpu: Gpu, makes_host_wait, reason):
    numbers = torch.ones(3, device=CUDA)
    with gpu.counting() as counted:
        (numbers * 2).softmax(0).copy_(torch.zeros(3), non_blocking=True)
    assert not counted.waits
    with gpu.counting() as counted:
        makes_host_wait(numbers)
    assert counted.waits == {reason: 1}
    assert sum(counted.places.values()) == 1


def test_bytes_held_and_copied_are_counted(gpu: Gpu):
    before = gpu.held
    with gpu.counting() as counted:
        numbers = torch.zeros(1000).to(CUDA)
        assert gpu.held == before + 4000
        twice = numbers * 2
        numbers.cpu()
        del twice
    assert counted.peak == 8000
    assert counted.copied == {"to device": 4000, "to host": 4000}
    del numbers
    assert gpu.held == before
    assert torch.cuda.mem_get_info()[0] == 80 * 10**9 - before


def test_attention_says_which_kernel_cuda_would_take(gpu: Gpu):
    query = torch.randn(1, 2, 5, 8, device=CUDA, dtype=torch.bfloat16)
    mask = torch.ones(5, 5, dtype=torch.bool, device=CUDA)
    with gpu.counting() as counted:
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
        torch.nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert counted.operators["attention flash"] == 1
    assert counted.operators["attention efficient, masked"] == 1


def test_a_pinned_tensor_is_known():
    assert torch.ones(3).pin_memory().is_pinned()
    assert not torch.ones(3).is_pinned()


def test_it_is_installed_once_before_torch():
    assert install() is install()
    with pytest.raises(RuntimeError, match="has to run before"):
        install.__wrapped__()
