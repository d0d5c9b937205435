"""What a store contains, as text: `xmas goal=results`."""

import dataclasses
import time
from collections.abc import Sequence

from xmas.results.contents import Contents, Entry, contents
from xmas.results.listing import columns, listed, size_text, time_text, total
from xmas.store import Store, by_name
from xmas.store.force import kinds_of
from xmas.store.nearest import nearest, suggestion


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What `goal=results` makes: a list of the finished results, then of what is unfinished.

    >>> from xmas import Store
    >>> print(Inventory().make(Store("no-such-folder")))
    no-such-folder: no results
    """

    kind: str | Sequence[str] | None = None  # only these kinds
    match: str | None = None  # only results whose label or key contains this text

    def make(self, store: Store) -> str:
        """The list; results made before links existed get theirs.

        Raises ValueError: `kind` names none that the store or its drafts have.
        """
        folders = contents(store)
        self._check({entry.kind for entry in [*folders.results, *folders.drafts]})
        for entry in folders.results:
            by_name.link(entry.folder, entry.label)
        results = [entry for entry in folders.results if self._chosen(entry)]
        drafts = [entry for entry in folders.drafts if self._chosen(entry)]
        lines = [f"{store.root}: no results{self._filter()}"]
        if results:
            lines = [*listed(results), "", f"{store.root}: {total(results)}{self._filter()}"]
            lines += _by_kind(results)
        if drafts:
            lines += ["", _unfinished(drafts), *_drafts(drafts)]
        return "\n".join([*lines, *_leftovers(folders)])

    def _chosen(self, entry: Entry) -> bool:
        kinds = (self.kind,) if isinstance(self.kind, str) else self.kind
        text = f"{entry.label} {entry.key}"
        return (kinds is None or entry.kind in kinds) and (self.match is None or self.match in text)

    def _check(self, kinds: set[str]) -> None:
        """A kind that the store lacks is an empty list, but a misspelt one is an error."""
        for kind in kinds_of(self.kind):
            if kind not in kinds and nearest(kind, kinds):
                raise ValueError(
                    f"results.kind={kind}: the store has none{suggestion(kind, sorted(kinds))}"
                )

    def _filter(self) -> str:
        kinds = self.kind if isinstance(self.kind, str | None) else " or ".join(self.kind)
        parts = [] if kinds is None else [f"of kind {kinds}"]
        parts += [] if self.match is None else [f"with {self.match!r}"]
        return f" {' '.join(parts)}" if parts else ""


def _by_kind(results: Sequence[Entry]) -> list[str]:
    """A line a kind, the largest first, where there are several."""
    kinds: dict[str, list[Entry]] = {}
    for entry in results:
        kinds.setdefault(entry.kind, []).append(entry)
    if len(kinds) < 2:
        return []
    ordered = sorted(kinds.items(), key=lambda pair: -sum(entry.bytes for entry in pair[1]))
    return columns([(f"  {kind}", total(members)) for kind, members in ordered])


def _unfinished(drafts: Sequence[Entry]) -> str:
    """The heading of the drafts; with an error, the same command would end in it again."""
    failed = any(draft.error and not draft.running for draft in drafts)
    after = ", after its error is fixed" if failed else ""
    return f"Unfinished; the command that began one continues it{after}:"


def _drafts(drafts: Sequence[Entry]) -> list[str]:
    now = time.time()
    rows = [("kind", "key", "to be made from", "size", "last written", "")]
    rows += [
        (
            entry.kind,
            entry.key,
            entry.label or "not recorded",
            size_text(entry.bytes),
            f"{time_text(max(0.0, now - entry.changed))} ago",
            "running now" if entry.running else entry.error or "stopped without an error",
        )
        for entry in drafts
    ]
    return columns(rows, right=(3, 4))


def _leftovers(folders: Contents) -> list[str]:
    lines = []
    if folders.leftovers:
        lines += ["", "Left over from an interrupted replacement or removal; goal=clean removes:"]
        lines += [str(folder) for folder in folders.leftovers]
    if folders.unreadable:
        lines += ["", "Not readable as results, and left alone:"]
        lines += [f"{folder}: {why}" for folder, why in folders.unreadable.items()]
    return lines
