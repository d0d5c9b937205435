"""Trajectories: how the attention of clusters moves during the fit of the proxy.

A second figure shows how much of the value the length of the text alone explains.
"""

import json

import numpy as np
from jaxtyping import Float, Int

from xmas.features.clustering.kmeans import reduce_spectra
from xmas.results.evidence import Evidence
from xmas.results.report.svg import Scale, area, figure, frame, gridlines, line, percent, tag, track
from xmas.store.index import AbsentError, Config, Result, stages_in
from xmas.store.variance_explained import explained

_PANELS = 8  # clusters shown
_QUARTILES = (25, 50, 75)


def described(evidence: Evidence, kind: str) -> Config:
    """The configuration of a stage within the XMAS row's ranking, by the end of its type.

    Raises AbsentError: the ranking has no such stage.
    """
    for stage in stages_in(evidence.xmas().trainings[0].ranking):
        if stage["type"] == kind:
            return stage
    raise AbsentError(f"The XMAS ranking has no stage {kind}.")


def values(evidence: Evidence) -> tuple[Result, Float[np.ndarray, "rows steps"]]:
    """The trajectories' result, and one value a row and snapshot: the spectra as clustered, summed
    where every singular value was clustered on its own.

    Raises AbsentError: there is no XMAS run, or its trajectories are gone.
    """
    result = evidence.index.result(described(evidence, "Trajectories"), "trajectories")
    reduction = described(evidence, "Clusters").get("reduction", "sum")
    spectra = np.load(result.file("values.npy"), mmap_mode="r")
    return result, reduce_spectra(spectra, "sum" if reduction == "vector" else reduction)


def labels(evidence: Evidence) -> tuple[Int[np.ndarray, " rows"], int]:
    """The cluster of every row, and the number that means "no image"."""
    result = evidence.index.result(described(evidence, "Clusters"), "clusters")
    sizes = json.loads(result.file("sizes.json").read_text())  # k may be a rule, of the pool's rows
    return np.load(result.file("labels.npy")), len(sizes) - 1


def ribbons(evidence: Evidence) -> str:
    """Median and quartiles of some clusters over the fit."""
    result, row_values = values(evidence)
    steps = np.load(result.file("steps.npy"))
    of_row, no_image = labels(evidence)
    sizes = np.bincount(of_row, minlength=no_image + 1)[:no_image]
    nonempty = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    count = min(_PANELS, len(nonempty))
    panel_clusters = nonempty[np.linspace(0, len(nonempty) - 1, count).round().astype(int)]
    groups = {"all rows": np.flatnonzero(~np.isnan(row_values).any(axis=1))}
    groups |= {f"cluster {number}": np.flatnonzero(of_row == number) for number in panel_clusters}
    spread = {
        name: np.percentile(row_values[rows], _QUARTILES, axis=0) for name, rows in groups.items()
    }
    highest = max(float(quartiles.max()) for quartiles in spread.values())
    lowest = min(float(quartiles.min()) for quartiles in spread.values())
    scale = Scale.around([lowest, highest])
    x = Scale(float(steps[0]), float(max(steps[-1], steps[0] + 1)))
    panels = [
        _panel(name, len(groups[name]), quartiles, spread["all rows"][1], (x, steps), scale)
        for name, quartiles in spread.items()
    ]
    return figure(
        tag("div", *panels, class_="panels"),
        f"One value a row: its leading singular values of text-to-image attention, at {len(steps)} "
        f"snapshots from optimiser step {steps[0]:,} to {steps[-1]:,}. Line: median of the rows; "
        "band: the middle half; dashed: the median of all rows. Clusters run from the largest to "
        "the smallest. Tight bands that differ from panel to panel mean that the clusters hold "
        "rows of one kind.",
    )


