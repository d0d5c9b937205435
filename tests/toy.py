"""A pool of 41 rows and every stage on it, small enough that a test may train them.

Rows differ in what loaders trip over: text-only rows, several turns, a first turn of the model,
repeated ids, pictures shared by rows and of any shape, letters outside ASCII. No count is a power
of two, so that swapped axes do not go unseen.

The large packages are imported before xmas: what a module under jaxtyping's hook imports first
misses its bytecode cache, which doubles the start of a test run.
"""

import csv
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import lightning.pytorch  # noqa: F401  # see below
import peft  # noqa: F401
import torch
import transformers.models.clip
import transformers.models.llava  # noqa: F401
from lightning.fabric.utilities import registry
from PIL import Image, ImageDraw
from torch import nn
from transformers import PreTrainedConfig

from xmas.attention.engine import Running
from xmas.attention.metric import Spectra
from xmas.data.pool import Pool
from xmas.features.activations import Activations
from xmas.features.clustering.kmeans import Clusters
from xmas.features.clustering.spherical import Spherical
from xmas.features.trajectories import Trajectories
from xmas.models.chat.template import Template
from xmas.models.tokenizer import TrainedTokenizer
from xmas.models.vision_cache import VisionFeatures
from xmas.selection.methods.coincide import Coincide
from xmas.selection.methods.length import Length
from xmas.selection.methods.random import Random
from xmas.selection.methods.xmas import Xmas
from xmas.selection.ranking import Ranking
from xmas.selection.subset import Subset
from xmas.store import Stage, Store, key
from xmas.target.target import Target
from xmas.training.fit.recipe import Hardware, Recipe
from xmas.training.fit.trainables import Lora
from xmas.training.proxy import Proxy
from xmas.training.starts.pretrained import Pretrained, SmallLlava
from xmas.training.starts.towers import TwoTower

# Written out whole at every load of a model, for refusals of union types that are then caught.
PreTrainedConfig.__repr__ = object.__repr__
# The template of a model card is compiled anew for every adapter, a tenth of the toy's fit.
jinja2.Template = functools.cache(jinja2.Template)
# Every fit looks for callbacks that other packages bring, among the files of all of them.
registry.entry_points = functools.cache(registry.entry_points)


def value_of(
    config: PreTrainedConfig,
    name: str,
    _get: Callable[..., Any] = object.__getattribute__,
    _own: Callable[..., Any] = PreTrainedConfig.__getattribute__,
) -> Any:
    """A value of a configuration, at once where it has no other name and no layer has its own:
    transformers' way, several calls in Python, is taken thousands of times in a pass.
    """
    if torch.compiler.is_dynamo_compiling():  # which traces transformers' way alone
        return _own(config, name)
    if name in type(config).attribute_map or "_heterogeneity_spec" in _get(config, "__dict__"):
        return _own(config, name)
    return _get(config, name)


PreTrainedConfig.__getattribute__ = value_of


def unless_meta(reset: Callable[[Any], None]) -> Callable[[Any], None]:
    """Without drawing numbers for weights that have none: a tenth of every load of a model."""

    @functools.wraps(reset)
    def reset_numbers(module: Any) -> None:
        if not module.weight.is_meta:
            reset(module)

    return reset_numbers


for kind in (nn.Linear, nn.Embedding):
    kind.reset_parameters = unless_meta(kind.reset_parameters)

ROWS = 41
TEXT_ONLY = (3, 11, 12, 19, 27, 34, 40)  # rows without an image
PICTURES = 13
COLOURS = ("crimson", "navy", "gold", "teal", "black")
SHAPES = ("disc", "box", "bar")
SIZES = ((32, 32), (19, 32), (40, 23), (7, 31), (32, 5), (64, 64), (33, 32))  # width, height
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "images.json")

HARDWARE = Hardware(accelerator="cpu")
TEMPLATE = Template(system="")
MAX_LENGTH = 256
CAPTION_RECIPE = Recipe(
    rate=2e-3, projector_rate=2e-3, batch=8, micro_batch=8, epochs=1, precision="32-true"
)
RECIPE = Recipe(
    rate=5e-3, projector_rate=5e-3, batch=8, micro_batch=4, epochs=1, precision="32-true"
)  # two micro-batches a step; 41 rows: 11 micro-batches, 6 steps, the last of them short

