"""Readable names for results: links in `<kind>/by-name/`, next to the folders named by their keys.

The links are for people alone: nothing in the package follows them, and a store without them, on a
file system that has no symbolic links, is as good.
"""

import logging
from pathlib import Path

from xmas.store.label import file_name

log = logging.getLogger(__name__)

LINKS = "by-name"


def link(folder: Path, text: str) -> None:
    """Link `by-name/<text as a file's name>` to the result in `folder`.

    Where another result has the name already, the key is appended. Links stay as they are when they
    lead to `folder`, so that many processes may call this at once.
    """
    links = folder.parent / LINKS
    target = Path("..") / folder.name  # relative: the store can be moved
    name = file_name(text)
    try:
        links.mkdir(exist_ok=True)
        for place in [links / name, links / f"{name}-{folder.name}"] if name else []:
            if place.is_symlink() and not place.exists():
                place.unlink(missing_ok=True)  # its result was removed
            try:
                place.symlink_to(target, target_is_directory=True)
            except FileExistsError:
                if not place.is_symlink() or place.readlink() != target:
                    continue
            return
    except OSError as error:
        log.debug("%s: no link %s: %s", folder, name, error)


def unlink_removed(kind: Path) -> None:
    """Remove the links of a kind that lead to results which are no longer there."""
    links = kind / LINKS
    for place in sorted(links.glob("*")) if links.is_dir() else []:
        if place.is_symlink() and not place.exists():
            place.unlink(missing_ok=True)