def _panel(
    name: str,
    count: int,
    spread: Float[np.ndarray, "3 steps"],
    median: Float[np.ndarray, " steps"],
    across: tuple[Scale, Int[np.ndarray, " steps"]],
    scale: Scale,
) -> str:
    x, steps = across
    low, middle, high = (
        [(x(float(step)), scale(float(value))) for step, value in zip(steps, quartile, strict=True)]
        for quartile in spread
    )
    overall = [(x(float(s)), scale(float(v))) for s, v in zip(steps, median, strict=True)]
    own = name == "all rows"
    ribbon = frame(
        area(high, low, "band quiet" if own else "band"),
        "" if own else line(overall, "overall"),
        line(middle, "median quiet" if own else "median"),
    )
    rows = f"{count:,} row" + ("s" if count != 1 else "")
    title = tag("p", tag("b", name), f" {rows}", class_="panel-title")
    label = f"{name}: median from {spread[1][0]:.2f} to {spread[1][-1]:.2f}"
    ends = tag("span", f"step {steps[0]:,}") + tag("span", f"{steps[-1]:,}")
    strip = track(ribbon, gridlines(scale), height=104, label=label)
    return tag("div", title, strip, tag("p", ends, class_="ends"), class_="panel")


def text_lengths(evidence: Evidence, count: int) -> Int[np.ndarray, " rows"]:
    """Text tokens of every row for the proxy. Raises AbsentError: they are not in the store."""
    proxy = described(evidence, "Proxy")
    identity_fields = ("pool", "template", "max_length")
    for result in evidence.index.results.values():
        if result.kind == "tokens" and all(result.config[n] == proxy[n] for n in identity_fields):
            lengths = np.diff(np.load(result.file("offsets.npy")))
            if len(lengths) == count:
                return lengths
    raise AbsentError("No R² against text length: the tokens are no longer in the store.")


def length_curve(evidence: Evidence) -> str:
    """R² of the value against text length, a point a snapshot."""
    result, row_values = values(evidence)
    steps = np.load(result.file("steps.npy"))
    lengths = text_lengths(evidence, len(row_values))
    rows_with_values = np.flatnonzero(~np.isnan(row_values).any(axis=1))
    r2 = [
        explained(column, lengths[rows_with_values])
        for column in row_values[rows_with_values].T.astype(float)
    ]
    points = [
        (float(step), share) for step, share in zip(steps, r2, strict=True) if share is not None
    ]
    if not points:
        raise AbsentError("No R² against text length: all rows have the same length or value.")
    scale = Scale(0.0, 1.15)
    air = 0.05 * float(np.ptp(steps) or 1)
    x = Scale(float(steps[0]) - air, float(steps[-1]) + air)
    digits = 3 if max(share for _, share in points) >= 0.995 else 2
    marks = []
    for number, (step, share) in enumerate(points):
        across, up = percent(x(step)), percent(100 - scale(share))
        value = f"{share:.{digits}f}"
        when = f"step {step:,.0f}" if number == 0 else f"{step:,.0f}"
        marks += [
            tag("circle", cx=across, cy=up, r="4", class_="mean c-accent"),
            tag("text", value, x=across, y=up, dy="-9", text_anchor="middle", class_="said"),
            tag("text", when, x=across, y="100%", dy="14", text_anchor="middle", class_="tick"),
        ]
    curve = frame(line([(x(step), scale(share)) for step, share in points], "median"))
    ground = tag("line", x1="0", x2="100%", y1="100%", y2="100%", class_="grid")
    chart = track(
        ground,
        curve,
        *marks,
        height=150,
        label="R² of the attention value against text length, by optimiser step",
    )
    return figure(
        tag("div", chart, class_="curve"),
        "R² of the value against the number of text tokens (any function of it: what is left is "
        "how rows of neighbouring lengths differ), by optimiser step. Before the model has learnt "
        "anything its attention is almost uniform, and the singular values of a uniform matrix "
        "follow from its size: the value then is the length of the text and little else. What a "
        "trajectory says beyond length is what is "
        "missing to 1; the selector ",
        tag("b", "length"),
        " is the control for it.",
    )
