"""Load every form of a subset with the code of the trainer that it is for.

    python experiments/trainers/load.py --packages FOLDER

FOLDER has the wheels' contents, `pip install --no-deps --target FOLDER trl llamafactory ms-swift
megatron-energon` and what Energon imports. Of LLaMA-Factory and ms-swift the modules that read data
are imported alone, since the packages import their whole trainers: names that these modules import
from the rest and do not call are empty. A loader whose packages are missing is said to be so.

The pools are the five dialogues of tests/dialogues.py in nine forms: none to three pictures a row,
a system turn, several rounds. A loader has to give these dialogues, pictures byte for byte.
"""

import argparse
import contextlib
import dataclasses
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import logging
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import dialogues
from dialogues import DIALOGUES, POOLS, Turns

from xmas.data.pool import Pool
from xmas.data.writers import write_form

Loader = Callable[[Path, Path], list[Turns]]  # of a form's folder and the folder of the pictures


def table(folder: Path) -> Any:
    return datasets.load_dataset(str(folder), split="train", cache_dir=f"{folder}-cache")


def lines(file: Path) -> Any:
    return datasets.load_dataset(
        "json", data_files=str(file), split="train", cache_dir=f"{file.parent}-cache"
    )


def of_datasets(folder: Path, images: Path) -> list[Turns]:
    """`datasets` reads the shards, of a table with messages."""
    loaded = table(folder).cast_column("images", [datasets.Image(decode=False)])
    return [
        [(turn["role"], dialogues.split(turn["content"], pictures)) for turn in record["messages"]]
        for record in loaded
        for pictures in [[dialogues.bytes_of(image) for image in record["images"]]]
    ]


def of_trl(folder: Path, images: Path) -> list[Turns]:
    """TRL's `prepare_multimodal_messages`, of rows an answer: the prompt with its images, then the
    completion. The last row of a dialogue has all of it.
    """
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    loaded: list[Turns] = []
    for record in table(folder).cast_column("images", [datasets.Image(decode=False)]):
        assert is_conversational(record)
        pictures = [dialogues.bytes_of(image) for image in record["images"]]
        prompt = prepare_multimodal_messages(record["prompt"], images=pictures)
        turns = parts_of([*prompt, *prepare_multimodal_messages(record["completion"])])
        if loaded and turns[: len(loaded[-1])] == loaded[-1]:
            loaded.pop()  # the same dialogue, up to the answer before
        loaded.append(turns)
    return loaded


def of_trl_dialogue(folder: Path, images: Path) -> list[Turns]:
    """The same of whole dialogues."""
    from trl.data_utils import prepare_multimodal_messages

    loaded = table(folder).cast_column("images", [datasets.Image(decode=False)])
    return [
        parts_of(
            prepare_multimodal_messages(
                record["messages"], images=[dialogues.bytes_of(image) for image in record["images"]]
            )
        )
        for record in loaded
    ]


def parts_of(messages: list[dict[str, Any]]) -> Turns:
    return [
        (turn["role"], [p["image"] if p["type"] == "image" else p["text"] for p in turn["content"]])
        for turn in messages
    ]


def of_llama_factory(folder: Path, images: Path) -> list[Turns]:
    """LLaMA-Factory's parser of `dataset_info.json` and its converter."""
    bare("llamafactory", "llamafactory.data", "llamafactory.extras")
    from llamafactory.data.converter import align_dataset
    from llamafactory.data.parser import get_dataset_list

    (described,) = get_dataset_list(["subset"], str(folder))
    options = types.SimpleNamespace(
        media_dir=str(images), preprocessing_num_workers=1, overwrite_cache=True, streaming=False
    )
    process = types.SimpleNamespace(local_process_index=0)
    aligned = align_dataset(lines(folder / described.dataset_name), described, options, process)
    loaded = []
    for record in aligned:
        pictures = [Path(name).read_bytes() for name in record["_images"] or ()]
        system = [{"role": "system", "content": record["_system"]}] if record["_system"] else []
        said = [*system, *record["_prompt"], *record["_response"]]
        loaded.append([(t["role"], dialogues.split(t["content"], pictures)) for t in said])
        assert not pictures
    return loaded


def of_swift(folder: Path, images: Path) -> list[Turns]:
    """ms-swift's `AutoPreprocessor` and its `load_file`."""
    bare("swift", "swift.template", "swift.dataset")
    empty("modelscope.hub.utils.utils", get_cache_dir=lambda *_, **__: tempfile.gettempdir())
    empty("swift.template.template_inputs", normalize_openai_tool_calls=lambda turns: turns)
    empty(
        "swift.utils",
        TOOL_KEYS=["tools"],
        get_logger=lambda: logging.getLogger("swift"),
        is_dist=lambda: False,
        is_master=lambda: True,
        safe_ddp_context=lambda *_, **__: contextlib.nullcontext(),
        remove_arrow_padding=lambda value: value,
        get_env_args=lambda name, kind, default: os.environ.get(name, default),
    )
    for name in ("history_to_messages", "MaxLengthError", "Template"):
        setattr(sys.modules["swift.template"], name, object)
    from swift.dataset.preprocessor.core import AutoPreprocessor
    from swift.template.vision_utils import load_file

    os.environ["ROOT_IMAGE_DIR"] = str(images)
    loaded = []
    for record in AutoPreprocessor()(lines(folder / "swift.jsonl"), num_proc=1, strict=True):
        names = [image["path"] for image in record["images"] or ()]
        pictures = [load_file(name).read() for name in names]
        said = record["messages"]
        loaded.append([(t["role"], dialogues.split(t["content"], pictures)) for t in said])
        assert not pictures
    return loaded


