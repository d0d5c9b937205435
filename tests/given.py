"""Stages whose results are arrays that a test worked out."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmas.data.pool import Pool
from xmas.features.clip.clip import ClipEmbeddings
from xmas.store import Stage, Store, content


@dataclasses.dataclass(frozen=True)
class Given(Stage):
    """`<name>.npy` out of a file."""

    kind: ClassVar[str] = "given"

    file: str = content()
    name: str = "values"

    def compute(self, store: Store, out: Path) -> None:
        shutil.copy(self.file, out / f"{self.name}.npy")


def given(folder: Path, values: object, name: str = "values") -> Given:
    file = folder / f"given_{name}.npy"
    np.save(file, np.array(values))
    return Given(str(file), name)


@dataclasses.dataclass(frozen=True)
class GivenClip(ClipEmbeddings):
    """Embeddings out of a folder."""

    kind: ClassVar[str] = "given_clip"

    folder: str = content("")

    def compute(self, store: Store, out: Path) -> None:
        shutil.copytree(self.folder, out, dirs_exist_ok=True)


def given_clip(
    folder: Path, image: object, picture: list[int], turns: list[list[object]], weights: str = "w"
) -> GivenClip:
    """Embeddings of rows by hand: pictures, each row's picture, each row's turns (human first)."""
    folder.mkdir(exist_ok=True, parents=True)
    flat = np.array([turn for row in turns for turn in row], dtype=np.float16)
    np.save(folder / "image.npy", np.array(image, dtype=np.float16).reshape(-1, flat.shape[1]))
    np.save(folder / "picture.npy", np.array(picture, dtype=np.int64))
    np.save(folder / "text.npy", flat)
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, turns)]).astype(np.int64))
    roles = [number % 2 for row in turns for number in range(len(row))]
    np.save(folder / "roles.npy", np.array(roles, dtype=np.int8))
    (folder / "clip.json").write_text(json.dumps({"weights": weights}))
    return GivenClip(Pool("/dev/null", "."), None, folder=str(folder))


def drawn_clip(
    folder: Path, rows: int, *, width: int = 7, groups: int = 5, seed: int = 0, weights: str = "w"
) -> GivenClip:
    """Rows of some groups, each around a direction of its own; every tenth is text-only, every
    other one has two rounds. The directions do not depend on the seed.
    """
    rng = np.random.default_rng(seed)
    ways = np.random.default_rng(99).standard_normal((2, groups, width))
    of = rng.integers(groups, size=rows)
    picture = np.where(np.arange(rows) % 10 == 9, -1, np.arange(rows))
    image = ways[0, of] + 0.3 * rng.standard_normal((rows, width))
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    turns = []
    for row in range(rows):
        said = ways[1, of[row]] + 0.3 * rng.standard_normal((2 + 2 * (row % 2), width))
        turns.append(list(said / np.linalg.norm(said, axis=1, keepdims=True)))
    return given_clip(folder, image, picture.tolist(), turns, weights)
