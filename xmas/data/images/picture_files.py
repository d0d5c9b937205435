"""Pictures of rows as files that trainers open: the pool's own, or written from its shards."""

import hashlib
from pathlib import Path

from PIL import UnidentifiedImageError

from xmas.data.images.bounds import bounded
from xmas.data.images.errors import image_error
from xmas.data.images.paths import ImageError
from xmas.data.rows import PoolError, Rows

FOLDER = "images"
_SUFFIXES = {"JPEG": "jpg", "TIFF": "tif"}  # where it is not the format's name


def image_folder(rows: Rows, place: Path) -> Path:
    """The folder that the names of `PictureFiles` are relative to, as a whole path.

    Args:
        place: the folder of the trainers' files.
    """
    return rows.images.absolute() if rows.all_in_files else place


class PictureFiles:
    """The names of pictures in trainers' files.

    Where every picture of the pool is a file it keeps its name, relative to the pool's image
    folder. Else those with their bytes in shards or records are written unchanged, each once, as
    `images/XX/SHA256.SUFFIX`, the first half of the hash of their bytes, its first two digits and
    the suffix of their format; a file has its whole path.
    """

    def __init__(self, rows: Rows, folder: Path) -> None:
        """`folder`: of the trainers' files, where `images` is made if it is needed."""
        self._rows, self._folder = rows, folder

    def names(self, row: int) -> list[str]:
        """The names of the pictures of `row`, in order.

        Raises PoolError: one is no image, so that no trainer could open it; names file and row.
        """
        return [self._name(number, row) for number in self._rows.shown[row].tolist()]

    def _name(self, number: int, row: int) -> str:
        if self._rows.all_in_files:
            return self._rows.picture_names[number]
        picture = self._rows.picture(number)
        if isinstance(picture, Path):
            return str(picture.absolute())
        digest = hashlib.sha256(picture).hexdigest()[:32]
        name = f"{FOLDER}/{digest[:2]}/{digest}.{self._suffix(picture, number, row)}"
        file = self._folder / name
        if not file.exists() or file.stat().st_size != len(picture):  # one cut short by a kill
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture)
        return name

    def _suffix(self, picture: bytes, number: int, row: int) -> str:
        try:
            with bounded(picture, self._rows.max_pixels) as image:
                return _SUFFIXES.get(str(image.format), str(image.format).lower())
        except (ImageError, UnidentifiedImageError) as error:
            raise PoolError(
                f"{self._rows.annotations}: row {row}: picture {self._rows.picture_names[number]}: "
                f"{image_error(picture, error)}; pool.invalid=skip leaves the row out"
            ) from error