def of_energon(folder: Path, images: Path) -> list[Turns]:
    """Energon's loader of a metadataset, with a cooker that asks its file store for pictures."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        cooker,
        edataclass,
        get_loader,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.flavors.jsonl import CrudeJsonlDatasetFactory

    file = next(folder.glob("*.jsonl"))
    index = file.with_name(f"{file.name}.idx").read_bytes()
    CrudeJsonlDatasetFactory.prepare_dataset(file)
    assert index == file.with_name(f"{file.name}.idx").read_bytes()

    @edataclass
    class Cooked(Sample):
        record: dict
        pictures: list

    @stateless
    @cooker(need_primary=False)
    def cook(sample: dict, images: Any) -> Cooked:
        record = sample["json"]
        names = record["images"] if "images" in record else record.get("image") or []
        names = [names] if isinstance(names, str) else names
        pictures = [images.get(name, sample) for name in names]
        return Cooked(**basic_sample_keys(sample), record=record, pictures=pictures)

    class Encoder(DefaultTaskEncoder):
        decoder = None
        cookers: Sequence[Cooker] = [Cooker(cook)]

        def batch(self, samples: list[Cooked]) -> list[Cooked]:
            return samples

        def encode_batch(self, batch: list[Cooked]) -> list[Cooked]:
            return batch

    loader = get_loader(
        get_train_dataset(
            folder / "energon.yaml", batch_size=1, shuffle_buffer_size=None, repeat=False,
            max_samples_per_sequence=None, task_encoder=Encoder(),
            worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        )
    )  # fmt: skip
    of_text = {json.dumps(s.record): s for samples in loader for s in samples}  # in its own order
    loaded = []
    for line in file.read_text("utf-8").splitlines():
        sample = of_text[json.dumps(json.loads(line))]
        of = dialogues.of_messages if "messages" in sample.record else dialogues.of_llava
        turns = of(sample.record, images)
        assert dialogues.pictures_of(turns) == sample.pictures
        loaded.append(turns)
    return loaded


def bare(*packages: str) -> None:
    """Packages whose modules can be imported without what the packages themselves import."""
    for name in packages:
        if name in sys.modules:
            continue
        parent, _, last = name.rpartition(".")
        places = list(sys.modules[parent].__path__) if parent else None
        spec = importlib.machinery.PathFinder.find_spec(last if parent else name, places)
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError(name, name=name)
        module = types.ModuleType(name)
        module.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = module


def empty(name: str, **contents: Any) -> None:
    """A module with these contents, and packages around it."""

    def other(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return lambda *_, **__: None

    parts = name.split(".")
    for depth in range(1, len(parts)):
        package = ".".join(parts[:depth])
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = []
    module = types.ModuleType(name)
    vars(module).update(contents, __getattr__=other)
    sys.modules[name] = module


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Whose code loads a form."""

    package: str
    form: str
    load: Loader


TRAINERS = (
    Trainer("datasets", "parquet", of_datasets),
    Trainer("trl", "trl", of_trl),
    Trainer("trl", "trl_dialogue", of_trl_dialogue),
    Trainer("llamafactory", "messages", of_llama_factory),
    Trainer("ms-swift", "swift", of_swift),
    Trainer("megatron-energon", "energon", of_energon),
    Trainer("megatron-energon", "ranked", of_energon),
)


def loaded_alike(trainer: Trainer, names: Sequence[str], place: Path) -> Iterator[str]:
    """The pools whose dialogues are loaded as they are.

    Raises ModuleNotFoundError: the trainer, or what it imports, is not installed.
    """
    for name in names:
        rows = Pool(str(place / name), str(place / "images")).open()
        folder = place / f"{trainer.form}-of-{name}"
        folder.mkdir()
        write_form(trainer.form, rows, np.arange(len(rows)), folder, folder)
        images = place / "images" if rows.all_in_files else folder
        if trainer.form == "parquet" and name == "prompts.parquet":
            continue  # its columns are the pool's own, without messages
        if trainer.load(folder, images) == DIALOGUES:
            yield name


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--packages", type=Path, help="where the trainers are installed")
    parser.add_argument("--tiny", action="store_true", help="one pool, for tests")
    options = parser.parse_args()
    if options.packages is not None:
        sys.path.append(str(options.packages))
    datasets.disable_progress_bars()
    place = Path(tempfile.mkdtemp())
    dialogues.write_images(place / "images")
    names = list(POOLS)[:1] if options.tiny else list(POOLS)
    for name in names:
        POOLS[name](place / name)
    print("| package | version | form | pools loaded alike |\n|---|---|---|---|")
    for trainer in TRAINERS:
        try:
            alike = list(loaded_alike(trainer, names, place))
            version = importlib.metadata.version(trainer.package)
            outcome = f"{len(alike)} of {len(names)}"
        except ModuleNotFoundError as error:
            version, outcome = "", f"not installed ({error.name})"
        print(f"| {trainer.package} | {version} | `{trainer.form}` | {outcome} |")


if __name__ == "__main__":
    main()
