"""Where tables, reports and dashboards are written."""

from pathlib import Path

from xmas.store import Store, write_atomically
from xmas.store.writable import is_writable


def page_path(store: Store, name: str) -> Path:
    """A page's file: in the store, or in the working directory where the store is read-only."""
    root = Path(store.root)
    return (root if is_writable(root) else Path.cwd()) / name


def write_page(path: Path, text: str) -> None:
    """Write a page, or leave a former one as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
