"""Peak memory of opening, tokenising and planning a pool, against its number of rows.

    python experiments/extraction/memory.py --rows 10000 100000 665298 --tokenizer FOLDER

Writes LLaVA-like annotation files (1.5 kB a row: 1 GB at 665,298, as LLaVA-665k) to a temporary
folder. Each step runs in a separate child process, whose `ru_maxrss` is read when it has ended;
imports alone are a step too. Model passes are left out: they see one unit of the plan at a time,
and a test of the engine runs them. For comparison: `json.load`, and Hugging Face `datasets` where
it is installed.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import Process
from pathlib import Path
from typing import Any

import numpy as np

WORDS = (
    "the a of on in with and man woman dog red table street image left right sitting holding small "
    "large white there are two three people near building behind what is color where visible"
).split()
ROUND_BYTES = 270.0  # mean of a question with its answer, log-normal


def words_of(tokenizer: Path) -> list[str]:
    """The words that a byte-level BPE knows whole, the likeliest first, as it has merged them."""
    pieces = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    known = sorted((number, piece[1:]) for piece, number in pieces.items() if piece[0] == "Ġ")
    return [word for _, word in known if word.isascii() and word.isalpha()]


def write_pool(path: Path, rows: int, words: Sequence[str] = WORDS, seed: int = 0) -> None:
    """Conversations of two to eight rounds; 6 % text-only; 1.8 rows a picture; words by Zipf."""
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, len(words) + 1)
    text = " ".join(rng.choice(words, 200_000, p=shares / shares.sum()))
    pictures = max(1, round(rows * 0.94 / 1.8))
    with path.open("w") as file:
        file.write("[")
        for row in range(rows):
            turns = []
            textual = rng.random() < 0.06
            for number in range(1 + min(7, int(rng.geometric(0.27)))):
                size = rng.lognormal(np.log(ROUND_BYTES) - 0.32, 0.8, 2).astype(int) // 2 + 5
                start = int(rng.integers(0, len(text) - size.sum()))
                asked = text[start : start + size[0]]
                opening = "<image>\n" if number == 0 and not textual else ""
                turns += [
                    {"from": "human", "value": opening + asked},
                    {"from": "gpt", "value": text[start + size[0] : start + size.sum()]},
                ]
            record = {"id": f"{row:012d}", "conversations": turns}
            if not textual:
                picture = int(rng.integers(pictures))
                record["image"] = f"coco/train2017/{picture:012d}.jpg"
            file.write(",\n" * (row > 0) + json.dumps(record))
        file.write("]")


def imports(folder: Path) -> object:
    import xmas.attention.engine
    import xmas.data.pool

    return xmas.attention.engine, xmas.data.pool


def opened(folder: Path) -> Any:
    from xmas.data.pool import Pool

    return Pool(str(folder / "pool.json"), str(folder)).open()


def tokenised(folder: Path) -> Any:
    from transformers import AutoTokenizer

    from xmas.data.pool import Pool
    from xmas.models.chat.template import Template
    from xmas.models.chat.tokens import Tokenised
    from xmas.store import Store

    place = str(folder / "tokenizer")
    template = Template(eos=AutoTokenizer.from_pretrained(place).eos_token)
    pool = Pool(str(folder / "pool.json"), str(folder))
    return Tokenised(pool, place, template).open(Store(str(folder / "store")))


def planned(folder: Path) -> object:
    """Pool, token table, reasons, the plan with all its units, and the tokens of every unit.

    The tokens are drawn, one for four bytes of a record: what a tokenizer says of them is the
    other step, and would take the longest by far.
    """
    from xmas.attention.feed import Feed
    from xmas.attention.metric import Spectra
    from xmas.attention.plan import plan
    from xmas.attention.reasons import reasons
    from xmas.attention.spans import Spans
    from xmas.models.chat.layout import Fixed
    from xmas.models.chat.tokens import TokenTable

    pool = opened(folder)
    _draw_tokens(folder, pool)
    table = TokenTable(folder, Fixed(576))
    spans = Spans.of(table, pool.shown)
    measured = reasons(table, spans, Spectra(rows="answer_only")) == 0
    made = plan(spans, measured, batch_tokens=32768, shard_rows=4096, shared_from=0.05)
    feed = Feed(table, spans, lambda rows: {}, image_token=1999, pad=0)
    units = [unit for shard in range(made.shards) for unit in made.units(shard)]
    tokens = sum(text.ids.numel() for loaded in feed(units) for text in loaded.texts)
    print(f"  {made.shards} shards, {len(units)} units, {tokens:,} padded text tokens")
    return units


def _draw_tokens(folder: Path, pool: Any) -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([len(pool.raw(row)) // 4 for row in range(len(pool))])
    np.save(folder / "answered.npy", np.ones(len(lengths), dtype=bool))
    np.save(folder / "offsets.npy", np.r_[0, np.cumsum(lengths)])
    np.save(folder / "image_at.npy", np.where(pool.has_image, 31, -1).astype(np.int32))
    np.save(folder / "image_lengths.npy", 576 * pool.has_image.astype(np.int32))
    np.save(folder / "image_sizes.npy", np.zeros((len(lengths), 2), dtype=np.int32))
    with (folder / "ids.bin").open("wb") as ids, (folder / "labelled.bin").open("wb") as labelled:
        for length in lengths.tolist():
            held = rng.integers(0, 1999, length, dtype=np.int32)
            held[:31] = np.arange(31)
            ids.write(held.tobytes())
            labelled.write((held % 2 > 0).tobytes())


def json_load(folder: Path) -> object:
    return json.loads((folder / "pool.json").read_text())


def hf_datasets(folder: Path) -> object:
    import datasets

    return datasets.load_dataset(
        "json", data_files=str(folder / "pool.json"), cache_dir=str(folder / "hf"), split="train"
    )


STEPS: dict[str, Callable[[Path], object]] = {
    "imports alone": imports,
    "opened": opened,
    "tokenised": tokenised,
    "planned and fed": planned,
    "`json.load`": json_load,
    "`datasets`": hf_datasets,
}


def train_tokenizer(folder: Path) -> None:
    """A byte-level one of 2,000 tokens, in Hugging Face's format."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([" ".join(WORDS)] * 50, 2000, special_tokens=["<s>", "</s>"])
    PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)


