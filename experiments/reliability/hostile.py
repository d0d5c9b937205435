"""Hostile input by the thousand: targets, images and their names, texts, replies of a judge.

Every part has an oracle that does not use the code it tests. Deterministic for a seed, except that
each part ends when its share of the seconds is over:

    python experiments/reliability/hostile.py [--seconds 60] [--seed 0]
"""

import argparse
import csv
import dataclasses
import html.parser
import importlib
import io
import itertools
import json
import os
import pkgutil
import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

import xmas
from xmas.cli.config_error import ConfigError
from xmas.cli.targets import check_names, class_of
from xmas.data.images.bounds import FORMATS
from xmas.data.images.files import image_size, open_image
from xmas.data.images.paths import ImageError, path_below
from xmas.evaluation.endpoint import responses
from xmas.results.escaping import csv_text, latex_text, markdown_text
from xmas.results.report.svg import tag
from xmas.store.printable import one_line

PIECES = [
    *(
        "<script>",
        "</p>",
        "<",
        ">",
        "&",
        "&#60;",
        '"',
        "'",
        "|",
        "\\|",
        "\\",
        "`",
        "](",
        "][",
        "]:",
    ),
    *("[", "![", "=", "+1", "-", "@", "\t", "\n", "\r\n", "\x1b[2J", "\x00", "\u202e", "\u2028"),
    *(
        "\ud83d",
        "{",
        "}",
        "$",
        "%",
        "#",
        "_",
        "^^5c",
        "]:",
        "\\input{x}",
        "*",
        "a",
        "数",
        "🎨",
        " ",
    ),
]
COMMANDS = ("textbackslash", "textasciitilde", "textasciicircum", "pm", "textsuperscript")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]")


def names(step: int) -> Iterator[str]:
    """Every attribute of every `step`th module of xmas, and what those have in turn."""
    modules = pkgutil.walk_packages(xmas.__path__, "xmas.")
    for module in itertools.islice(modules, 0, None, step):
        if module.name.endswith("__main__"):
            continue
        for name, value in list(vars(importlib.import_module(module.name)).items()):
            yield f"{module.name}.{name}"
            for inner in dir(value):
                yield f"{module.name}.{name}.{inner}"


def of_targets(seconds: float, rng: random.Random) -> str:
    """Only dataclasses that xmas defines are built; nothing else is even imported."""
    accepted, refused = 0, 0
    everything = list(names(step=1 if seconds > 1 else 29))
    rng.shuffle(everything)
    until = time.monotonic() + seconds
    for name in everything:
        if time.monotonic() > until:
            break
        try:
            check_names({"_target_": name}, ())
            target = class_of(name, frozenset())
        except ConfigError:
            refused += 1
            continue
        assert dataclasses.is_dataclass(target), name
        assert target.__module__.startswith("xmas."), name
        accepted += 1
    outside = 0
    for module in sorted(sys.stdlib_module_names):
        for name in ("system", "run", "open", "loads"):
            try:
                check_names([{"x": {"_target_": f"{module}.{name}"}}], ())
            except ConfigError:
                outside += 1
            else:
                raise AssertionError(f"{module}.{name} passes")
    return (
        f"{accepted + refused:,} of {len(everything):,} names below xmas: {accepted:,} dataclasses "
        f"built, {refused:,} refused; {outside:,} names of Python's modules refused"
    )


def of_images(seconds: float, rng: random.Random) -> str:
    """Damaged and blown-up files are read, or refused with the file's name."""
    whole = []
    Image.init()
    for name in (name for name in FORMATS if name in Image.SAVE):  # no AVIF before Pillow 11.3
        file = io.BytesIO()
        Image.effect_noise((40, 30), 60).convert("RGB").save(file, name)
        whole.append(file.getvalue())
    read, refused, files = 0, 0, 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        content = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(content))
            match rng.randrange(4):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    content[at : at + 4] = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)])
                case 2:
                    del content[at:]
                    content += bytes(1)
                case 3:
                    content[at:at] = rng.randbytes(rng.randrange(30))
        files += 1
        for reader in (open_image, image_size):
            try:
                reader(bytes(content), 1_000_000)
                read += 1
            except ImageError as error:
                refused += "; " in str(error)  # every refusal has its remedy
    assert read + refused == 2 * files
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return f"{read + refused:,} readings of damaged images: {refused:,} refused; peak {peak:.1f} GB"