# Stages of the toy's size out of the configuration, whatever else that holds: those of the methods
# of `Toy`, so that what either makes is there for the other.
OVERRIDES = (
    "experiment=smoke",
    "pool=files",
    "proxy=small",
    "target=small",
    "clip=small",
    "suite=demo",
    "towers.image_size=32",
    "towers.patch=8",
    "towers.width=32",
    "towers.layers=2",
    "towers.text_layers=1",
    "towers.batch=8",
    "towers.rate=2e-3",
    "towers.tokenizer.vocabulary=400",
    "untrained.hidden=32",
    "untrained.layers=2",
    "untrained.feed_forward=64",
    "captioned.recipe.batch=8",
    "captioned.recipe.micro_batch=8",
    "captioned.recipe.epochs=1",
    "captioned.template.chat={_target_:xmas.models.chat.template.Template}",
    "proxy.recipe.rate=5e-3",
    "proxy.recipe.projector_rate=5e-3",
    "proxy.recipe.batch=8",
    "proxy.recipe.micro_batch=4",
    "proxy.snapshots=3",
    "features.trajectories.spectra.batch_tokens=512",
    "features.trajectories.running.shard_rows=11",
    "features.activations.layers=[0,1]",
    "features.answer_layers.layers=[0,1]",
    "features.answer_layers.neurons=[1,2]",
    "features.answer_layers.batch_tokens=512",
    "clusters.trajectories.k=5",
    "clusters.activations.k=5",
    "features.pseudo_labels.trained.k=4",
    "features.pseudo_labels.trained.nearest=0.5",
    "clusters.clip.k=5",
    "clusters.clip_directions.k=5",
    "clusters.last_layer.k=5",
    "features.last_layer.batch_tokens=512",
    "features.scorer_last_layer.batch_tokens=512",
    "features.start_last_layer.batch_tokens=512",
    "features.shallow.batch_tokens=512",
    "features.answers.how.batch_tokens=512",
    "features.answers.how.shard_rows=11",
    "clusters.answers.k=3",
    "features.gradients.width=71",
    "features.gradients.batch_tokens=512",
    "features.gradients.mark_rows=11",
    "target.recipe.rate=5e-3",
    "target.recipe.projector_rate=5e-3",
    "target.recipe.batch=8",
    "target.recipe.micro_batch=4",
    "target.lora.rank=4",
    "target.lora.alpha=8",
)


@dataclasses.dataclass(frozen=True)
class Toy:
    """Files in `folder`, results in `store`; stages are made of these by the methods."""

    folder: Path
    store: Store

    @property
    def pool(self) -> Pool:
        return Pool(str(self.folder / "pool.json"), str(self.folder / "images"), name="toy")

    @property
    def tokenizer(self) -> TrainedTokenizer:
        return TrainedTokenizer([self.pool, self.pool], vocabulary=400)

    @property
    def towers(self) -> TwoTower:
        return TwoTower(
            self.pool,
            self.tokenizer,
            image_size=32,
            patch=8,
            width=32,
            layers=2,
            epochs=1,
            batch=8,
            hardware=HARDWARE,
        )

    @property
    def untrained(self) -> SmallLlava:
        return SmallLlava(self.towers, hidden=32, layers=2, feed_forward=64)

    @property
    def start(self) -> Pretrained:
        return Pretrained(self.untrained, self.pool, CAPTION_RECIPE, hardware=HARDWARE)

    @property
    def vision(self) -> VisionFeatures:
        return VisionFeatures(self.pool, self.untrained)

    @property
    def proxy(self) -> Proxy:
        return Proxy(
            self.pool,
            self.start,
            RECIPE,
            TEMPLATE,
            snapshots=3,
            max_length=MAX_LENGTH,
            hardware=HARDWARE,
        )

    @property
    def trajectories(self) -> Trajectories:
        return Trajectories(self.proxy, Spectra(batch_tokens=512), Running(shard_rows=11))

    @property
    def clusters(self) -> Clusters:
        return Clusters(self.trajectories, k=5)

    @property
    def xmas(self) -> Xmas:
        return Xmas(self.trajectories, self.clusters)

    @property
    def coincide(self) -> Coincide:
        """Over activations of the start point: nothing is fitted."""
        looks = Activations(self.proxy, step=0, layers=(0, 1), batch_tokens=512)
        return Coincide(looks, Spherical(looks, k=5))

    @property
    def length(self) -> Length:
        return Length(self.proxy, k=5)

    def subset(self, selector: Any = None, **options: Any) -> Subset:
        options = {"rows": 23, "text_only": "ranked"} | options
        return Subset(Ranking(self.pool, selector or Random()), **options)

    def target(self, subset: Subset | None = None, **options: Any) -> Target:
        options = {"recipe": RECIPE, "lora": Lora(4, 8), "cache_vision": True} | options
        return Target(
            subset or self.subset(),
            self.start,
            template=TEMPLATE,
            max_length=MAX_LENGTH,
            hardware=HARDWARE,
            **options,
        )

    @property
    def scores(self) -> str:
        """A file with a score of every row, from 0 to 9; each is that of four rows or five."""
        return str(self.folder / "scores.csv")

    @property
    def tasks(self) -> str:
        """A folder with a folder of rows and their pictures for each of two tasks."""
        return str(self.folder / "tasks")

    def overrides(self) -> list[str]:
        """What gives stages of this size, on this pool, on the command line."""
        return [
            *OVERRIDES,
            f"pool.annotations={self.folder / 'pool.json'}",
            f"pool.images={self.folder / 'images'}",
            f"store.root={self.store.root}",
        ]


