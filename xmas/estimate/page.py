"""The estimate as text: a line for every stage, totals, and the assumptions."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from xmas.estimate import memory
from xmas.estimate.stage_estimates import StageEstimate
from xmas.estimate.too_large import described
from xmas.estimate.work import Context

_HEADER = [
    *("stage", "what it does", "FLOPs", "of full", "wall clock", "device time", "disk"),
    *("host memory", "device memory", "state"),
]
_LEFT = (0, 1, 9)  # columns of text
_BIG = ("", "k", "M", "G", "T", "P", "E", "Z")


def render(name: str, estimates: list[StageEstimate], context: Context, whole: float) -> str:
    """The estimate of the goal `name`; `whole` are the FLOPs of a fine-tune on all rows."""
    due = [estimate for estimate in estimates if estimate.due]
    grid = [_HEADER, *[_line(estimate, whole) for estimate in estimates]]
    grid += [_total("to do now", due, whole), _total("everything", estimates, whole)]
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
    notes = [f"- {note}" for note in _notes(estimates, context)]
    first = f"{_kind(due[0])}: {_task(due[0])}" if due else "nothing, all of it is in the store"
    return "\n".join([f"Estimate of goal={name}", "", *parts, "", *notes, "", f"next: {first}"])


def _kind(estimate: StageEstimate) -> str:
    return estimate.stage.kind


def _task(estimate: StageEstimate) -> str:
    return "?" if estimate.work is None else estimate.work.what


def _line(estimate: StageEstimate, whole: float) -> list[str]:
    state = estimate.state
    if estimate.measured is not None:
        state = f"in store, took {estimate.measured:,.0f} s"
    work = estimate.work
    if work is None:
        return [_kind(estimate), _task(estimate), *["?"] * 7, state]
    return [
        _kind(estimate),
        work.what,
        _big(work.flops) if work.flops else "",
        _share(work.flops, whole),
        _time(estimate.wall_seconds),
        _time(estimate.device_seconds),
        _bytes(work.disk),
        _bytes(host(estimate)),
        "" if _on_cpu(estimate) else _bytes(work.device),
        state,
    ]


def _total(name: str, estimates: list[StageEstimate], whole: float) -> list[str]:
    works = [estimate.work for estimate in estimates if estimate.work is not None]
    flops = sum(work.flops for work in works)
    return [
        name,
        f"{len(estimates)} stages",
        _big(flops) if flops else "",
        _share(flops, whole),
        _time(sum(estimate.wall_seconds for estimate in estimates)),
        _time(sum(estimate.device_seconds for estimate in estimates)),
        _bytes(sum(work.disk for work in works)),
        _bytes(max((host(estimate) for estimate in estimates), default=0.0)),
        _device_peak(estimates),
        "",
    ]


def host(estimate: StageEstimate) -> float:
    """Peak bytes of host memory, including the process itself."""
    if estimate.work is None:
        return memory.PROCESS
    own = memory.PROCESS + estimate.work.host
    return own + estimate.work.device if _on_cpu(estimate) else own


def _device_peak(estimates: list[StageEstimate]) -> str:
    peaks = [
        estimate.work.device
        for estimate in estimates
        if estimate.work is not None and not _on_cpu(estimate)
    ]
    return _bytes(max(peaks, default=0.0))


def _on_cpu(estimate: StageEstimate) -> bool:
    return estimate.hardware.accelerator == "cpu"


def _notes(estimates: list[StageEstimate], context: Context) -> Iterator[str]:
    """What is counted, what is assumed, and what exceeds disk or memory."""
    yield (
        "computed: FLOPs, disk and memory, from the stages' fields and the counts below; "
        "`of full`: FLOPs relative to those of the target's training on all rows"
    )
    for census in context.counted.values():
        yield (
            f"pool {census.name}: {census.rows:,} rows, {census.images:,} different images, "
            f"{census.text.mean():.0f} text tokens a row, {census.answers.mean():.0f} of them "
            f"answers: {census.how}"
        )
    for hardware in {repr(estimate.hardware): estimate.hardware for estimate in estimates}.values():
        device = hardware.device
        if device is not None:
            yield (
                "wall clock: from beginning to end, one stage after another; device time: wall "
                "clock x devices, of stages that use them; host and device time are not added. "
                f"{hardware.world} x {device.name}, {device.tflops_16:g} TFLOP/s in 16 bits and "
                f"{device.tflops_32:g} in 32, of which fits reach {device.fit:g} and forward "
                f"passes {device.forward:g}: assumed"
            )
    if any(estimate.stage.kind == "score" for estimate in estimates):
        assumed = context.assumed
        yield (
            f"scores: prompts of {assumed.question:g} text tokens, {assumed.answer:g} new ones or "
            f"{assumed.essay:g} where a judge grades them, {1e6 * assumed.launch:g} us to launch a "
            "kernel: assumed"
        )
    yield from _warnings(estimates, context)


def _warnings(estimates: list[StageEstimate], context: Context) -> Iterator[str]:
    due = [
        (estimate, estimate.work)
        for estimate in estimates
        if estimate.due and estimate.work is not None
    ]
    for estimate, work in due:
        if estimate.hardware.memory is not None and work.device > estimate.hardware.memory:
            yield f"TOO LARGE: {described(estimate.stage, work, estimate.hardware)}"
    if due:
        folder = Path(context.store.root).absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        scratch = max(work.scratch for _, work in due)
        required_bytes = sum(work.disk for _, work in due) + scratch
        level = "DISK TOO SMALL" if required_bytes > free else "disk"
        yield (
            f"{level}: {_big(free)}B free at {context.store.root}; a fit keeps up to "
            f"{_big(scratch)}B more until it is done"
        )
    unknown = sorted({estimate.stage.kind for estimate in estimates if estimate.work is None})
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
    """At most three digits, in hours, minutes or seconds; empty below half a second."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:,.{0 if seconds >= 100 * size else 1}f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 0.5 else ""


def _share(flops: float, whole: float) -> str:
    return "" if not flops or not whole else f"{flops / whole:.3f}"
