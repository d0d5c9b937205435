"""Pages of README and docs: their blocks, and the files that a worked example tells to write."""

import contextlib
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

HOUSE = Path(__file__).parent.parent
DOCS = HOUSE / "docs"
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """(file named on the line above or "", language, text) of every block of a page."""
    for file, indent, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield file, language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def files_of(page: Path) -> dict[str, str]:
    """The files that a page tells its reader to write, by path from the repository's root."""
    return {file: text for file, _, text in blocks(page) if file}


@contextlib.contextmanager
def written(page: Path, place: Path) -> Iterator[list[str]]:
    """The page's files in `place`, found as if they were in the repository, where none of them is.

    Nothing else is changed: a module is on its package's path, a YAML on Hydra's search path, whose
    override is given where the page has files.
    """
    modules = []
    for file, text in files_of(page).items():
        assert not (HOUSE / file).exists(), f"{page.name} changes {file}, which is there already"
        target = place / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        if target.suffix == ".py":
            modules.append((import_module(".".join(Path(file).parent.parts)), target))
    (place / "conf").mkdir(parents=True, exist_ok=True)
    for package, target in modules:
        package.__path__.append(str(target.parent))
    try:
        yield [f"hydra.searchpath=[file://{place / 'conf'}]"] if files_of(page) else []
    finally:
        for package, target in modules:
            package.__path__.remove(str(target.parent))
            sys.modules.pop(f"{package.__name__}.{target.stem}", None)
            vars(package).pop(target.stem, None)