def build(folder: Path) -> Toy:
    """Write annotations and pictures into `folder`; nothing is trained yet."""
    for picture in range(PICTURES):
        place = folder / "images" / picture_name(picture)
        place.parent.mkdir(parents=True, exist_ok=True)
        draw(picture).save(place)
    records = [record(row) for row in range(ROWS)]
    text = json.dumps(records, ensure_ascii=False, indent=2)
    (folder / "pool.json").write_text(text, encoding="utf-8")
    scores = [f"{row},{7 * row % 10}\n" for row in range(ROWS)]
    (folder / "scores.csv").write_text("".join(["row,score\n", *scores]))
    for task, rows in (("colours", (0, 22, 5)), ("talk", (3, 11, 8))):
        write_rows(folder / "tasks" / task, [records[row] for row in rows])
    return Toy(folder, Store(str(folder / "store")))


def write_rows(folder: Path, records: list[dict[str, Any]]) -> None:
    """A file of records in a folder of their own, with their pictures beside it."""
    for record in records:
        if "image" in record:
            picture = next(n for n in range(PICTURES) if picture_name(n) == record["image"])
            (folder / record["image"]).parent.mkdir(parents=True, exist_ok=True)
            draw(picture).save(folder / record["image"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


def shared(toy: Toy, folder: Path, *more: str) -> Store:
    """A store in `folder` that has the toy's start point, and no fit but the kinds asked for."""
    for stage in (toy.start, toy.vision, toy.proxy.tokens(), toy.subset()):
        toy.store.get(stage)
    kinds = "tokenizer tokens two_tower small_llava pretrained vision ranking subset".split()
    for kind in (*kinds, *more):
        (folder / kind).symlink_to(Path(toy.store.root) / kind)
    return Store(str(folder))


def declared(stage: Stage) -> set[str]:
    """The inputs that a stage declares, as `meta.json` names them."""
    return {f"{needed.kind}/{key(needed)}" for needed in stage.inputs()}


def recorded(store: Store, stage: Stage) -> set[str]:
    """What the computation of a finished result asked the store for."""
    return set(json.loads((store.path(stage) / "meta.json").read_text())["inputs"])


def picture_name(picture: int) -> str:
    return f"{('drawn', 'zoo/a', 'drawn')[picture % 3]}/{picture:02}.png" if picture else "top.png"


def draw(picture: int) -> Image.Image:
    """A disc, a box or a bar in one of five colours on a light ground of any shape."""
    width, height = SIZES[picture % len(SIZES)]
    image = Image.new("RGB", (width, height), (250 - 7 * picture, 240, 225))
    pen = ImageDraw.Draw(image)
    inner = (width // 5, height // 5, width - width // 5 - 1, height - height // 5 - 1)
    shape = SHAPES[picture % len(SHAPES)]
    if shape == "disc":
        pen.ellipse(inner, fill=COLOURS[picture % len(COLOURS)])
    elif shape == "box":
        pen.rectangle(inner, fill=COLOURS[picture % len(COLOURS)])
    else:
        pen.line((inner[0], inner[1], inner[2], inner[3]), COLOURS[picture % len(COLOURS)], 2)
    return image


def record(row: int) -> dict[str, Any]:
    """One conversation; ids repeat, and rows get longer in no simple order."""
    if row in TEXT_ONLY:
        asked = ("Où est <image> ?", "数一数", "Say it twice.")[row % 3]
        answer = ("Là-bas, près du pont.", "一二三四五", "It, it; " + "and it again, " * (row % 4))
        return {"id": "talk", "conversations": turns(asked, answer[row % 3].strip())}
    picture = row % PICTURES
    colour, shape = COLOURS[picture % len(COLOURS)], SHAPES[picture % len(SHAPES)]
    said = [
        f"<image>\nWhat is drawn{'?' * (row % 3 + 1)}",
        f"a {colour} {shape}" + ", quite flat" * (row % 4),
    ]
    if row % 5 == 0:
        said += ["Which colour?", colour, "Combien ? 🎨", f"{row}"]
    if row % 7 == 2:
        said[1] = "\n".join(f"{n}. {colour} {shape} = ça va" for n in range(row % 4 + 1))
    found = {"id": f"{picture:03}", "image": picture_name(picture), "conversations": turns(*said)}
    if row == 8:
        first = {"from": "gpt", "value": "Hello!"}
        found["conversations"] = [first, *found["conversations"]]
    if row % 11 == 0:
        found |= {"source": "élèves", "model": ""}
    return found


def turns(*said: str) -> list[dict[str, str]]:
    """Values said by human and model in turn."""
    return [
        {"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(said)
    ]


def losses(folder: Path) -> list[dict[str, float]]:
    """The lines of a fit's `loss.csv`."""
    with (folder / "loss.csv").open() as file:
        return [{name: float(held) for name, held in row.items()} for row in csv.DictReader(file)]
