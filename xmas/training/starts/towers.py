"""A small CLIP, trained on captions: the vision tower of randomly initialised models.

The real runs take OpenAI's; no package carries its weights, so the demo trains its own, once, with
the same classes and the same loss.
"""

import dataclasses
import logging
import math
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextConfig

from xmas.data.images.broken import all_named, read_picture
from xmas.data.images.pixels import SquareImages
from xmas.data.images.seen import note
from xmas.data.pool import Pool
from xmas.data.rows import Rows
from xmas.models.cpu_matmul import by_onednn
from xmas.models.device import device_for
from xmas.models.tokenizer import TrainedTokenizer
from xmas.models.vlm import check_finite
from xmas.store import Stage, Store, volatile
from xmas.store.checkpoint import save_checkpoint, saved_state
from xmas.store.progress import bar
from xmas.training.fit.muon import inner_matrices, muon_and_adamw
from xmas.training.fit.recipe import Hardware
from xmas.training.fit.sanity import no_image

TOKEN_HEAD = "token_head.safetensors"
WHITE, SPREAD = (1.0, 1.0, 1.0), (0.3, 0.3, 0.3)  # of drawings on white

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TwoTower(Stage):
    """A `CLIPModel` folder with its tokenizer, trained on a pool's pictures and answers.

    A row's text is all its answers. The loss is CLIP's, where rows of a batch with the same text
    are all positives of each other: with few captions, calling them negatives would teach the
    wrong thing. To it is added that the mean of the patches predicts which tokens the text has,
    rare ones weighing more: with batches of some hundred, contrast alone learns colours and never
    gets to names. That head is written to `token_head.safetensors`, from which `SmallLlava` starts.
    Positions start as sines, not as small noise. White is the zero of the pixels: of drawings most
    is background, and with CLIP's mean each patch would be a large constant first.
    Source: CLIP (arXiv 2103.00020), section 2.3; SuperClass (arXiv 2411.03313) for the tokens;
    Beyer et al. (arXiv 2205.01580) for positions and mean; Muon, see `MuonAndAdamW`.
    """

    kind: ClassVar[str] = "two_tower"
    version: ClassVar[int] = 3

    captions: Pool
    tokenizer: TrainedTokenizer
    image_size: int = 64  # pixels
    patch: int = 16  # pixels
    width: int = 128
    layers: int = 3
    text_layers: int = 1
    text_length: int = 32  # tokens
    token_weight: float = 1.0  # of predicting the text's tokens, relative to the contrastive loss
    epochs: int = 6
    batch: int = 64
    rate: float = 2e-3  # of embeddings, gains and biases (AdamW)
    muon_rate: float = 0.02  # of the matrices of the blocks
    warmup: float = 0.05
    seed: int = 0
    hardware: Hardware = volatile(default_factory=Hardware)

    def check(self, store: Store) -> None:
        """Raises ValueError: no row of the captions, if they are there, has an image."""
        if self.captions.at_hand(store) and not (rows := self.captions.open(store)).has_image.any():
            raise no_image(len(rows))

    def compute(self, store: Store, out: Path) -> None:
        """Raises PoolError: images are missing or broken; names them."""
        from transformers import AutoTokenizer

        examples = self.captions.open(store)
        tokenizer = AutoTokenizer.from_pretrained(store.get(self.tokenizer))
        rows, numbers = captioned(examples)
        texts = [" ".join(answer for _, answer in examples.conversation(int(row))) for row in rows]
        tokens = tokenizer(
            [text + tokenizer.eos_token for text in texts],
            padding=True,
            truncation=True,
            max_length=self.text_length,
            return_tensors="pt",
        )
        # The text's features are those of the first end mark; a truncated text gets one.
        tokens["input_ids"][:, -1] = torch.where(
            tokens["attention_mask"][:, -1] == 1, tokenizer.eos_token_id, tokens["input_ids"][:, -1]
        )
        process = self.images()
        pixels = torch.empty(len(rows), 3, self.image_size, self.image_size, dtype=torch.float16)
        with all_named(examples, out):
            for start in bar(range(0, len(rows), 256), label="captions read", unit="batch"):
                batch = numbers[start : start + 256].tolist()
                pictures = [read_picture(examples, number) for number in batch]
                pixels[start : start + 256] = process(pictures).half()
        same = torch.from_numpy(np.unique(np.array(texts), return_inverse=True)[1])
        model, head = self._fit(
            self._build(tokenizer), pixels, tokens["input_ids"], tokens["attention_mask"], same, out
        )
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        process.save(out)
        save_file({"weight": head, **_statistics(model, pixels[:1024])}, out / TOKEN_HEAD)
        note(self.captions, examples, out)

    def images(self) -> SquareImages:
        """How pictures become pixels."""
        return SquareImages(self.image_size, mean=WHITE, std=SPREAD)

    def _build(self, tokenizer) -> CLIPModel:
        from transformers import CLIPConfig

        shape = {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_attention_heads": max(1, self.width // 32),
            "projection_dim": self.width,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = CLIPModel(
                CLIPConfig(
                    vision_config={
                        **shape,
                        "num_hidden_layers": self.layers,
                        "image_size": self.image_size,
                        "patch_size": self.patch,
                    },
                    text_config={
                        **shape,
                        "num_hidden_layers": self.text_layers,
                        "vocab_size": len(tokenizer),
                        "max_position_embeddings": self.text_length,
                        "bos_token_id": tokenizer.bos_token_id,
                        "eos_token_id": tokenizer.eos_token_id,
                        "pad_token_id": tokenizer.pad_token_id,
                    },
                    projection_dim=self.width,
                )
            )
        positions = model.vision_model.embeddings.position_embedding.weight
        positions.data[1:] = sine_positions(self.image_size // self.patch, self.width)
        return model

    @by_onednn()
    def _fit(
        self,
        model: CLIPModel,
        pixels: Tensor,
        ids: Tensor,
        mask: Tensor,
        same: Tensor,
        out: Path,
    ) -> tuple[CLIPModel, Float[Tensor, "vocabulary width"]]:
        """Train; a checkpoint after every epoch is kept until the stage is finished.

        Returns the model, and the weights of the head that predicts tokens: zero for tokens that no
        text has.
        """
        device = device_for(self.hardware.accelerator)
        # Eager: one product over all heads and images, where torch's CPU kernel has one for each.
        model.set_attn_implementation("eager")
        model.to(device).train()  # pyright: ignore[reportArgumentType]  # wrapper asks for `self`
        vocabulary = cast("CLIPTextConfig", model.config.text_config).vocab_size
        weights = rarity(ids, mask, vocabulary)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = nn.Linear(self.width, vocabulary).to(device)
        total = math.ceil(len(pixels) / self.batch) * self.epochs
        both = nn.ModuleList([model, head])
        optimizer = muon_and_adamw(
            [matrix for matrix in inner_matrices(model) if matrix is not head.weight],
            self.muon_rate,
            [{"params": list(both.parameters()), "lr": self.rate}],
            weight_decay=0.05,
            betas=(0.9, 0.98),
            fused=True,
        )
        ramp = max(1, math.ceil(self.warmup * total))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / ramp, 0.5 * (1 + math.cos(math.pi * step / total))),
        )
        first = 0
        if (last := saved_state(out)) is not None:
            state = torch.load(last, weights_only=True)
            both.load_state_dict(state["models"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            first = state["epoch"]
        with bar(
            total=self.epochs * len(pixels),
            label="two towers",
            unit="image",
            initial=first * len(pixels),
        ) as progress:
            loss = torch.tensor(torch.nan)  # before the first batch
            for epoch in range(first, self.epochs):
                order = np.random.default_rng((self.seed, epoch)).permutation(len(pixels))
                for start in range(0, len(order), self.batch):
                    rows = torch.from_numpy(order[start : start + self.batch])
                    longest = int(mask[rows].sum(dim=1).max())
                    outputs = model(
                        input_ids=ids[rows, :longest].to(device),
                        attention_mask=mask[rows, :longest].to(device),
                        pixel_values=pixels[rows].float().to(device),
                    )
                    patches = outputs.vision_model_output.last_hidden_state[:, 1:]
                    text = same[rows].to(device)
                    contrast = contrastive(outputs.logits_per_image, text[:, None] == text[None])
                    logits = head(patches.mean(dim=1))
                    shares = targets(ids[rows], mask[rows], weights).to(device)
                    tokens = -(shares * logits.log_softmax(dim=1)).sum(dim=1).mean()
                    loss = contrast + self.token_weight * tokens
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    progress.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
                    progress.update(len(rows))
                check_finite(np.array([loss.item()]), f"two-tower loss of epoch {epoch}")
                state = {
                    "models": both.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "epoch": epoch + 1,
                }
                save_checkpoint(out, lambda path, state=state: torch.save(state, path))
        seen = (weights > 0)[:, None]
        return model.cpu().eval(), head.weight.detach().cpu() * seen


@torch.no_grad()
def _statistics(
    model: CLIPModel, pixels: Float[Tensor, "images 3 height width"]
) -> dict[str, Tensor]:
    """Mean of the patches' features by channel, and their standard deviation over all channels."""
    patches = model.vision_model(pixel_values=pixels.float()).last_hidden_state[:, 1:]
    mean = patches.mean(dim=(0, 1))
    return {"mean": mean, "std": (patches - mean).std()}


def sine_positions(side: int, width: int) -> Float[Tensor, "patches width"]:
    """Sines and cosines of a patch's line and column, at `width / 4` frequencies each."""
    place = torch.arange(side, dtype=torch.float32)
    lines, columns = torch.meshgrid(place, place, indexing="ij")
    count = width // 4
    frequency = 100.0 ** -(torch.arange(count, dtype=torch.float32) / count)
    angles = [axis.flatten()[:, None] * frequency for axis in (lines, columns)]
    return 0.5 * torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


def rarity(
    ids: Int[Tensor, "texts length"], mask: Int[Tensor, "texts length"], vocabulary: int
) -> Float[Tensor, " vocabulary"]:
    """Inverse document frequency of every token, log(texts / texts that have it), in nats."""
    has = torch.zeros(vocabulary)
    for text, text_mask in zip(ids, mask, strict=True):
        has[text[text_mask.bool()].unique()] += 1
    return torch.log(len(ids) / has.clamp_min(1)) * (has > 0)


def targets(
    ids: Int[Tensor, "texts length"],
    mask: Int[Tensor, "texts length"],
    weights: Float[Tensor, " vocabulary"],
) -> Float[Tensor, "texts vocabulary"]:
    """The distribution that an image predicts: its text's tokens weighted by rarity, sum 1."""
    present = torch.zeros(len(ids), len(weights))
    present.scatter_(1, torch.where(mask.bool(), ids, ids[:, :1]), 1.0)
    weighted = present * weights
    return weighted / weighted.sum(dim=1, keepdim=True).clamp_min(1e-9)


def captioned(
    examples: Rows,
) -> tuple[Int[np.ndarray, " pictures"], Int[np.ndarray, " pictures"]]:
    """For every picture that a row shows alone, the first such row and the picture's number.

    The answers of a row with several are about all of them; the log says how many are left out.
    """
    alone = examples.shown.counts[examples.shown.row_of_image] == 1
    numbers, first = np.unique(examples.shown.pictures[alone], return_index=True)
    if left := int((examples.shown.counts > 1).sum()):
        log.info(
            "%s: the towers are trained on rows with one image; %d rows with several are left out",
            *(examples.annotations, left),
        )
    return examples.shown.row_of_image[alone][first], numbers


def contrastive(
    logits: Float[Tensor, "images texts"], positive: Bool[Tensor, "images texts"]
) -> Float[Tensor, ""]:
    """CLIP's symmetric loss; an image's several positive texts have equal shares."""
    share = positive.float() / positive.sum(dim=1, keepdim=True)
    back = positive.T.float() / positive.T.sum(dim=1, keepdim=True)
    images = -(share * logits.log_softmax(dim=1)).sum(dim=1).mean()
    texts = -(back * logits.T.log_softmax(dim=1)).sum(dim=1).mean()
    return (images + texts) / 2
