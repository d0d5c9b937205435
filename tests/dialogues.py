"""Five dialogues in every form that pools come in, and trainers' loaders as they are described.

A dialogue is a list of turns (role, parts); a part is a text, or the bytes of a picture where it is
in the text. Loaders give the same, so that what was written is compared with what was meant.
"""

import base64
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml
from shards import features_of, picture

Turns = list[tuple[str, list[str | bytes]]]
PICTURES = [picture(number) for number in range(4)]
P0, P1, P2, P3 = PICTURES
DIALOGUES: list[Turns] = [
    [("user", [P0, "What is this?"]), ("assistant", ["A fig."])],
    [
        ("system", ["Be brief."]),
        ("user", [P1, " and ", P2, ": which?"]),
        ("assistant", ["The first, élève."]),
        ("user", ["Sure?"]),
        ("assistant", ["Yes.\nQuite."]),
    ],
    [("user", ["Twelve in German?"]), ("assistant", ["Zwölf."])],
    [
        ("user", [P1, "Again?"]),
        ("assistant", ["Again."]),
        ("user", [P2, "And?"]),
        ("assistant", ["No more."]),
    ],
    [("user", ["Is ", P3, " like ", P0, P2]), ("assistant", ["No."])],
]
LLAVA = {"system": "system", "user": "human", "assistant": "gpt"}
OURS = {name: role for role, name in LLAVA.items()} | {role: role for role in LLAVA}


def pictures_of(turns: Turns) -> list[bytes]:
    return [part for _, parts in turns for part in parts if isinstance(part, bytes)]


def name_of(content: bytes) -> str:
    return f"zoo/{PICTURES.index(content)}.png"


def text_of(parts: Sequence[str | bytes], opening: str = "") -> str:
    """With a placeholder for every picture; `opening` follows one that opens the text."""
    text = "".join("<image>" if isinstance(part, bytes) else part for part in parts)
    return text.replace("<image>", f"<image>{opening}", 1) if isinstance(parts[0], bytes) else text


def split(text: str, pictures: list[bytes], opening: str = "") -> list[str | bytes]:
    """The parts of a text; uses up the pictures."""
    parts: list[str | bytes] = []
    for number, piece in enumerate(text.split("<image>")):
        if number:
            parts.append(pictures.pop(0))
        parts += [piece.removeprefix(opening) if number else piece]
    return [part for part in parts if part]


def llava(turns: Turns) -> dict[str, Any]:
    names = [name_of(content) for content in pictures_of(turns)]
    record: dict[str, Any] = {"id": "a", "image": names[0] if len(names) == 1 else names}
    opening = "\n" if len(names) == 1 else ""
    values = [{"from": LLAVA[role], "value": text_of(parts, opening)} for role, parts in turns]
    return (record if names else {"id": "a"}) | {"conversations": values}


def with_null(turns: Turns) -> dict[str, Any]:
    return {"image": None} | llava(turns)


def messages(turns: Turns) -> dict[str, Any]:
    said = [{"role": role, "content": text_of(parts)} for role, parts in turns]
    return {"messages": said, "images": [name_of(content) for content in pictures_of(turns)]}


def sharegpt(turns: Turns) -> dict[str, Any]:
    said = [{"from": LLAVA[role], "value": text_of(parts)} for role, parts in turns]
    return {"conversations": said, "images": [name_of(content) for content in pictures_of(turns)]}


def openai(turns: Turns) -> dict[str, Any]:
    def part(content: str | bytes) -> dict[str, Any]:
        if isinstance(content, str):
            return {"type": "text", "text": content}
        uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        return {"type": "image_url", "image_url": {"url": uri}}

    return {"messages": [{"role": role, "content": list(map(part, p))} for role, p in turns]}


def unsloth(turns: Turns) -> dict[str, Any]:
    def part(content: str | bytes) -> dict[str, Any]:
        is_text = isinstance(content, str)
        return {"type": "text", "text": content} if is_text else {"type": "image"}

    said = [{"role": role, "content": list(map(part, parts))} for role, parts in turns]
    return {"messages": said, "images": [name_of(content) for content in pictures_of(turns)]}


def table_record(turns: Turns) -> dict[str, Any]:
    images = [{"bytes": content, "path": name_of(content)} for content in pictures_of(turns)]
    return messages(turns) | {"images": images, "source": "zoo"}


def write_images(folder: Path) -> None:
    (folder / "zoo").mkdir(parents=True)
    for content in PICTURES:
        (folder / name_of(content)).write_bytes(content)


def write_list(path: Path, record: Callable[[Turns], dict[str, Any]]) -> None:
    text = json.dumps([record(turns) for turns in DIALOGUES], ensure_ascii=False, indent=1)
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, record: Callable[[Turns], dict[str, Any]]) -> None:
    lines = [json.dumps(record(turns), ensure_ascii=False) for turns in DIALOGUES]
    path.write_text("\n".join(lines), encoding="utf-8")


def write_parquet(path: Path, record: Callable[[Turns], dict[str, Any]]) -> None:
    import datasets

    records = [record(turns) for turns in DIALOGUES]
    features = datasets.Features(features_of(records[0]))
    datasets.Dataset.from_list(records, features=features).to_parquet(path, batch_size=2)


def write_prompts(path: Path) -> None:
    """As `llava-instruct-mix`: all turns but the last are the prompt, of rows without system."""
    rows = [messages(turns) | table_record(turns) for turns in DIALOGUES]
    table = pyarrow.Table.from_pylist(
        [
            {"images": r["images"], "prompt": r["messages"][:-1], "completion": r["messages"][-1:]}
            for r in rows
        ]
    )
    pyarrow.parquet.write_table(table, path)


