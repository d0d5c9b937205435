"""Readable names for results: `by-name/<kind>/` has links to the folders that are named by keys.

The links are for people alone: nothing in the package follows them, and a store without them, on a
file system that has no symbolic links, is as good. They have a folder to themselves, so that every
folder of `<kind>/` without a dot is a finished result.
"""

import logging
from pathlib import Path

from xmas.store.label import file_name

log = logging.getLogger(__name__)

LINKS = "by-name"


def link(folder: Path, text: str) -> None:
    """Link `by-name/<kind>/<text as a file's name>` to the result in `folder`.

    Where another result has the name already, the key is appended. Links stay as they are when they
    lead to `folder`, so that many processes may call this at once.
    """
    links = links_of(folder.parent)
    target = Path("../..") / folder.parent.name / folder.name  # relative: the store can be moved
    name = file_name(text)
    try:
        links.mkdir(parents=True, exist_ok=True)
        for path in [links / name, links / f"{name}-{folder.name}"] if name else []:
            if path.is_symlink() and not path.exists():
                path.unlink(missing_ok=True)  # its result was removed
            try:
                path.symlink_to(target, target_is_directory=True)
            except FileExistsError:
                if not path.is_symlink() or path.readlink() != target:
                    continue
            return
    except OSError as error:
        log.debug("%s: no link %s: %s", folder, name, error)


def links_of(kind: Path) -> Path:
    """The folder of the links to the results in the folder `kind`."""
    return kind.parent / LINKS / kind.name


def unlink_removed(kind: Path) -> None:
    """Remove the links to results of the folder `kind` that are no longer there."""
    links = links_of(kind)
    for path in sorted(links.glob("*")) if links.is_dir() else []:
        if path.is_symlink() and not path.exists():
            path.unlink(missing_ok=True)
