"""What a result was computed with: package versions, commit, devices."""

import contextlib
import dataclasses
import functools
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from xmas.store import distributed
from xmas.store.stage import Stage

_COMMAND = "XMAS_COMMAND"  # in the environment, which the processes of a command share
RECORDED_PACKAGES = (
    "numpy torch transformers tokenizers peft lightning "
    "faiss-cpu faiss-gpu faiss-gpu-cu13-cuvs pillow xmas".split()
)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a result."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from; `+` is appended if files differ."""
    here = Path(__file__).parent
    git = functools.partial(
        subprocess.run, cwd=here, capture_output=True, text=True, check=False, timeout=10
    )
    if (
        shutil.which("git") is None
        or git(["git", "ls-files", "--error-unmatch", __file__]).returncode
    ):
        return None
    head = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    return head + ("+" if changed else "")


def note_command(words: Sequence[str]) -> None:
    """Note the command that the user typed, unless this process is part of one."""
    os.environ.setdefault(_COMMAND, shlex.join(["xmas", *words]))


def command() -> str | None:
    """The command that this process runs for; None: Python calls the store."""
    return os.environ.get(_COMMAND)


def now() -> str:
    """The time, to the microsecond, with its zone, as `meta.json` has it."""
    return datetime.now(UTC).isoformat()


def finished(folder: Path) -> float:
    """When a result was finished, in seconds since the epoch; 0 where `meta.json` is lost.

    Results of former versions do not say it: the modification time of `meta.json` is used, which a
    copy may change.
    """
    path = folder / "meta.json"
    if not path.exists():
        return 0.0
    try:
        return datetime.fromisoformat(json.loads(path.read_text())["finished"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return path.stat().st_mtime


def worked_on(stage: Stage) -> dict[str, Any]:
    """`device` and `devices`: what a stage is computed on, and how many of them.

    Under torchrun the number of ranks, since all wait for a stage that rank 0 computes alone;
    otherwise that of its `hardware` field, or of a stage in its fields that has one; otherwise 1.
    The device is the first GPU if torch is loaded in the process, or the CPU.
    """
    parts = [stage, *(getattr(stage, field.name) for field in dataclasses.fields(stage))]
    hardware = [part.hardware for part in parts if hasattr(part, "hardware")]
    torch = sys.modules.get("torch")  # not loaded: nothing was computed on a GPU
    accelerators = [getattr(part, "accelerator", None) for part in (stage, *hardware)]
    on_cpu = next(filter(None, accelerators), None) == "cpu"
    if torch is None or on_cpu or not torch.cuda.is_available():
        name = f"CPU, {os.cpu_count()} cores"
    else:
        name = torch.cuda.get_device_name(0)
    devices = hardware[0].world if hardware else 1
    if distributed.launched():
        devices = int(os.environ["WORLD_SIZE"])
    return {"device": name, "devices": devices}