POOLS: dict[str, Callable[[Path], None]] = {
    "llava.json": lambda path: write_list(path, llava),
    "llava.jsonl": lambda path: write_lines(path, with_null),
    "messages.json": lambda path: write_list(path, messages),
    "messages.jsonl": lambda path: write_lines(path, messages),
    "sharegpt.json": lambda path: write_list(path, sharegpt),
    "openai.jsonl": lambda path: write_lines(path, openai),
    "unsloth.json": lambda path: write_list(path, unsloth),
    "messages.parquet": lambda path: write_parquet(path, table_record),
    "prompts.parquet": write_prompts,
}
OWN_FORMS = ("llava", "llava", "messages", "messages", "messages", "records", "records") + (
    "parquet",
) * 2


def _pictures(names: Any, root: Path) -> list[bytes]:
    listed = [names] if isinstance(names, str) else names or []
    return [(root / name).read_bytes() for name in listed]


def of_llava(record: dict[str, Any], root: Path) -> Turns:
    """LLaVA-NeXT's and InternVL's reading: with `image`, a name or a list, a picture for each
    placeholder; without, text.
    """
    assert not record.get("images")
    assert record.get("image", "") is not None
    pictures = _pictures(record.get("image"), root)
    said = [(OURS[turn["from"]], turn["value"]) for turn in record["conversations"]]
    if not pictures:
        return [(role, [text]) for role, text in said]
    turns = [(role, split(text, pictures, "\n")) for role, text in said]
    assert not pictures
    return turns


def of_messages(
    record: dict[str, Any], root: Path, *, turns: str = "messages", role="role", text="content"
) -> Turns:
    """ms-swift's reading, and LLaMA-Factory's by its registry: as many placeholders as images."""
    pictures = _pictures(record["images"], root)
    assert sum(turn[text].count("<image>") for turn in record[turns]) == len(pictures)
    return [(OURS[turn[role]], split(turn[text], pictures)) for turn in record[turns]]


def of_parts(turns: list[dict[str, Any]], pictures: list[bytes]) -> Turns:
    """TRL's reading of lists of parts: its images in order, one for each part of that type."""
    return [
        (
            turn["role"],
            [pictures.pop(0) if p["type"] == "image" else p["text"] for p in turn["content"]],
        )
        for turn in turns
    ]


def bytes_of(image: dict[str, Any]) -> bytes:
    return image["bytes"] or Path(image["path"]).read_bytes()


def records_of(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".json":
        return json.loads(file.read_text("utf-8"))
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def load_llava_next(folder: Path, root: Path) -> list[Turns]:
    """LLaVA-NeXT's `make_supervised_data_module`: the files of a YAML, of each its first rows."""
    loaded = []
    for entry in yaml.safe_load((folder / "llava_next.yaml").read_text("utf-8"))["datasets"]:
        records = records_of(Path(entry["json_path"]))
        strategy, _, share = entry["sampling_strategy"].partition(":")
        assert strategy in ("all", "first")
        if share:
            records = records[: -(-int(share.rstrip("%")) * len(records) // 100)]  # its `ceil`
        loaded += [of_llava(record, root) for record in records]
    return loaded


def load_internvl(folder: Path) -> list[Turns]:
    """InternVL's `LazySupervisedDataset`: `repeat_time` below 1 takes the first rows."""
    loaded = []
    for entry in json.loads((folder / "internvl_meta.json").read_text("utf-8")).values():
        assert entry["annotation"].endswith("jsonl")
        lines = Path(entry["annotation"]).read_text("utf-8").splitlines()
        assert len(lines) == entry["length"]
        if entry["repeat_time"] < 1:
            lines = lines[: int(len(lines) * entry["repeat_time"])]
        loaded += [of_llava(json.loads(line), Path(entry["root"])) for line in lines]
    return loaded


def load_llama_factory(folder: Path, media_dir: Path) -> list[Turns]:
    """LLaMA-Factory's sharegpt converter, by `dataset_info.json`."""
    info = json.loads((folder / "dataset_info.json").read_text("utf-8"))["subset"]
    assert info["formatting"] == "sharegpt"
    tags, columns = info["tags"], info["columns"]
    loaded = []
    for record in records_of(folder / info["file_name"]):
        renamed = record | {"images": record.get(columns["images"])}
        turns = record[columns["messages"]]
        names = [turn[tags["role_tag"]] for turn in turns]
        names = names[1:] if names[0] == tags["system_tag"] else names
        assert names == [tags["user_tag"], tags["assistant_tag"]] * (len(names) // 2)
        keys = {"turns": columns["messages"], "role": tags["role_tag"], "text": tags["content_tag"]}
        loaded.append(of_messages(renamed, media_dir, **keys))
    return loaded


def load_swift(folder: Path, root_image_dir: Path) -> list[Turns]:
    """ms-swift's `MessagesPreprocessor` of the standard form."""
    return [of_messages(record, root_image_dir) for record in records_of(folder / "swift.jsonl")]


def load_energon(folder: Path, of: Callable[[dict[str, Any], Path], Turns]) -> list[Turns]:
    """Energon's `IJsonlReader`: samples by the offsets of the index, pictures by a file store."""
    entry = yaml.safe_load((folder / "energon.yaml").read_text("utf-8"))["splits"]["train"]
    file = (folder / entry["path"]).read_bytes()
    index = (folder / f"{entry['path']}.idx").read_bytes()
    offsets = [int.from_bytes(index[at : at + 8], "little") for at in range(0, len(index), 8)]
    assert offsets[-1] == len(file)
    root = Path(entry["aux"]["images"].removeprefix("filesystem://"))
    samples = [file[start:stop] for start, stop in itertools.pairwise(offsets)]
    return [of(json.loads(sample), root) for sample in samples]