def of_paths(seconds: float, rng: random.Random) -> str:
    """A name leads below the folder as the operating system sees it, or is refused."""
    inside, outside = 0, 0
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "up").symlink_to("..")
        (folder / "a" / "root").symlink_to("/")
        (folder / "a" / "same").symlink_to("../a")
        (folder / "x.png").symlink_to("a/b")
        parts = ["..", ".", "a", "b", "up", "root", "same", "x.png", "", "etc", "images", place]
        while time.monotonic() < until:
            name = "/".join(rng.choices(parts, k=rng.randint(1, 6)))
            try:
                path = path_below(folder, name, remedy="none")
            except ImageError:
                outside += 1
                continue
            assert os.path.realpath(path).startswith(f"{os.path.realpath(folder)}/"), name
            inside += 1
    return f"{inside + outside:,} image names: {outside:,} refused"


class Tags(html.parser.HTMLParser):
    """The elements and the text of some markup."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.shown = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        assert [name for name, _ in attrs] == ["title"]

    def handle_data(self, data: str) -> None:
        self.shown += data


def of_texts(seconds: float, rng: random.Random) -> str:
    """Random text is text in HTML, Markdown, LaTeX and CSV, and a line in a log."""
    count = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 12)))
        parsed = Tags(tag("p", text, title=text))
        assert parsed.tags == ["p"], text
        line = one_line(text)
        assert not _CONTROL.search(line + parsed.shown), text
        assert "\n" not in line, text
        cell = markdown_text(text)
        assert not set("|<\n") & set(cell), text
        assert not re.search(r"(?<!\\)\]\(", cell), text
        latex = latex_text(text)
        assert set(re.findall(r"\\([A-Za-z]+)", latex)) <= set(COMMANDS), text
        assert not re.search(r"(?<!\\)[&%$#_]", latex.replace(r"$\pm$", "")), text
        assert not latex.startswith(("[", "*")), text
        written = io.StringIO()
        csv.writer(written).writerow([csv_text(text), 1])
        ((first, _),) = csv.reader(io.StringIO(written.getvalue()))
        assert not first.lstrip().startswith(("=", "+", "-", "@")), text
        count += 1
    return f"{count:,} texts in five formats"


def of_replies(seconds: float, rng: random.Random) -> str:
    """Any JSON from a judge is a reply that can be written, or is asked for again; no key stays."""
    key = "sk-secret-0123456789"
    read, again = 0, 0

    def value(depth: int) -> object:
        kinds: list[Callable[[], object]] = [
            lambda: rng.choice([None, True, 7, -1.5, 10**30, float("nan"), ""]),
            lambda: "".join(rng.choices([*PIECES, key, "8 9\n"], k=rng.randint(0, 6))),
            lambda: [value(depth - 1) for _ in range(rng.randint(0, 2))],
            lambda: {
                name: value(depth - 1)
                for name in ("choices", "message", "content", "model", "finish_reason")
                if rng.random() < 0.7
            },
        ]
        return rng.choice(kinds if depth > 0 else kinds[:2])()

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        message = {"content": value(2)} if rng.random() < 0.8 else value(2)
        choices = [{"message": message, "finish_reason": value(1)}]
        body = {"model": value(1), "choices": choices if rng.random() < 0.9 else value(2)}
        text = json.dumps(body)
        try:
            reply = responses.completion_of(text, key)
            written = json.dumps(dataclasses.asdict(reply), ensure_ascii=False)
            written.encode()
            read += 1
        except responses.TransientError as error:
            written = str(error)
            again += 1
        assert key not in written, text
    return f"{read + again:,} replies: {read:,} read, {again:,} asked for again"


PARTS = (of_targets, of_images, of_paths, of_texts, of_replies)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--tiny", action="store_true", help="0.1 s, to see that it runs")
    chosen = options.parse_args()
    if chosen.tiny:
        chosen.seconds = 0.1
    for part in PARTS:
        print(part(chosen.seconds / len(PARTS), random.Random(chosen.seed)), flush=True)


if __name__ == "__main__":
    main()
