"""Checks the machine: package versions, devices, disk space."""

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from xmas.doctor.finding import Finding
from xmas.store import Store

_ROOM = 20  # GB free; with less there is a warning


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
    elif {"faiss-cpu", "faiss-gpu"} <= packages.keys():
        yield Finding(
            "FAIL",
            "faiss",
            "faiss-cpu and faiss-gpu are both installed and import as one",
            "pip uninstall faiss-cpu faiss-gpu, then install one of them",
        )


def check_devices() -> Iterator[Finding]:
    """Report the GPUs that torch and faiss see. Imports both."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
        yield Finding("OK", "torch", f"CUDA {torch.version.cuda}: {', '.join(names)}")
    elif torch.version.cuda:
        yield Finding(
            "WARN", "torch", f"built for CUDA {torch.version.cuda}, but sees no GPU (nvidia-smi?)"
        )
    else:
        yield Finding("WARN", "torch", "no CUDA: enough for the demo, not for a 7B target")
    if importlib.util.find_spec("faiss") is None:
        return
    import faiss

    gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
    level = "WARN" if torch.cuda.is_available() and not gpus else "OK"
    yield Finding(level, "faiss", f"{gpus} GPUs seen" if gpus else "clusters on the CPU")


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
