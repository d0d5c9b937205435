"""Elements of the page, and figures that keep their type size at every width.

A figure is drawn in per cent of its width: on a phone the bars get shorter and the letters do not.
Paths know no per cent, so they lie in an inner frame that stretches while its strokes do not.
Colour comes from classes, so that a figure follows the colour scheme and the printer.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from xmas.results.escaping import html_attribute, html_text

_VOID = ("br", "img", "meta")


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An HTML or SVG element. `class_` is `class`, other underscores are dashes, None is left out.

    Children that are no markup are text, and escaped here, as the values of attributes are.
    """
    parts = []
    for attribute, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = attribute.rstrip("_").replace("_", "-")
        written = f"{value:.6g}" if isinstance(value, float) else str(value)
        parts.append(attribute if value is True else f'{attribute}="{html_attribute(written)}"')
    opening = " ".join([name, *parts])
    return Markup(f"<{opening}>" if name in _VOID else f"<{opening}>{joined(children)}</{name}>")


def text(value: object) -> Markup:
    """Text as markup."""
    return html_text(value)


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """Markup and text, one after the other."""
    return Markup(text(between).join(map(text, parts)))


def percent(share: float) -> str:
    return f"{share:.2f}".rstrip("0").rstrip(".") + "%"


@dataclasses.dataclass(frozen=True)
class Scale:
    """From values to per cent of a length; `low` is at 0 %, `high` at 100 %."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 5) -> list[float]:
        """At most `most` round values inside, at 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 10) for number in range(first, last + 1)]

    @classmethod
    def around(cls, values: Sequence[float], margin: float = 0.08) -> "Scale":
        """A scale that contains all values with a margin; one unit wide where all are the same."""
        low, high = min(values), max(values)
        air = (high - low) * margin or 0.5
        return cls(low - air, high + air)


def track(*marks: str, height: int, label: str) -> Markup:
    """A strip as wide as its place; `label` is what a screen reader says."""
    return tag(
        "svg", *marks, class_="track", width="100%", height=height, role="img", aria_label=label
    )


def vertical(at: float, class_: str) -> Markup:
    """A line from top to bottom at a per cent of the width."""
    return tag("line", x1=percent(at), x2=percent(at), y1="0", y2="100%", class_=class_)


def axis(scale: Scale, form: str = "{:g}", *, most: int = 5) -> Markup:
    """The numbers under tracks that share a scale."""
    words = []
    for tick in scale.ticks(most):
        at = scale(tick)
        anchor = "start" if at < 4 else "end" if at > 96 else "middle"
        words.append(
            tag("text", form.format(tick), x=percent(at), y="13", text_anchor=anchor, class_="tick")
        )
    return track(*words, height=18, label="axis")


def frame(*paths: str) -> Markup:
    """The inner frame for paths: 100 units wide and high, from the top left, stretched to fit."""
    return tag(
        "svg",
        *paths,
        viewBox="0 0 100 100",
        preserveAspectRatio="none",
        width="100%",
        height="100%",
    )


def line(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through (x, y) in per cent of the frame, y upwards."""
    steps = " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in points)
    return tag("polyline", points=steps, class_=class_, vector_effect="non-scaling-stroke")


def area(
    upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], class_: str
) -> Markup:
    """The area between two lines in per cent of the frame, y upwards."""
    steps = " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in [*upper, *reversed(lower)])
    return tag("polygon", points=steps, class_=class_)


def gridlines(scale: Scale, *, right: bool = False) -> Markup:
    """Horizontal lines with their values on them; drawn last, to stay readable."""
    x, anchor = ("100%", "end") if right else ("0", "start")
    marks = []
    for tick in scale.ticks(3):
        y = percent(100 - scale(tick))
        marks.append(tag("line", x1="0", x2="100%", y1=y, y2=y, class_="grid"))
        marks.append(
            tag("text", f"{tick:g}", x=x, y=y, dy="-3", text_anchor=anchor, class_="tick haloed")
        )
    return joined(marks)


def figure(body: str, *caption: str) -> Markup:
    return tag("figure", body, tag("figcaption", *caption))


def scrolled_table(head: Sequence[str], rows: Sequence[Sequence[str]], class_: str = "") -> Markup:
    """A table of markup cells, in a container that scrolls sideways; names come first.

    On a phone a row is a list, where each cell shows the heading of its column.
    """
    headings = [Markup(cell).striptags() for cell in head]
    lines = [
        tag(
            "tr",
            tag("th", cells[0], scope="row"),
            *(
                tag("td", cell, data_head=heading)
                for cell, heading in zip(cells[1:], headings[1:], strict=True)
            ),
        )
        for cells in rows
    ]
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    return tag(
        "div", tag("table", top, tag("tbody", *lines), class_=class_ or None), class_="scroll"
    )
