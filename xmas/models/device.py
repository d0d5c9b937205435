"""The device of a process, decided in one place from the hardware setting."""

import torch

from xmas.store import distributed


def device_for(accelerator: str, local_rank: int | None = None) -> torch.device:
    """The device that this process computes on: the CPU, or one GPU of its host.

    The GPU becomes the current one of the process. Otherwise pinned memory, and every tensor on
    `cuda` without a number, would make a context on card 0 for every rank of the host.

    Float32 convolutions are computed in float32. By default torch uses TF32 for them, though not
    for matrix products: the patch convolution of a vision tower would be off by 2e-4 to 4e-4.

    Args:
        accelerator: `hardware.accelerator`: cpu; gpu or cuda; auto is a GPU where torch sees one.
        local_rank: the number of the process on its host; None: what torchrun says, or 0.

    Raises ValueError: a GPU is asked for, and the host has none, or fewer than processes.
    """
    wants_gpu = accelerator in ("gpu", "cuda")
    if not wants_gpu and not (accelerator == "auto" and torch.cuda.is_available()):
        return torch.device("cpu")  # also where Lightning fits on an accelerator without CUDA
    local_rank = distributed.local() if local_rank is None else local_rank
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local_rank >= gpus:
        raise ValueError(
            f"hardware.accelerator={accelerator}: process {local_rank} of this host needs GPU "
            f"{local_rank}, but torch sees {gpus}; set hardware=cpu, start fewer processes, or "
            "find out more with goal=doctor"
        )
    torch.backends.cudnn.allow_tf32 = False
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
