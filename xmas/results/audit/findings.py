"""The findings of an audit in words, for the command line."""

from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN = 4  # sources whose shares change most


def findings(record: Mapping[str, Any]) -> list[str]:
    """A line for every part of an `audit.json`, the subset compared with its pool."""
    return [
        _rows(record),
        _sources(record["sources"]),
        _answers(record["formats"]),
        _lengths(record),
        _duplicates(record),
        *_clusters(record),
        *_benchmarks(record),
        *_overlap(record),
    ]


def _rows(record: Mapping[str, Any]) -> str:
    count, of = record["rows"]["subset"], record["rows"]["pool"]
    sources = record["sources"]
    return (
        f"{record['selector']}: {count:,} of {of:,} rows ({100 * count / of:.3g} %), "
        f"{len(sources['subset'])} of {len(sources['pool'])} sources"
    )


def _sources(sources: Mapping[str, Mapping[str, int]]) -> str:
    shares = {
        name: (_share(sources["pool"], name), _share(sources["subset"], name))
        for name in sources["pool"]
    }
    changed = sorted(shares, key=lambda name: -abs(shares[name][1] - shares[name][0]))[:_SHOWN]
    texts = [f"{name} {shares[name][1]:.1f} % (pool {shares[name][0]:.1f} %)" for name in changed]
    return f"sources that change most: {', '.join(texts)}"


def _answers(formats: Mapping[str, Mapping[str, int]]) -> str:
    texts = [
        f"{name.replace('_', '/')} {_share(formats['subset'], name):.0f} % "
        f"(pool {_share(formats['pool'], name):.0f} %)"
        for name in formats["pool"]
        if formats["pool"][name]
    ]
    return f"answers: {', '.join(texts)}"


def _lengths(record: Mapping[str, Any]) -> str:
    pool, subset = record["lengths"]["pool"], record["lengths"]["subset"]
    return (
        f"{record['length_unit']} of a row: median {subset['q50']:,.0f} (pool {pool['q50']:,.0f}), "
        f"95 % up to {subset['q95']:,.0f} ({pool['q95']:,.0f}); "
        f"{100 * record['length_kept']:.1f} % of the pool's are kept"
    )


def _duplicates(record: Mapping[str, Any]) -> str:
    repeated, rows = record["duplicates"], record["rows"]
    texts = [
        f"{kind} {repeated['subset'][kind]:,} rows, "
        f"{100 * repeated['subset'][kind] / max(rows['subset'], 1):.1f} % "
        f"(pool {100 * repeated['pool'][kind] / max(rows['pool'], 1):.1f} %)"
        for kind in ("exact", "near")
    ]
    return f"repeat an earlier row: {', '.join(texts)}"


def _clusters(record: Mapping[str, Any]) -> Iterator[str]:
    if clusters := record.get("clusters"):
        yield (
            f"clusters: {clusters['covered']:,} of {clusters['clusters']:,} have a row in the "
            f"subset, which keeps {100 * clusters['least_kept']:.0f} to "
            f"{100 * clusters['most_kept']:.0f} % of one"
        )
    if (explained := record.get("score_explained_by_length")) is not None:
        yield f"the score: text length alone explains {100 * explained:.0f} % of its variance"


def _benchmarks(record: Mapping[str, Any]) -> Iterator[str]:
    shown = [
        f"{name} {counts['same']['subset']:,} the same, {counts['near']['subset']:,} nearly"
        for name, counts in record.get("benchmarks", {}).items()
    ]
    if shown:
        yield f"rows with an image of a benchmark: {'; '.join(shown)}"


def _overlap(record: Mapping[str, Any]) -> Iterator[str]:
    if overlap := record.get("overlap"):
        yield (
            f"in common with audit.against: {overlap['rows']:,} rows, Jaccard similarity "
            f"{overlap['jaccard']:.2f} ({overlap['jaccard_at_random']:.2f} at random)"
        )


def _share(counts: Mapping[str, int], name: str) -> float:
    return 100 * counts.get(name, 0) / max(sum(counts.values()), 1)
