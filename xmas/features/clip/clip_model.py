"""A CLIP model of transformers, or the demo's, and its embeddings of images and texts."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from xmas.data.images.pixels import FILE, SquareImages
from xmas.models.sources import Source
from xmas.models.tensor_bars import silence
from xmas.store import Stage, Store, sha256_of, type_name

silence()

PROCESSOR = "preprocessor_config.json"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclasses.dataclass(frozen=True)
class PretrainedClip(Stage):
    """A `CLIPModel` folder with tokenizer and image processor: from the hub, or a copy of a folder.

    A folder is identified by its content, a name of the hub by its revision, which must be given:
    the weights of a name can change.

    Args:
        name: on the hub, e.g. openai/clip-vit-base-patch32, or a local folder.
        revision: the hub's commit; None with a folder.
    """

    kind: ClassVar[str] = "clip"

    name: str
    revision: str | None = None

    def identity(self) -> dict[str, Any]:
        folder = Path(self.name).expanduser()
        origin: dict[str, Any] = {"name": self.name, "revision": self.revision}
        if folder.is_dir():
            origin = {"sha256": sha256_of(folder)}
        return {"type": type_name(PretrainedClip), "version": self.version} | origin

    def sources(self) -> dict[str, Source]:
        return {"name": Source(self.name, self.revision)}

    def check(self, store: Store) -> None:
        """Raises ValueError: neither a folder nor a name with a revision."""
        folder = Path(self.name).expanduser()
        if folder.is_dir() == (self.revision is not None):
            raise ValueError(
                f"clip={self.name} with revision={self.revision}: give a local folder without a "
                "revision, or a name of the hub with its commit, clip=NAME@COMMIT"
            )

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: neither a folder nor a name with a revision."""
        self.check(store)
        folder = Path(self.name).expanduser()
        source = str(folder) if folder.is_dir() else self.name
        CLIPModel.from_pretrained(source, revision=self.revision or "main").save_pretrained(out)
        AutoTokenizer.from_pretrained(source, revision=self.revision or "main").save_pretrained(out)
        if not folder.is_dir() or (folder / PROCESSOR).exists():
            _processor(source, self.revision or "main").save_pretrained(out)
        elif (folder / FILE).exists():
            SquareImages.load(folder).save(out)


def _processor(source: str, revision: str = "main") -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil.from_pretrained(source, revision=revision)


def fingerprint(folder: Path) -> str:
    """The sha256 over the hashes of a model folder's weights: equal for equal CLIPs.

    Raises:
        ValueError: the folder has no weights.
    """
    weights = sorted(folder.glob("model*.safetensors"))  # not the head that `TwoTower` adds
    if not weights:
        raise ValueError(
            f"{folder} has no model*.safetensors: it is not a CLIP folder; name another one"
        )
    return hashlib.sha256("".join(map(sha256_of, weights)).encode()).hexdigest()


class Clip:
    """A loaded CLIP: images and texts become unit vectors of `width` values.

    Images pass the folder's own processor (resized, centre crop), or `SquareImages` as `TwoTower`
    writes it; without one they are padded to squares. A text becomes the begin token, its first
    `length` - 2 tokens and the end token (CLIP's limit is 77 tokens); words that spell a special
    token stay words.

    Args:
        folder: a `CLIPModel` with its tokenizer.
        precision: of the weights: float32, bfloat16, float16.
        device: where it runs; None: the CPU.

    Raises:
        ValueError: there is no such precision.
    """

    def __init__(
        self, folder: Path, precision: str = "float32", device: torch.device | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision {precision!r}: expected one of {', '.join(sorted(PRECISIONS))}"
            )
        self.device = device or torch.device("cpu")
        model = CLIPModel.from_pretrained(
            folder, local_files_only=True, dtype=PRECISIONS[precision]
        )
        self.model: Any = model.eval().requires_grad_(False)
        self.model.to(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.width: int = self.model.config.projection_dim
        self.length: int = self.model.config.text_config.max_position_embeddings
        self._dtype = PRECISIONS[precision]
        if (folder / PROCESSOR).exists():
            clip = _processor(str(folder))
            self._pixels = lambda images: clip(images, return_tensors="pt")["pixel_values"]
        elif (folder / FILE).exists():
            self._pixels = SquareImages.load(folder)
        else:
            self._pixels = SquareImages(self.model.config.vision_config.image_size)

    def pixels(self, picture: Image.Image) -> Float[Tensor, "3 height width"]:
        """The pixels of an image for `images`; may be called by several threads."""
        return self._pixels([picture])[0]

    @torch.no_grad()
    def images(
        self, pixels: list[Float[Tensor, "3 height width"]]
    ) -> Float[np.ndarray, "pictures d"]:
        """The embeddings of images, as unit vectors."""
        batch = torch.stack(pixels).to(self.device, self._dtype)
        return _unit(self.model.get_image_features(pixel_values=batch).pooler_output)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Float[np.ndarray, "texts d"]:
        """The embeddings of texts, as unit vectors."""
        sequences = [self._tokens(text) for text in texts]
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(sequences), longest), dtype=torch.long)
        for line, tokens in enumerate(sequences):
            ids[line, : len(tokens)] = torch.tensor(tokens)
            mask[line, : len(tokens)] = 1
        output = self.model.get_text_features(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device)
        )
        return _unit(output.pooler_output)

    def _tokens(self, text: str) -> list[int]:
        ids = self.tokenizer(
            text,
            add_special_tokens=False,
            truncation=True,
            max_length=self.length - 2,
            split_special_tokens=True,
        )["input_ids"]
        return [self.tokenizer.bos_token_id, *ids, self.tokenizer.eos_token_id]


def _unit(values: Tensor) -> Float[np.ndarray, "lines d"]:
    # Without an epsilon: a zero vector becomes NaN, which is refused, and not zeros.
    values = values.float()
    return (values / values.norm(dim=1, keepdim=True)).cpu().numpy()
