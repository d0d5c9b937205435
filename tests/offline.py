"""W&B's offline runs read back from disk: its records are framed as in LevelDB's log.

Seven bytes say what the file is; in blocks of 32 KiB every piece has checksum, length and kind
(1: whole, 2: first, 3: middle, 4: last) before it.
"""

import dataclasses
import json
import struct
import zlib
from pathlib import Path
from typing import Any

_BLOCK = 32768
_WHOLE, _FIRST, _LAST = 1, 2, 4


@dataclasses.dataclass
class OfflineRun:
    """One `.wandb` file: what a server would get of it."""

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    finished: bool = False
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    artifacts: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # name: files


def offline_runs(folder: Path) -> dict[str, OfflineRun]:
    """All of them under a logger's folder, by id, when W&B's service has written what it holds."""
    import wandb

    wandb.teardown()
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    found = [read(path) for path in files]
    assert len({one.id for one in found}) == len(found), "two runs have the same id"
    return {one.id: one for one in found}


def read(path: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for content in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        of_kind = getattr(record, record.WhichOneof("record_type"))
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = of_kind.run_id, of_kind.display_name
            run.group, run.job_type = of_kind.run_group, of_kind.job_type
            _update(run.config, of_kind.config.update)
        elif kind == "config":
            _update(run.config, of_kind.update)
        elif kind == "summary":
            _update(run.summary, of_kind.update)
        elif kind == "history":
            line: dict[str, Any] = {}
            _update(line, of_kind.item)
            run.history.append(line)
        elif kind == "artifact":
            run.artifacts[of_kind.name] = sorted(one.path for one in of_kind.manifest.contents)
        elif kind == "exit":
            run.finished = of_kind.exit_code == 0
    return run


def _update(held: dict[str, Any], items: Any) -> None:
    for item in items:
        path = list(item.nested_key) or [item.key]
        place = held
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = json.loads(item.value_json)


def _records(content: bytes) -> list[bytes]:
    assert content[:4] == b":W&B"
    found, parts, at = [], [], 7
    while at + 7 <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[at : at + 7])
        piece = content[at + 7 : at + 7 + length]
        assert zlib.crc32(piece, zlib.crc32(bytes([kind]))) == checksum, "a damaged piece"
        parts = [piece] if kind in (_WHOLE, _FIRST) else [*parts, piece]
        if kind in (_WHOLE, _LAST):
            found.append(b"".join(parts))
        at += 7 + length
    return found
