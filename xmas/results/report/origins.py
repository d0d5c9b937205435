"""Where the numbers come from: command, commit, versions, and every stage with its settings."""

import json
from collections.abc import Container, Iterator
from typing import Any

from xmas.data.held_out import HeldOutSplit
from xmas.data.valid_rows import ValidRows
from xmas.results.evidence import Evidence
from xmas.results.report.svg import joined, scrolled_table, tag, text
from xmas.store.index import Config, Result, key_of, stages_in

_OPEN = 60  # stages up to which the table is shown unfolded
_LATE = ("ranking", "subset", "target")  # kinds whose results differ from run to run


def origins(evidence: Evidence) -> str:
    results = _results(evidence)
    folded = len(results) > _OPEN
    listed = tag(
        "details",
        tag("summary", f"{len(results)} stages with their settings"),
        _stages(evidence, results),
        open=not folded,
    )
    return _facts(evidence, results) + listed


def command(evidence: Evidence) -> str:
    """What makes these scores again, as far as they say it themselves."""
    lines = evidence.subsets or list(evidence.lines)
    selectors = ",".join(dict.fromkeys(line.selector for line in lines))
    budgets = dict.fromkeys((line.row.budget, line.row.unit) for line in lines)
    seeds = ",".join(map(str, sorted({seed for line in lines for seed in line.row.seeds})))
    goal = " goal=scores" if evidence.leaderboard.benchmarks else ""
    parts = [f"xmas -m{goal}", f"selector={selectors}"]
    if fractions := [f"{budget:g}" for budget, _ in budgets if budget <= 1]:
        parts.append(f"subset.fraction={','.join(fractions)}")
    for unit in ("rows", "tokens"):
        if counts := [f"{budget:.0f}" for budget, own in budgets if budget > 1 and own == unit]:
            parts.append(f"subset.{unit}={','.join(counts)}")
    return " ".join([*parts, f"seed={seeds}"])


def _commands(evidence: Evidence) -> str:
    """The commands that made subsets and targets, as they were typed; of results that do not say
    it, what would make them, without pool and settings.
    """
    typed: dict[str, None] = {}
    for line in evidence.lines:
        for training in line.trainings:
            for stage in (training.subset, training.target):
                result = evidence.index.results.get(key_of(stage))
                if result is not None and "command" in result.meta:
                    typed[result.meta["command"]] = None
    if not typed:
        return tag("code", text(command(evidence))) + (
            " under the experiment that these came from; with all in the store it computes nothing"
        )
    codes = [tag("code", text(line)) for line in typed]
    where = f" in {evidence.store.root}; with all in the store they compute nothing"
    return joined(codes, tag("br")) + where


def _facts(evidence: Evidence, results: list[Result]) -> str:
    versions: dict[str, set[str]] = {}
    for result in results:
        for name, number in result.meta.get("versions", {}).items():
            versions.setdefault(name, set()).add(number)
    facts = {
        "command": _commands(evidence),
        "commit": _several(result.meta.get("commit") for result in results),
        "versions": ", ".join(
            f"{name} {' and '.join(sorted(numbers))}" for name, numbers in versions.items()
        ),
        "machine": _several(
            f"{result.meta.get('host')}, {result.meta.get('cpus')} CPUs" for result in results
        ),
        "protocol": _several(run.protocol for run in evidence.leaderboard.benchmarks.values()),
        "store": tag("code", text(evidence.store.root)),
        "pool": _pool(evidence),
    }
    if group := evidence.leaderboard.reference_group:
        facts["reference group"] = tag("code", text(group))
    parts = [tag("dt", name) + tag("dd", value) for name, value in facts.items() if value]
    return tag("dl", *parts, class_="facts")


def _pool(evidence: Evidence) -> str:
    """The name, the hash where the pool is a file or a dataset, and how many rows are not in it."""
    facts = [str(evidence.leaderboard.pool)]
    for kind in ("sha256", "shards", "dataset"):
        if digest := evidence.pool["pool"].get(kind):
            facts.append(joined([kind, tag("code", digest)], " "))
    for result in evidence.index.inside(evidence.pool).values():
        if result.kind == ValidRows.kind:
            skipped = json.loads(result.file("skipped.json").read_text())
            kinds = ", ".join(f"{kind}: {count:,}" for kind, count in skipped["kinds"].items())
            facts.append(f"{skipped['rows']:,} of {skipped['of']:,} rows were left out ({kinds})")
        if result.kind == HeldOutSplit.kind:
            rows = json.loads(result.file("split.json").read_text())["rows"]
            counts = {side: sum(of_side.values()) for side, of_side in rows.items()}
            facts.append(f"{counts['held_out']:,} rows held out, {counts['pool']:,} to choose from")
    return joined(facts, ", ")


def _several(values: Any) -> str:
    return text("; ".join(dict.fromkeys(str(value) for value in values if value is not None)))


def _results(evidence: Evidence) -> list[Result]:
    """The results that the leaderboard's trainings depend on, shared ones first."""
    results: dict[str, Result] = {}
    for line in evidence.lines:
        for training in line.trainings:
            results |= evidence.index.inside(training.target)
    for result in evidence.index.results.values():
        if result.kind in ("tokens", "vision") and result.config.get("pool") == evidence.pool:
            results[result.key] = result
    return sorted(results.values(), key=lambda result: _place(result.kind))


def _place(kind: str) -> int:
    return _LATE.index(kind) + 1 if kind in _LATE else 0


def _stages(evidence: Evidence, results: list[Result]) -> str:
    users: dict[str, dict[str, None]] = {}
    for line in evidence.lines:
        for training in line.trainings:
            for key in evidence.index.inside(training.target):
                users.setdefault(key, {})[line.selector] = None
    listed = {result.key for result in results}
    everyone = len({line.selector for line in evidence.lines})
    rows = []
    for result in results:
        of = users.get(result.key, {})
        rows.append(
            [
                text(result.kind),
                tag("code", result.key),
                "all" if len(of) in (0, everyone) else text(", ".join(of)),
                f"{result.seconds:,.1f}",
                tag("span", text(", ".join(_settings(result.config, listed))), class_="settings"),
            ]
        )
    return scrolled_table(["stage", "key", "for", "seconds", "settings"], rows, "stages")


def _settings(config: Config, listed: Container[str]) -> Iterator[str]:
    """A stage's own fields, those of the stages inside it left to their own lines, if listed."""
    inner = [
        stage for stage in stages_in(config) if stage is not config and key_of(stage) in listed
    ]

    def leaves(value: Any, path: str) -> Iterator[str]:
        if any(value is stage for stage in inner):
            return
        if isinstance(value, dict):
            for name, inside in value.items():
                if name not in ("type", "version", "pool"):
                    yield from leaves(inside, f"{path}.{name}" if path else name)
        elif isinstance(value, list):
            if value and not any(isinstance(element, dict | list) for element in value):
                yield f"{path}={','.join(map(_plain, value))}"
        elif value is not None:
            yield f"{path}={_plain(value)}"

    yield from leaves(config, "")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value) if value == "" else str(value)
