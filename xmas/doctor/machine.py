"""Checks the machine: package versions, devices, disk space."""

import importlib.util
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from xmas.doctor.finding import Finding
from xmas.store import Store
from xmas.training.fit.recipe import Hardware

_DRIVER = "/proc/driver/nvidia/gpus"  # of Linux, a folder for each GPU
_ROOM = 20  # GB free; with less there is a warning
_BATCH = 16 * 3 * 336 * 336 * 4  # bytes of the pixels of 16 images, float32: LLaVA-1.5's microbatch


def check_packages(packages: Mapping[str, str]) -> Iterator[Finding]:
    """Report versions; check faiss, the one package of which a build has to be chosen.

    packages: the versions of the installed ones, by name.
    """
    package_versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    yield Finding("OK", "packages", package_versions)
    if importlib.util.find_spec("faiss") is None:
        yield Finding(
            "FAIL",
            "faiss",
            "not installed, so nothing can be clustered",
            "pip install 'xmas[cpu]', or 'xmas[gpu]' on a machine with a GPU",
        )
    elif len(builds := sorted(name for name in packages if name.startswith("faiss"))) > 1:
        yield Finding(
            "FAIL",
            "faiss",
            f"{' and '.join(builds)} are installed and import as one",
            f"pip uninstall {' '.join(builds)}, then install one of them",
        )


def check_devices(hardware: Hardware, driver: str = _DRIVER) -> Iterator[Finding]:
    """Compare the GPUs that torch and faiss see with those of the host and of the hardware setting.

    Imports both where they are installed. faiss clusters on the CPU where its build sees no GPU:
    its packages are for one version of CUDA.
    """
    present = gpus_of_host(driver)
    if importlib.util.find_spec("torch") is None:
        yield Finding(
            "WARN",
            "torch",
            "not installed: selectors without a model work, such as random, column and length by "
            "characters; proxies, CLIP, targets and scores do not",
            f"pip install 'xmas[{'gpu' if present else 'cpu'}]'",
        )
        return
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    unused = len(present) if not gpus and "CUDA_VISIBLE_DEVICES" not in os.environ else 0
    names = ", ".join(torch.cuda.get_device_name(gpu) for gpu in range(gpus))
    if hardware.accelerator in ("gpu", "cuda") and gpus < hardware.devices:
        yield Finding(
            "FAIL",
            "device",
            f"hardware has {hardware.devices} GPUs, torch, {built}, sees {gpus}",
            "compare with nvidia-smi and CUDA_VISIBLE_DEVICES, install torch for its CUDA version "
            "(make install CUDA=1), or set hardware=cpu",
        )
    elif unused:
        yield Finding(
            "WARN",
            "device",
            f"torch, {built}, cannot use the GPUs of this host: {', '.join(present)}",
            "make install CUDA=1, or install torch for the CUDA version that nvidia-smi shows; "
            "then hardware=one_gpu",
        )
    elif hardware.accelerator == "cpu":
        idle = f"; the GPUs of this host are not used: {names}" if gpus else ""
        level = "WARN" if gpus else "OK"
        yield Finding(level, "device", f"all passes and fits run on the CPU{idle}")
    else:
        where = f"CUDA {torch.version.cuda}: {names}" if gpus else "the CPU"
        yield Finding("OK", "device", f"all passes and fits run on {where}")
    if importlib.util.find_spec("faiss") is None:
        return
    import faiss

    faiss_gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
    is_needed = unused or (gpus and hardware.accelerator != "cpu")
    if is_needed and not faiss_gpus:
        yield Finding("WARN", "faiss", "clusters on the CPU", _faiss_for(torch.version.cuda))
    else:
        where = f"{faiss_gpus} GPUs seen" if faiss_gpus else "clusters on the CPU"
        yield Finding("OK", "faiss", where)


def gpus_of_host(driver: str = _DRIVER) -> list[str]:
    """The names of the NVIDIA GPUs of this host, as its driver lists them; torch is not asked."""
    names = []
    for path in sorted(Path(driver).glob("*/information")):
        fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        names.append(fields.get("Model", "a GPU").strip())
    return names


def _faiss_for(cuda: str | None) -> str:
    """How to install the build of faiss for a version of CUDA."""
    if cuda is not None and int(cuda.split(".")[0]) >= 13:
        package = "faiss-gpu-cu13-cuvs, which needs Python 3.12"
    else:
        package = "'xmas[gpu]': faiss-gpu is built for CUDA 12"
    return f"pip uninstall faiss-cpu; pip install {package}"


def check_shared_memory(hardware: Hardware, folder: str = "/dev/shm") -> Iterator[Finding]:
    """Check that batches of the workers fit into shared memory, which containers limit to 64 MB.

    Without room a worker is killed by a bus error in the middle of a pass.
    """
    processes = hardware.workers * hardware.devices
    if not processes or not os.path.isdir(folder):
        return
    needed = processes * hardware.prefetch * _BATCH
    room = shutil.disk_usage(folder).free
    message = f"{room / 1e9:.1f} GB free at {folder} for {processes} workers"
    if room < needed:
        yield Finding(
            "FAIL",
            "workers",
            f"{message}, which need up to {needed / 1e9:.1f}",
            f"docker run --shm-size={math.ceil(needed / 1e9)}g, or set hardware.workers=0",
        )
    else:
        yield Finding("OK", "workers", message)


def check_disk(store: Store) -> Iterator[Finding]:
    """Check free space and write permission of the store."""
    folder = Path(store.root).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    message = f"{free:,.0f} GB free at {store.root}"
    if not os.access(folder, os.W_OK):
        yield Finding("FAIL", "store", f"{folder} cannot be written to", "set store.root=FOLDER")
    elif free < _ROOM:
        yield Finding("WARN", "store", f"{message}; a run at full size takes more")
    else:
        yield Finding("OK", "store", message)
