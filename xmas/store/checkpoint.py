"""Checkpoints of unfinished work: complete, compared with their hashes, removed with the draft.

A checkpoint is the folder `last.ckpt` of a draft: the state, a file or a folder, and the sha256 of
its files. The store leaves it out of the result when the result is on the disk, so no work between
the end of a fit and its saved weights can cost the fit.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from xmas.store.atomic import damaged_of, former_of, partial_of, write_atomically

log = logging.getLogger(__name__)

_NAME = "last.ckpt"
_STATE = "state.ckpt"
_HASHES = "sha256.json"


def save_checkpoint(draft: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write the state, a file or a folder, and make it the checkpoint of a draft.

    The former checkpoint is there until the new one is on the disk.
    """

    def fill(checkpoint: Path) -> None:
        checkpoint.mkdir()
        write(checkpoint / _STATE)
        (checkpoint / _HASHES).write_text(json.dumps(_hashes(checkpoint)))

    write_atomically(draft / _NAME, fill)


def state_being_saved(draft: Path) -> Path:
    """Where `save_checkpoint` has the state written, for ranks that write parts of it."""
    return partial_of(draft / _NAME) / _STATE


def saved_state(draft: Path) -> Path | None:
    """The state in the last whole checkpoint of a draft; None where work starts anew.

    A checkpoint that is not what was written is named and moved aside.
    """
    places = [draft / _NAME, former_of(draft / _NAME)]
    for number, checkpoint in enumerate(places, start=1):
        if not checkpoint.exists():
            continue
        if (fault := _fault(checkpoint)) is None:
            return checkpoint / _STATE
        earlier = any(place.exists() for place in places[number:])
        move_aside(
            checkpoint,
            fault,
            "the former checkpoint is tried" if earlier else "the work starts anew",
        )
    return None


def move_aside(path: Path, fault: str, remedy: str) -> None:
    """Move what cannot be read out of the way, with a warning.

    Args:
        fault: what is wrong with it.
        remedy: what happens instead.
    """
    aside = damaged_of(path)
    if aside.is_dir():
        shutil.rmtree(aside)
    path.replace(aside)
    log.warning("%s: %s; moved to %s, %s", path, fault, aside.name, remedy)


def _hashes(checkpoint: Path) -> dict[str, str]:
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file())
    hashes = {}
    for path in files:
        if path.name != _HASHES:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            hashes[path.relative_to(checkpoint).as_posix()] = digest
    return hashes


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing."""
    try:
        written = json.loads((checkpoint / _HASHES).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return f"no {_HASHES}, as of an earlier version"
    except ValueError as error:
        return f"{_HASHES} cannot be read ({error})"
    hashes = _hashes(checkpoint)
    if hashes == written:
        return None
    if not isinstance(written, dict) or not written:
        return f"{_HASHES} lists no files"
    name = next(
        name for name in sorted({*written, *hashes}) if written.get(name) != hashes.get(name)
    )
    if name not in hashes:
        return f"{name} is missing"
    if name not in written:
        return f"{name} is not in {_HASHES}"
    return f"{name} has sha256 {hashes[name][:12]}…, when written it had {written[name][:12]}…"
