"""The record of a result, `meta.json`: what it is, what it was made from, and on what."""

import contextlib
import dataclasses
import json
import os
import platform
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmas.store.atomic import complete, write_atomically
from xmas.store.chain import Chain
from xmas.store.computation import Computation
from xmas.store.integrity import META, record_files, sealed
from xmas.store.provenance import command, commit, now, versions, worked_on
from xmas.store.stage import ChangedFileError, Stage, describe, digest

ANNOUNCED = "stage.json"  # in a draft: what it will be


@dataclasses.dataclass(frozen=True)
class Announced:
    """What a result is called, and its identity as it was before it was computed."""

    label: str
    identity: Any


@contextlib.contextmanager
def recorded(stage: Stage, draft: Path, announced: Announced, *, resumed: bool) -> Iterator[None]:
    """Write `meta.json` when the work inside ends well, `error.txt` when it does not.

    `seconds` are those of this stage alone, over all attempts: the stages that it asks for have
    records of their own. `inputs` are these stages' results, `<kind>/<key>`, in the order in
    which they were asked for; results made before inputs were recorded have no such entry.
    """
    result_key = draft.name[1:]
    computation = Computation(f"{stage.kind}/{result_key}", draft)
    if resumed:
        computation.resume()
    try:
        with computation.run():
            _announce(stage.kind, draft, announced)
            yield
    except BaseException:
        text = traceback.format_exc()
        with contextlib.suppress(OSError):  # of a full disk: the first error says more
            write_atomically(draft / "error.txt", lambda path: path.write_text(text))
        raise
    inputs = computation.inputs
    config = describe(stage)
    if digest(config) != result_key:
        raise ChangedFileError(f"{stage.kind} {result_key} is now {digest(config)}")
    record = {
        "kind": stage.kind,
        "key": result_key,
        "label": announced.label,
        "config": config,
        "seconds": round(computation.seconds, 3),
        **({} if inputs is None else {"inputs": list(inputs)}),
        "versions": versions(),
        "commit": commit(),
        **({} if command() is None else {"command": command()}),
        "finished": now(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        **worked_on(stage),
        "files": record_files(draft),
    }
    complete(draft, META, sealed(record))
    Chain.note(computation.name, computation.seconds)


def _announce(kind: str, draft: Path, announced: Announced) -> None:
    """Write in a draft what it will be: its `meta.json` is written when it is complete."""
    text = json.dumps(
        {
            "kind": kind,
            "key": draft.name[1:],
            "label": announced.label,
            "config": announced.identity,
        }
    )
    write_atomically(draft / ANNOUNCED, lambda path: path.write_text(text))
