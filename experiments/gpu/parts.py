"""Parts of a measurement: each runs alone, is checked, and leaves a line of JSON.

The file of these lines is what a later run resumes from: parts that passed are not run again. What
has not been tried comes first, so that a part which leaves the GPU unusable stops no other for
good.
"""

import dataclasses
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Figures = dict[str, Any]  # numbers by what they are, with the unit; a list of dicts is a table
PASSED, FAILED, MISSING = "passed", "FAILED", "not available"


class CheckFailedError(RuntimeError):
    """A number is not what it has to be; says which, and what it has to be."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and how large.

    Args:
        device: of all tensors.
        tiny: two thin layers and a few rows, to see that everything runs.
        records: lines of parts that have run before, by name.
    """

    device: torch.device
    tiny: bool
    records: Mapping[str, Mapping[str, Any]]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


@dataclasses.dataclass(frozen=True)
class Part:
    """`work` checks and measures; without what it `needs` it is not available.

    Args:
        needs: modules, or names of `PROVIDED`.
    """

    name: str
    work: Callable[[Setting], Figures]
    needs: tuple[str, ...] = ()


PROVIDED: dict[str, Callable[[Setting], bool]] = {
    "a GPU": lambda setting: setting.on_gpu,
    "NCCL": lambda setting: not setting.on_gpu or torch.distributed.is_nccl_available(),
}


def missing_of(part: Part, setting: Setting) -> list[str]:
    """What a part needs and this machine does not have."""

    def provided(need: str) -> bool:
        if need in PROVIDED:
            return PROVIDED[need](setting)
        return importlib.util.find_spec(need) is not None

    return [need for need in part.needs if not provided(need)]


def check(correct: bool, what: str) -> None:
    """Raises CheckFailedError with `what` was found and expected, unless it is correct."""
    if not correct:
        raise CheckFailedError(what)


def run(
    parts: Sequence[Part], out: Path, device: torch.device, *, tiny: bool, only: str = ""
) -> int:
    """Run the parts that have not passed, print a line for each; the exit status.

    Args:
        out: the file of lines of JSON, which grows.
        only: parts whose name contains it.
    """
    records = read(out)
    chosen = [part for part in parts if only in part.name]
    if not chosen:
        raise SystemExit(f"no part's name contains {only!r}; --list shows them")
    waiting = [part for part in chosen if records.get(part.name, {}).get("state") != PASSED]
    waiting.sort(key=lambda part: part.name in records)  # first what was never tried
    if len(waiting) < len(chosen):
        print(f"{len(chosen) - len(waiting)} of {len(chosen)} parts have passed before: {out}")
    for part in waiting:
        record = attempt(part, Setting(device, tiny, records))
        records[part.name] = record
        with out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(line(record), flush=True)
        if record["state"] == FAILED and not usable(device):
            print("The GPU is unusable now; the same command continues in a new process.")
            return 2
    failed = [part.name for part in chosen if records[part.name]["state"] == FAILED]
    if failed:
        print(f"{len(failed)} of {len(chosen)} parts FAILED: {'; '.join(failed)}")
        return 1
    print(f"all parts passed that could run; {out}")
    return 0


def attempt(part: Part, setting: Setting) -> dict[str, Any]:
    """Run a part; its record."""
    missing = missing_of(part, setting)
    record: dict[str, Any] = {"part": part.name, "tiny": setting.tiny}
    if missing:
        return record | {"state": MISSING, "why": ", ".join(missing)}
    if setting.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start_time = time.perf_counter()
    try:
        figures = part.work(setting)
        if setting.on_gpu:
            torch.cuda.synchronize()
        record |= {"state": PASSED, "figures": figures}
    except Exception as error:  # of any kind: it is this part's result, and the exit status
        traceback.print_exc()
        record |= {"state": FAILED, "why": f"{type(error).__name__}: {error}"[:400]}
    record["seconds"] = round(time.perf_counter() - start_time, 1)
    if setting.on_gpu:
        record["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
    return record


def usable(device: torch.device) -> bool:
    """Whether the device still computes: an illegal access of its memory ends that for good."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2.0
    except RuntimeError:
        return False


def read(out: Path) -> dict[str, dict[str, Any]]:
    """The last record of every part. Raises SystemExit: a line is no JSON; names it."""
    records: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(out.read_text().splitlines() if out.exists() else [], start=1):
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise SystemExit(f"{out}: line {number}: {error}; remove this line") from error
        records[record["part"]] = record
    return records


def line(record: Mapping[str, Any]) -> str:
    """A part as one line of text."""
    said = record.get("why") or "  ".join(
        f"{name} {shown(value)}"
        for name, value in record["figures"].items()
        if not isinstance(value, list)
    )
    peak = f"{record['peak GB']:6.1f} GB" if "peak GB" in record else ""
    return (
        f"{record['state']:13} {record.get('seconds', 0):6.1f} s {peak}  {record['part']}: {said}"
    )


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def tables(records: Mapping[str, Mapping[str, Any]]) -> str:
    """All parts as a Markdown table, followed by the tables that parts have inside."""
    lines = ["| part | state | seconds | peak GB | figures |", "|---|---|---:|---:|---|"]
    inner = []
    for name, record in records.items():
        figures = record.get("figures", {})
        single = {key: value for key, value in figures.items() if not isinstance(value, list)}
        text = record.get("why") or "; ".join(f"{key} {shown(v)}" for key, v in single.items())
        lines.append(
            f"| {name} | {record['state']} | {record.get('seconds', '')} "
            f"| {record.get('peak GB', '')} | {text} |"
        )
        for key, rows in figures.items():
            if isinstance(rows, list) and rows:
                columns = list(rows[0])
                inner += ["", f"**{name}: {key}**", "", f"| {' | '.join(columns)} |"]
                inner.append("|---" * len(columns) + "|")
                inner += [f"| {' | '.join(shown(row[c]) for c in columns)} |" for row in rows]
    return "\n".join(lines + inner)


def neighbours(*folders: str) -> None:
    """Let scripts of other folders of `experiments/` be imported: what they measure is theirs."""
    for folder in folders:
        path = str(Path(__file__).parent.parent / folder)
        if path not in sys.path:
            sys.path.insert(0, path)