def prepare(folder: Path, rows: int, tokenizer: Path | None) -> None:
    """A pool and a tokenizer."""
    if tokenizer is None:
        train_tokenizer(folder / "tokenizer")
        return write_pool(folder / "pool.json", rows)
    shutil.copytree(tokenizer, folder / "tokenizer")
    return write_pool(folder / "pool.json", rows, words_of(tokenizer))


def peak(step: str, folder: Path) -> tuple[float, float, float]:
    """Peak GB of a child process that runs this step, its anonymous GB at the end, CPU seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            held = STEPS[step](folder)
            status = Path("/proc/self/status").read_text().splitlines()
            own = [line.split()[1] for line in status if line.startswith("RssAnon")]
            os.write(writer, (own or ["0"])[0].encode())
            del held
            os._exit(0)
        except BaseException as error:
            print(f"  {step}: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    _, status, usage = os.wait4(child, 0)
    os.close(writer)
    own = float(os.read(reader, 99) or 0) * 1024 / 1e9
    os.close(reader)
    if status:
        return float("nan"), float("nan"), float("nan")
    return usage.ru_maxrss * 1024 / 1e9, own, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 665_298])
    parser.add_argument("--tokenizer", type=Path, help="a folder; else one is trained")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--tiny", action="store_true", help="a few rows, to see that it runs")
    args = parser.parse_args()
    if args.tiny:
        args.rows, args.steps = [40], [step for step in STEPS if step != "`datasets`"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(f"Python {platform.python_version()}, {platform.machine()}")
    print("| rows | file | step | peak GB | at its end, without files | seconds |")
    print("|---|---|---|---|---|---|", flush=True)
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            child = Process(target=prepare, args=(folder, rows, args.tokenizer))
            child.start()  # what it imports must not count for the steps
            child.join()
            file = (folder / "pool.json").stat().st_size / 1e6
            for step in args.steps:
                held, own, seconds = peak(step, folder)
                if args.tiny and np.isnan(held):
                    raise SystemExit(f"{step}: failed")  # a large one may be out of memory
                print(
                    f"| {rows:,} | {file:.0f} MB | {step} | {held:.2f} | {own:.2f} "
                    f"| {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
