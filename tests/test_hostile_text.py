"""Hostile text in every field that a page, a table or a log shows stays text.

A store in which names, versions, sources, conversations, settings and reasons are markup, formulas,
commands of LaTeX and escape sequences. The page is read by a parser here, and by a browser where
there is one.
"""

import csv
import html.parser
import io
import itertools
import json
import logging
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_report import Quiz, put
from toy import Toy, build

from xmas.cli.hydra_guard import check
from xmas.evaluation.generation.settings import Generation
from xmas.evaluation.reference import group_of
from xmas.evaluation.scores import Score
from xmas.models.chat.template import Template
from xmas.results.escaping import csv_text, latex_text, markdown_text
from xmas.results.logger.csv import Csv
from xmas.results.report import Report
from xmas.results.report.page import _POLICY
from xmas.results.report.svg import joined, tag
from xmas.results.table import Table
from xmas.selection.methods.full import Full
from xmas.selection.methods.random import Random
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import key
from xmas.store.label import file_name
from xmas.store.printable import Formatter, one_line, plain, printable

RUNS = "document.title='ran'"
OUTSIDE = {"javascript:", "http://evil"}
TAGS = set(
    "html head meta title style body main header section article nav h1 h2 h3 h4 p a b small span "
    "code ul li dl dt dd div figure figcaption table thead tbody tr th td details summary img svg "
    "rect line circle polyline polygon text".split()
)
SHOWN = (  # in the page, by the names that the texts below have
    *("pool", "group", "selector", "benchmark", "protocol", "split", "metric", "invalid"),
    *("version", "number", "commit", "host", "source", "question", "answer", "system"),
)


def hostile(name: str) -> str:
    """What is tried in a field; `name` says which one it was."""
    return (
        f"=HYPERLINK(1)|{name}\"'><script>{RUNS}</script><img src=x onerror={RUNS}>"
        f"</style></title><svg onload={RUNS}>[x](javascript:{RUNS})![y](http://evil/z.png)\n"
        f"| a | b |\r\n\\input{{/etc/passwd}}\\write18{{id}}\x1b]0;own\x07\x1b[2J\x00\x08\u202e&lt;"
        f"\u2028\ud83d%&_#$^~"
    )


