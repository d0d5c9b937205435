"""A CLIP of transformers, or the demo's own, and how pictures and texts enter it."""

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

from xmas.data.images import SquareImages
from xmas.store import Stage, Store, sha256_of, type_name

PROCESSOR = "preprocessor_config.json"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclasses.dataclass(frozen=True)
class PretrainedClip(Stage):
    """A `CLIPModel` folder with tokenizer and image processor: from the hub, or a copy of a folder.

    A folder is known by its content, a name of the hub by its revision, which therefore must be
    given: a name alone may hold other weights tomorrow.
    """

    kind: ClassVar[str] = "clip"

    name: str  # e.g. openai/clip-vit-base-patch32, or a local folder
    revision: str | None = None  # the hub's commit; null with a folder

    def identity(self) -> dict[str, Any]:
        folder = Path(self.name).expanduser()
        known: dict[str, Any] = {"name": self.name, "revision": self.revision}
        if folder.is_dir():
            known = {"sha256": sha256_of(folder)}
        return {"type": type_name(PretrainedClip), "version": self.version} | known

    def compute(self, store: Store, out: Path) -> None:
        """Raises ValueError: neither a folder nor a name with a revision."""
        folder = Path(self.name).expanduser()
        if folder.is_dir() == (self.revision is not None):
            raise ValueError(
                f"features.clip.clip.name={self.name} with revision={self.revision}: give a local "
                "folder without a revision, or a name of the hub with the commit that is meant"
            )
        source = str(folder) if folder.is_dir() else self.name
        CLIPModel.from_pretrained(source, revision=self.revision or "main").save_pretrained(out)
        AutoTokenizer.from_pretrained(source, revision=self.revision or "main").save_pretrained(out)
        if not folder.is_dir() or (folder / PROCESSOR).exists():
            _processor(source, self.revision or "main").save_pretrained(out)


def _processor(source: str, revision: str = "main") -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil.from_pretrained(source, revision=revision)


def fingerprint(folder: Path) -> str:
    """The sha256 over the hashes of a model folder's weights: what makes two CLIPs the same."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no *.safetensors: it is not a CLIP folder")
    return hashlib.sha256("".join(map(sha256_of, weights)).encode()).hexdigest()


class Clip:
    """An opened CLIP: pictures and texts as unit vectors of `width` values.

    Pictures pass the processor that lies in the folder (resized, centre cut); without one they are
    padded to squares, as `TwoTower` trains. A text becomes the begin mark, its first `length` − 2
    tokens and the end mark: what is beyond is not seen (CLIP's limit is 77 tokens). Its words are
    never taken for marks, whatever they spell.
    """

    def __init__(self, folder: Path, precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision {precision!r}: expected one of {', '.join(sorted(PRECISIONS))}"
            )
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
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
        else:
            self._pixels = SquareImages(self.model.config.vision_config.image_size)

    def pixels(self, picture: Image.Image) -> Float[Tensor, "3 height width"]:
        """What the model sees of a picture; may be called by several threads."""
        return self._pixels([picture])[0]

    @torch.no_grad()
    def images(
        self, pixels: list[Float[Tensor, "3 height width"]]
    ) -> Float[np.ndarray, "pictures d"]:
        seen = torch.stack(pixels).to(self.device, self._dtype)
        return _unit(self.model.get_image_features(pixel_values=seen).pooler_output)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Float[np.ndarray, "texts d"]:
        held = [self._tokens(text) for text in texts]
        longest = max(len(ids) for ids in held)
        ids = torch.full((len(held), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(held), longest), dtype=torch.long)
        for line, found in enumerate(held):
            ids[line, : len(found)] = torch.tensor(found)
            mask[line, : len(found)] = 1
        seen = self.model.get_text_features(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device)
        )
        return _unit(seen.pooler_output)

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
    # Divided by the norm itself: of nothing this gives NaN, which is refused, not zeros.
    values = values.float()
    return (values / values.norm(dim=1, keepdim=True)).cpu().numpy()
