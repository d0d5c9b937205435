"""The estimate as text: a line for every stage, totals, and what the numbers rest on."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from xmas.estimate import memory
from xmas.estimate.stage_estimates import StageEstimate
from xmas.estimate.work import Context

_HEADER = ["stage", "what it does", "FLOPs", "of full", "time", "disk", "host", "device", "state"]
_LEFT = (0, 1, 8)  # columns of text
_BIG = ("", "k", "M", "G", "T", "P", "E", "Z")


def render(name: str, items: list[StageEstimate], context: Context, whole: float) -> str:
    """The estimate of the goal `name`; `whole` are the FLOPs of a fine-tune on all rows."""
    due = [item for item in items if item.due]
    grid = [_HEADER, *[_line(item, whole) for item in items]]
    grid += [_total("to do now", due, whole), _total("everything", items, whole)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    table = [
        "  ".join(
            cell.ljust(width) if place in _LEFT else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in grid
    ]
    rule = "-" * max(map(len, table))
    parts = [table[0], rule, *table[1:-2], rule, *table[-2:]]
    notes = [f"- {note}" for note in _notes(items, context)]
    first = f"{_kind(due[0])}: {_said(due[0])}" if due else "nothing, all of it is in the store"
    return "\n".join([f"Estimate of goal={name}", "", *parts, "", *notes, "", f"next: {first}"])


def _kind(item: StageEstimate) -> str:
    return item.stage.kind


def _said(item: StageEstimate) -> str:
    return "?" if item.work is None else item.work.what


def _line(item: StageEstimate, whole: float) -> list[str]:
    state = item.state
    if item.measured is not None:
        state = f"in store, took {item.measured:,.0f} s"
    work = item.work
    if work is None:
        return [_kind(item), _said(item), *["?"] * 6, state]
    return [
        _kind(item),
        work.what,
        _big(work.flops) if work.flops else "",
        _share(work.flops, whole),
        _time(item.device_seconds),
        _bytes(work.disk),
        _bytes(host(item)),
        "" if _on_cpu(item) else _bytes(work.device),
        state,
    ]


def _total(name: str, items: list[StageEstimate], whole: float) -> list[str]:
    known = [item.work for item in items if item.work is not None]
    flops = sum(work.flops for work in known)
    return [
        name,
        f"{len(items)} stages",
        _big(flops) if flops else "",
        _share(flops, whole),
        _time(sum(item.device_seconds for item in items)),
        _bytes(sum(work.disk for work in known)),
        _bytes(max((host(item) for item in items), default=0.0)),
        _device_peak(items),
        "",
    ]


def host(item: StageEstimate) -> float:
    """Peak bytes of host memory, the process itself counted."""
    if item.work is None:
        return memory.PROCESS
    own = memory.PROCESS + item.work.host
    return own + item.work.device if _on_cpu(item) else own


def _device_peak(items: list[StageEstimate]) -> str:
    peaks = [item.work.device for item in items if item.work is not None and not _on_cpu(item)]
    return _bytes(max(peaks, default=0.0))


def _on_cpu(item: StageEstimate) -> bool:
    return item.hardware.accelerator == "cpu"


def _notes(items: list[StageEstimate], context: Context) -> Iterator[str]:
    """What was counted, what is assumed, and what will not fit."""
    yield (
        "computed: FLOPs, disk and memory, from the stages' fields and the counts below; "
        "`of full`: FLOPs beside those of the target's training on all rows"
    )
    for census in context.counted.values():
        yield (
            f"pool {census.name}: {census.rows:,} rows, {census.images:,} different images, "
            f"{census.text.mean():.0f} text tokens a row, {census.answers.mean():.0f} of them "
            f"answers: {census.how}"
        )
    for hardware in {repr(item.hardware): item.hardware for item in items}.values():
        device = hardware.device
        if device is not None:
            yield (
                f"time: of all devices together where there are FLOPs, else of the host; "
                f"{hardware.devices} x {device.name}, {device.tflops_16:g} TFLOP/s in 16 bits and "
                f"{device.tflops_32:g} in 32, of which fits reach {device.fit:g} and forward "
                f"passes {device.forward:g}: assumed"
            )
    if any(item.stage.kind == "score" for item in items):
        said = context.assumed
        yield f"scores: prompts of {said.question:g} text tokens, {said.answer:g} new ones: assumed"
    yield from _warnings(items, context)


def _warnings(items: list[StageEstimate], context: Context) -> Iterator[str]:
    due = [(item, item.work) for item in items if item.due and item.work is not None]
    for item, work in due:
        device = item.hardware.device
        if device is not None and not _on_cpu(item) and work.device > 1e9 * device.memory:
            yield (
                f"TOO LARGE: {item.stage.kind} wants {_big(work.device)}B on a device of "
                f"{device.memory:g} GB; lower its micro_batch, or take another hardware="
            )
    if due:
        place = Path(context.store.root).absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        scratch = max(work.scratch for _, work in due)
        wanted = sum(work.disk for _, work in due) + scratch
        level = "DISK TOO SMALL" if wanted > free else "disk"
        yield (
            f"{level}: {_big(free)}B free at {context.store.root}; a fit keeps up to "
            f"{_big(scratch)}B more until it is done"
        )
    unknown = sorted({item.stage.kind for item in items if item.work is None})
    if unknown:
        yield f"not estimated, and in no total: {', '.join(unknown)}"


def _big(value: float) -> str:
    """Three digits and a letter for powers of a thousand."""
    power = 0
    while value >= 999.5 and power < len(_BIG) - 1:
        value, power = value / 1000, power + 1
    digits = 0 if value >= 99.5 or power == 0 else (1 if value >= 9.95 else 2)
    return f"{value:.{digits}f} {_BIG[power]}"


def _bytes(value: float) -> str:
    return f"{_big(value)}B" if value else ""


def _time(seconds: float) -> str:
    """Three digits or less, in the unit that suits; nothing below half a second."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:,.{0 if seconds >= 100 * size else 1}f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 0.5 else ""


def _share(flops: float, whole: float) -> str:
    return "" if not flops or not whole else f"{flops / whole:.3f}"