def filled(folder: Path) -> Toy:
    """A reference and two seeds of a random subset, with hostile text in all their fields."""
    toy = build(folder)
    records = json.loads((folder / "pool.json").read_text())
    for number, record in enumerate(records):
        record["source"] = hostile("source").replace("\ud83d", "") if number % 3 else "plain"
        for turn in record["conversations"]:
            mark = hostile("question" if turn["from"] == "human" else "answer")
            turn["value"] += mark.replace("\ud83d", "")
    (folder / "pool.json").write_text(json.dumps(records))
    put(toy.store, toy.start)
    template = Template(system=hostile("system").replace("\ud83d", ""))
    for selector, fraction, seed, role, value in (
        (Full(), 1.0, 0, "reference", 50.0),
        (Random(), 0.5, 0, "subset", 40.0),
        (Random(), 0.5, 1, "subset", 45.0),
    ):
        subset = Subset(Ranking(toy.pool, selector, seed), fraction)
        target = toy.target(subset, seed=seed, recipe=toy.proxy.recipe)
        target = type(target)(**{**vars(target), "template": template})
        put(toy.store, target, seconds=30)
        for benchmark, score in ((hostile("benchmark"), value), ("other", value if seed else None)):
            stage = Score(Quiz(hostile("quiz").replace("\ud83d", "") + benchmark[:9]), target,
                          Generation())  # fmt: skip
            place = put(toy.store, stage)
            run = {
                "selector": hostile("selector"), "budget": fraction, "seed": seed, "role": role,
                "rows": len(subset.chosen(toy.store)), "pool": hostile("pool"), "control": "none",
                "target": key(target), "reference_group": hostile("group") + group_of(target),
                "protocol": hostile("protocol"),
            }  # fmt: skip
            if role == "reference":
                run["selector"] = "full"
            detail = {} if score is not None else {"invalid": hostile("invalid")}
            record = {"benchmark": benchmark, "split": hostile("split"), "num": 30, "score": score,
                      "metric": hostile("metric"), "detail": detail}  # fmt: skip
            (place / "run.json").write_text(json.dumps(run))
            (place / "score.json").write_text(json.dumps(record))
    for meta in (folder / "store").glob("*/*/meta.json"):
        record = json.loads(meta.read_text())
        if "files" in record:  # sealed: made by the store
            continue
        record["versions"] = {hostile("version"): hostile("number")}
        record |= {"commit": hostile("commit"), "host": hostile("host")}
        meta.write_text(json.dumps(record))
    return toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Toy:
    return filled(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def page(toy) -> str:
    return Path(Report(toy.pool).make(toy.store)).read_text(encoding="utf-8")


class Parsed(html.parser.HTMLParser):
    """Elements with their attributes, and the text that is shown."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data


def test_the_page_shows_it_all_as_text(page):
    parsed = Parsed(page)
    assert len(parsed.elements) > 200
    assert {name for name, _ in parsed.elements} <= TAGS
    for name, attributes in parsed.elements:
        assert not [attribute for attribute in attributes if attribute.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
        if name == "img":
            assert (attributes["src"] or "").startswith("data:image/")
    absent = [name for name in SHOWN if f"=HYPERLINK(1)|{name}" not in parsed.text]
    assert absent == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud83d]", page)


def test_the_page_forbids_what_it_does_not_have(page):
    policies = [
        attributes["content"]
        for name, attributes in Parsed(page).elements
        if name == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [_POLICY]
    assert "script" not in _POLICY
    assert "default-src 'none'" in _POLICY


def test_what_is_no_markup_is_escaped_wherever_it_is_put():
    assert tag("p", "<b>", tag("i", "a & b"), title='"<>') == (
        '<p title="&quot;&lt;&gt;">&lt;b&gt;<i>a &amp; b</i></p>'
    )
    assert joined([tag("b"), "<b>"], "<") == "<b></b>&lt;&lt;b&gt;"
    assert tag("p", f"{tag('b', '<')}") == "<p>&lt;b&gt;&amp;lt;&lt;/b&gt;</p>"  # visibly wrong


@pytest.fixture(scope="module")
def tables(toy) -> dict[str, str]:
    table = Table()
    table.make(toy.store)
    texts = {path.suffix: path.read_text(encoding="utf-8") for path in table.files(toy.store)}
    assert all("HYPERLINK(1)" in text for text in texts.values())
    return texts


def test_every_row_of_the_markdown_has_its_cells(tables):
    lines = [line for line in tables[".md"].splitlines() if line]
    assert {line[:2] for line in lines} == {"| ", "- ", "##"}
    widths = {line.count("|") for line in lines if line.startswith("| ")}
    heads = [line for before, line in itertools.pairwise(lines) if before[:2] == "##"]
    assert widths == {line.count("|") for line in heads}
    assert "<" not in tables[".md"]
    assert not re.search(r"(?<!\\)\]\(", tables[".md"])
    assert not re.search(r"!\[[^]]*\]\(", tables[".md"].replace("\\](", ""))


def test_no_command_of_latex_comes_from_a_name(tables):
    text = tables[".tex"]
    own = {r"\begin", r"\end", r"\toprule", r"\midrule", r"\bottomrule", r"\textbackslash",
           r"\textasciitilde", r"\textasciicircum", r"\pm", r"\textsuperscript"}  # fmt: skip
    code = [re.sub(r"(?<!\\)%.*", "", line) for line in text.splitlines()]
    assert set(re.findall(r"\\[A-Za-z]+", "\n".join(code))) <= own
    assert not [line for line in code if line.lstrip().startswith(("[", "*"))]
    rows = [line for line in code if line.endswith(r"\\")]
    assert len(rows) > 4
    head = {len(re.findall(r"(?<!\\)&", line)) for line in rows}
    assert head <= {len(re.findall("[lr]", spec)) - 1 for spec in re.findall(r"{(lr+)}", text)}


def test_no_cell_of_the_csv_is_a_formula(tables):
    rows = list(csv.reader(io.StringIO(tables[".csv"])))
    assert len({len(row) for row in rows}) == 1
    cells = [cell for row in rows for cell in row if cell[:1] in set("=+-@\t\r")]
    assert all(isinstance(float(cell), float) for cell in cells)
    assert any(cell.startswith("'=HYPERLINK(1)|pool") for row in rows for cell in row)


@pytest.mark.parametrize("suffix", [".md", ".tex", ".csv"])
def test_tables_have_no_controls(tables, suffix):
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud83d]", tables[suffix])


def test_cells_that_begin_as_formulas_options_or_links():
    assert [csv_text(text) for text in ("=1", "+1", "-1", "@a", " =1", "\t=1", "a=1", "")] == [
        "'=1", "'+1", "'-1", "'@a", "' =1", "' =1", "a=1", ""
    ]  # fmt: skip
    assert [latex_text(text) for text in ("[1]", "*", "a[1]", "\\\\")] == [
        "{[}1]", "{*}", "a[1]", r"\textbackslash{}\textbackslash{}"
    ]  # fmt: skip
    assert markdown_text("[a](b) [a][b] [a]: b") == r"[a\](b) [a\][b] [a\]: b"
    assert markdown_text("xmas [k=5, rate=0.1]") == "xmas [k=5, rate=0.1]"


def test_what_a_terminal_would_obey_is_replaced():
    text = printable(hostile("name"))
    assert "\x1b" not in text
    assert text.count("\n") == 2  # lines stay
    assert one_line(hostile("name")).count("\n") == 0
    assert printable("tab\tumlaut ä, 数 🎨\n") == "tab\tumlaut ä, 数 🎨\n"
    assert plain({hostile("a"): [hostile("b"), 3, None]}) == {
        one_line(hostile("a")): [one_line(hostile("b")), 3, None]
    }
    one_line(hostile("name")).encode()


def test_a_line_of_the_log_stays_one_line(compose):
    """Its arguments are names; line ends of the message itself are meant."""
    config = compose(hydra_node=True).hydra.job_logging.formatters.plain
    assert config["class"] == "xmas.store.printable.Formatter"
    check(compose(hydra_node=True).hydra, frozenset())
    record = logging.LogRecord(
        "xmas", logging.INFO, "x.py", 1, "%s has %d rows of %.1f\n%s",
        ("a\n12:00:00 b", np.int64(3), 0.25, ValueError("c\x1b[2J\nd")), None,
    )  # fmt: skip
    lines = Formatter("%(levelname)s %(message)s").format(record).splitlines()
    assert lines == ["INFO a 12:00:00 b has 3 rows of 0.2", "c\N{REPLACEMENT CHARACTER}[2J d"]
    assert record.args[0] == "a\n12:00:00 b"  # for other handlers


def test_the_command_prints_no_controls(server, toy, tmp_path):
    ended = server.command("goal=table", f"store.root={toy.store.root}", cwd=tmp_path)
    assert ended.returncode == 0
    assert "HYPERLINK(1)" in ended.stdout
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", ended.stdout + ended.stderr)
    escape = "pool.annotations='x\x1b[2J'"
    wrong = server.command("pool=files", escape, "pool.images=.", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "\x1b" not in wrong.stderr


def test_a_name_of_a_file_is_one_name():
    for text in (hostile("name"), "../../etc/passwd", "/etc/passwd", "..", ".", "a\x00b", "-rf"):
        name = file_name(text)
        assert "/" not in name
        assert not name.startswith((".", "-"))
        assert re.search("[\x00-\x1f\x7f\u202e]", name) is None


def test_loggers_take_it(toy, tmp_path):
    logger = Csv(str(tmp_path))
    for result in (toy.folder / "store").glob("ranking/[!.]*"):
        logger.enter(result)
    logger.enter_page("report", Report(toy.pool).files(toy.store))
    assert list(tmp_path.rglob("summary.json"))


needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


def opened(path: Path, profile: Path) -> str:
    """The page as it is after its scripts have run, if it has any."""
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync dump-dom"
    flags += " disable-background-networking disable-component-update virtual-time-budget=3000"
    command = ["chromium", *(f"--{flag}" for flag in flags.split()), f"--user-data-dir={profile}"]
    ended = subprocess.run([*command, f"file://{path}"], check=True, capture_output=True,
                           timeout=120)  # fmt: skip
    return ended.stdout.decode()


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("with_policy", [True, False])
def test_a_browser_runs_none_of_it(page, tmp_path, with_policy):
    """Escaping alone holds as well, without the page's own policy."""
    path = tmp_path / "report.html"
    shown = page if with_policy else re.sub("<meta http-equiv=[^>]*>", "", page)
    assert ("Content-Security-Policy" in shown) == with_policy
    path.write_text(shown, encoding="utf-8")
    drawn = opened(path, tmp_path / "profile")
    title = re.search("<title>(.*?)</title>", drawn, re.DOTALL)
    assert title is not None
    assert title[1].startswith("xmas: =HYPERLINK(1)|pool")
    elements = Parsed(drawn).elements
    assert {name for name, _ in elements} <= TAGS
    assert not [name for _, of in elements for name in of if name.startswith("on")]


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("with_policy", [True, False])
def test_that_test_can_fail(tmp_path, with_policy):
    """A script that is not escaped runs, but not under the page's policy."""
    path = tmp_path / "page.html"
    policy = tag("meta", http_equiv="Content-Security-Policy", content=_POLICY)
    head = f"<title>xmas</title>{policy if with_policy else ''}"
    path.write_text(f"<html><head>{head}</head><body><script>{RUNS}</script></body></html>")
    assert ("<title>ran</title>" in opened(path, tmp_path / "profile")) != with_policy
