"""The demo pool and its benchmark files: repeatable, whole, and nothing held out in the pool."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmas.cli.config import build
from xmas.data.readers.llava import LlavaRows
from xmas.demo import draw, instructions, pretraining
from xmas.demo.bench import WRITERS, DemoBench
from xmas.demo.bench_choice import MMBENCH_COLUMNS
from xmas.demo.bench_yes_no import MME_TASKS, pope
from xmas.demo.concepts import GLYPH_NAMES
from xmas.demo.glyphs import FAMILIES, concepts, drawings, family, glyphs
from xmas.demo.grammar import a, plural
from xmas.demo.material import COLOURS, DIGITS, SHADES, WORDS, material
from xmas.demo.pool import DemoPool
from xmas.demo.rows import SHARES, sizes
from xmas.evaluation.protocol import LETTER, SHORT
from xmas.store import Store
from xmas.training.starts.pretrained import Pretrained

STEPS = {"facts": 211, "claims": 199, "choices": 197, "reviews": 401}  # rows to pretrain on
SIZES = {"rows": 503, "captions": 97, "concepts": 61, **STEPS}
POOL = DemoPool(**SIZES)
BENCH = DemoBench(concepts=61, questions=40)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="module")
def pool(store: Store) -> Path:
    return store.get(POOL)


@pytest.fixture(scope="module")
def bench(store: Store) -> Path:
    return store.get(BENCH)


def truth(pool: Path) -> list[dict]:
    return [json.loads(line) for line in (pool / "truth.jsonl").read_text().splitlines()]


def scenes(pool: Path) -> Iterator[dict]:
    return (line["scene"] for line in truth(pool) if line["scene"] is not None)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "meta.json"
    }


# --- material ---


def test_every_thing_has_three_drawings_to_train_on_and_one_held_out() -> None:
    everything = concepts(len(glyphs()))
    assert len(everything) >= 160
    for name in everything:
        assert len(drawings(name, False)) >= 3, name
        assert len(drawings(name, True)) >= 1, name


def test_every_name_in_the_list_is_found_in_a_font() -> None:
    prefixes = {each.prefix for each in FAMILIES}
    for line in GLYPH_NAMES.replace("\n  ", " ").strip().splitlines():
        concept, names = line.split(": ")
        assert concept.isalpha()
        assert concept.islower()
        for name in names.split():
            prefix, _, bare = name.rpartition(":")
            assert prefix in prefixes | {""}
            assert any(
                glyph.name.startswith(bare) and prefix in ("", family(glyph.family).prefix)
                for glyph in glyphs()[concept]
            ), (concept, name)


def test_no_glyph_stands_for_two_things() -> None:
    owners: dict[tuple[str, int], str] = {}
    for concept, found in glyphs().items():
        for glyph in found:
            assert owners.setdefault((glyph.family, glyph.code), concept) == concept


def test_versions_of_a_font_are_on_one_side() -> None:
    sides: dict[str, set[bool]] = {}
    for each in FAMILIES:
        sides.setdefault(each.prefix, set()).add(each.held_out)
    assert all(len(side) == 1 for side in sides.values())
    assert set().union(*sides.values()) == {True, False}


def test_both_sides_share_names_and_no_drawing_shade_or_size() -> None:
    train, held_out = material(61, held_out=False), material(61, held_out=True)
    assert train.concepts == held_out.concepts
    for colour in SHADES:
        assert not set(train.shades(colour)) & set(held_out.shades(colour))
    assert not set(train.sizes(20, 52)) & set(held_out.sizes(20, 52))
    for kind, names in (("icon", train.concepts), ("digit", DIGITS), ("word", WORDS)):
        for name in names:
            ours, theirs = set(train.marks(kind, name)), set(held_out.marks(kind, name))
            assert ours, name
            assert theirs, name
            assert not ours & theirs, name


def test_a_number_of_things_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="1000 concepts asked for; between 12 and"):
        concepts(1000)


@pytest.mark.parametrize(
    ("one", "many"), [("bus", "buses"), ("battery", "batteries"), ("key", "keys"), ("fish", "fish")]
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


def test_articles() -> None:
    assert [a(it) for it in ("cat", "eye", "red eye", "orange fire")] == [
        "a cat",
        "an eye",
        "a red eye",
        "orange fire",
    ]


# --- scenes ---


@pytest.mark.parametrize("held_out", [False, True])
def test_everything_drawn_lies_inside_the_picture(held_out: bool) -> None:
    of, rng = material(61, held_out=held_out), np.random.default_rng(0)
    for number in range(300):
        kinds = (
            draw.one(of, draw.pick(of.concepts, rng), rng),
            draw.two(of, rng),
            draw.several(of, draw.pick(of.concepts, rng), 1 + number % 9, rng),
            draw.written(of, "digit", rng),
            draw.written(of, "word", rng),
        )
        for scene in (*kinds, draw.nearly(kinds[0], of, rng)):
            for item in scene.items:
                wide, high = draw.mask_of(item.mark, item.size).size
                assert 0 <= item.x <= draw.SIDE - wide, item
                assert 0 <= item.y <= draw.SIDE - high, item


def test_the_first_of_two_things_stands_where_the_relation_says() -> None:
    of, rng = material(61, held_out=False), np.random.default_rng(1)
    for _ in range(100):
        scene = draw.two(of, rng)
        first, second = scene.items
        assert first.name != second.name
        assert first.colour != second.colour
        if scene.relation == "left":
            assert first.x + draw.mask_of(first.mark, first.size).width <= second.x + 4
        else:
            assert first.y + draw.mask_of(first.mark, first.size).height <= second.y + 4


def test_spatial_answers_follow_from_the_scene() -> None:
    of, rng = material(61, held_out=False), np.random.default_rng(2)
    for _ in range(200):
        scene = draw.two(of, rng)
        first, second = (item.name for item in scene.items)
        there, back = {"left": ("left of", "right of"), "above": ("above", "below")}[scene.relation]
        facts = {(first, there, second), (second, back, first)}
        for turn in instructions.spatial(scene, rng):
            asked = turn.question.removesuffix("?")
            if turn.answer in ("Yes", "No"):
                words = asked.removeprefix("Is the ")
                for side in ("left", "right"):
                    words = words.replace(f" on the {side} side of ", f" {side} of ")
                said = next(side for side in (there, back) if f" {side} the " in words)
                claim = tuple(words.split(f" {said} the "))
                assert ((claim[0], said, claim[1]) in facts) == (turn.answer == "Yes")
            elif " or " not in asked:
                side, other = asked.removeprefix("What is ").split(" the ")
                assert (turn.answer, side, other) in facts


def test_claims_are_true_or_not_as_asked() -> None:
    of, rng = material(61, held_out=False), np.random.default_rng(3)
    named: Counter[str] = Counter()
    for number in range(300):
        scene = (
            draw.one(of, draw.pick(of.concepts, rng), rng),
            draw.two(of, rng),
            draw.written(of, ("digit", "word")[number % 2], rng),
        )[number % 3]
        item = scene.items[0]
        for true in (True, False):
            turn = instructions.claim(item, rng, true=true)
            said = turn.question.rstrip("?").split()[-1]
            assert said in COLOURS
            assert (said == item.colour) == true
            assert f"the {instructions.called(item)} " in turn.question
            assert turn.answer == ("Yes" if true else "No")
            named[said] += 1
    assert set(named) == set(COLOURS)


# --- pool ---


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    few = {name: count // 5 for name, count in SIZES.items()} | {"concepts": 61}
    one, again, other = (
        digests(Store(str(tmp_path / folder)).get(DemoPool(seed=seed, **few)))
        for folder, seed in (("one", 0), ("again", 0), ("one", 1))
    )
    assert one == again
    files = [name for name in one if name.endswith(".json")]
    assert len(files) == 6
    assert not [name for name in files if one[name] == other[name]]


def test_sources_have_the_sizes_they_should(pool: Path) -> None:
    examples = LlavaRows(pool / "pool.json", pool / "images")
    assert len(examples) == 503
    assert Counter(examples.sources.tolist()) == sizes(503)
    assert sum(SHARES.values()) == pytest.approx(1)
    assert (~examples.has_image).sum() == int(0.06 * 503)
    assert max(sizes(8000).values()) == 6 * min(sizes(8000).values())


def test_every_image_is_there_and_64_pixels_wide(pool: Path) -> None:
    for file in ("pool.json", "captions.json"):
        examples = LlavaRows(pool / file, pool / "images")
        for row in np.flatnonzero(examples.has_image):
            with Image.open(examples.images_of(int(row))[0]) as image:
                assert (image.size, image.mode) == ((64, 64), "RGB")


def test_ids_are_image_stems_and_collide(pool: Path) -> None:
    examples = LlavaRows(pool / "pool.json", pool / "images")
    records = [examples[row] for row in range(len(examples))]
    ids = Counter(record["id"] for record in records)
    assert max(ids.values()) > 1
    assert all(Path(it["image"]).stem == it["id"] for it in records if "image" in it)
    assert set().union(*records) == {"id", "image", "conversations"}


def test_suffix_and_image_stand_in_the_first_question_only(pool: Path) -> None:
    examples = LlavaRows(pool / "pool.json", pool / "images")
    for row in range(len(examples)):
        first, *later = examples.conversation(row)
        source = examples.sources[row]
        assert (SHORT in first[0]) == (source not in ("captioning", "choice", "text"))
        assert (LETTER in first[0]) == (source == "choice")
        assert not any(SHORT in asked or LETTER in asked for asked, _ in later)
        assert len(later) < 6


def test_nothing_held_out_is_in_the_pool(pool: Path) -> None:
    of = material(61, held_out=False)
    allowed = {
        (kind, mark.name, mark.style)
        for kind, names in (("icon", of.concepts), ("digit", DIGITS), ("word", WORDS))
        for name in names
        for mark in of.marks(kind, name)
    }
    for scene in scenes(pool):
        drawn = zip(scene["names"], scene["styles"], strict=True)
        assert {(scene["kind"], *each) for each in drawn} <= allowed
        for colour, shade in zip(scene["colours"], scene["shades"], strict=True):
            assert shade in of.shades(colour)
        assert scene["background"] in of.backgrounds()
        assert all(size % 4 == 0 for size in scene["sizes"])


def test_truth_names_what_was_repeated(pool: Path) -> None:
    rows, examples = truth(pool), LlavaRows(pool / "pool.json", pool / "images")
    copies = [row for row in rows if row["copy_of"] is not None]
    again = [row for row in rows if row["asked_again_of"] is not None]
    assert len(copies) > 30
    assert len(again) > 5
    for row in copies:
        assert row["scene"]["styles"] == rows[row["copy_of"]]["scene"]["styles"]
    for row in again:
        assert examples.images_of(row["row"])[0] == examples.images_of(row["asked_again_of"])[0]


def test_yes_and_no_are_balanced(pool: Path) -> None:
    examples = LlavaRows(pool / "pool.json", pool / "images")
    said = Counter(
        answer for row in range(len(examples)) for _, answer in examples.conversation(row)
    )
    asked = said["Yes"] + said["No"]
    assert abs(said["Yes"] - said["No"]) < 3 * asked**0.5  # three standard deviations of a coin's


def test_captions_are_pretraining_pairs_that_name_what_is_drawn(pool: Path) -> None:
    pairs = json.loads((pool / "captions.json").read_text())
    assert len(pairs) == 97
    names = {*concepts(61), *map(plural, concepts(61)), *DIGITS, *WORDS}
    for pair in pairs:
        human, gpt = pair["conversations"]
        assert human == {"from": "human", "value": "<image>"}
        assert gpt["from"] == "gpt"
        assert set(gpt["value"].split()) & names
    assert len({pair["image"] for pair in pairs}) == 97
    coloured = [any(it in pair["conversations"][1]["value"] for it in COLOURS) for pair in pairs]
    assert np.mean(coloured) > 0.8


@pytest.fixture(scope="module")
def pretrained(pool: Path) -> dict[str, list[dict]]:
    return {kind: json.loads((pool / f"{kind}.json").read_text()) for kind in STEPS}


@pytest.fixture(scope="module")
def captions(pool: Path) -> dict[str, str]:
    """By image."""
    return {
        pair["image"]: pair["conversations"][1]["value"]
        for pair in json.loads((pool / "captions.json").read_text())
    }


def asked(row: dict, captions: dict[str, str]) -> tuple[str, list[tuple[list[str], str]]]:
    """What a row is about, in words, and its turns: lines of the question, answer."""
    values = [said["value"] for said in row["conversations"]]
    questions = [question.split("\n") for question in values[::2]]
    described = questions[0].pop(0)
    assert (described == "<image>") == ("image" in row)
    about = captions[row["image"]] if "image" in row else described
    return about, list(zip(questions, values[1::2], strict=True))


def kind_of(lines: list[str], answer: str) -> str:
    if any(line.startswith("A. ") for line in lines):
        return "choice"
    if lines[0].startswith(("Describe", "What is in")):
        return "caption"
    if answer in ("Yes", "No"):
        return "there" if lines[0].startswith("Is there something") else "claim"
    return "colour" if answer in COLOURS else "other"


def share_of(kind: str, step: str) -> float:
    """Of the rows of a step; until the reviews, drawings are asked for facts alone."""
    drawn = pretraining.SHARES["reviews" if step == "reviews" else "facts"].get(kind, 0)
    in_words = pretraining.IN_WORDS[step]
    return in_words * pretraining.SHARES[step].get(kind, 0) + (1 - in_words) * drawn


def test_a_step_has_the_rows_in_words_and_the_kinds_that_are_set(pretrained, captions) -> None:
    """Each share within four standard deviations of a coin's."""
    for step, count in STEPS.items():
        rows = pretrained[step]
        assert len(rows) == len({row["id"] for row in rows}) == count
        assert any("image" in row for row in rows)  # a fit refuses text alone
        in_words = np.mean(["image" not in row for row in rows])
        assert in_words == pytest.approx(pretraining.IN_WORDS[step], abs=2 / count**0.5)
        kinds = Counter(
            kind_of(*turn) for row in rows for turn in asked(row, captions)[1]
        )  # of a pair, the colour is one of two turns
        assert sum(pretraining.SHARES[step].values()) == pytest.approx(1)
        for kind in ("caption", "there", "claim", "choice"):
            share, expected = kinds[kind] / count, share_of(kind, step)
            if step == "reviews" and kind in ("claim", "choice"):
                # those about drawings of other than single things ask for any colour
                assert 0 < share < expected + 2 / count**0.5
            elif step == "reviews" and kind == "there":
                assert share > expected - 2 / count**0.5
            else:
                assert share == pytest.approx(expected, abs=2 / count**0.5 if expected else 0)


def test_what_is_pretrained_on_can_be_read_off_caption_or_drawing(pretrained, captions) -> None:
    """And Yes is as frequent as No."""
    truths: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    names = {*concepts(61), *map(plural, concepts(61)), *DIGITS, *WORDS}
    for rows in pretrained.values():
        for row in rows:
            about, turns = asked(row, captions)
            words = about.split()
            tints = set(words) & set(COLOURS)
            for lines, answer in turns:
                kind = kind_of(lines, answer)
                if kind in ("there", "claim"):
                    (tint,) = set(lines[0].rstrip("?").split()) & set(COLOURS)
                    truths[answer] += 1
                    if tints:  # not every caption says the colour
                        assert (tint in tints) == (answer == "Yes"), row
                    assert kind == "there" or set(lines[0].split()) & {*words, "digit", "word"}
                elif kind == "choice":
                    offered = {line[0]: line[3:] for line in lines if line[1:3] == ". "}
                    assert list(offered) == list("ABCD"[: len(offered)])
                    assert len(set(offered.values())) == len(offered) in (2, 3, 4)
                    assert offered[answer] in tints
                    assert len(set(offered.values()) & tints) == 1
                    letters[answer] += 1
                elif kind == "caption":
                    assert set(answer.split()) & set(words) & names
                elif kind == "colour":
                    assert not tints or answer in tints, row
                elif answer.isdigit() and lines[0].startswith(("How many", "What is the number")):
                    assert instructions.NUMBERS[int(answer)] in words
                else:
                    assert answer in words, row
    yes, no = truths["Yes"], truths["No"]
    assert abs(yes - no) < 4 * (yes + no) ** 0.5
    assert letters["A"] > letters["C"] > 0
    assert letters["B"] > letters["D"] > 0


def test_rows_in_words_are_about_one_thing_and_its_colour(pretrained) -> None:
    for rows in pretrained.values():
        for row in rows:
            if "image" in row:
                continue
            words = row["conversations"][0]["value"].split("\n")[0].split()
            assert len(set(words) & set(COLOURS)) == 1
            assert len(set(words) & set(concepts(61))) == 1


def test_a_row_of_pretraining_has_one_turn_or_a_pair_of_facts(pretrained) -> None:
    for step, rows in pretrained.items():
        turns = Counter(len(row["conversations"]) // 2 for row in rows)
        pairs = share_of("pair", step)
        assert set(turns) == ({1, 2} if pairs else {1})
        assert turns[2] / len(rows) == pytest.approx(pairs, abs=2 / len(rows) ** 0.5)


def test_steps_do_not_change_each_other(pool: Path, tmp_path: Path) -> None:
    """So that more rows of one step leave the other steps', and the captions, as they are."""
    few = DemoPool(**SIZES | {"rows": 19, "claims": 7, "choices": 0})
    made = Store(str(tmp_path)).get(few)
    rows = {name: json.loads((made / f"{name}.json").read_text()) for name in STEPS}
    assert [len(rows[step]) for step in STEPS] == [STEPS["facts"], 7, 0, STEPS["reviews"]]
    assert rows["claims"] == json.loads((pool / "claims.json").read_text())[:7]
    for name in ("captions", "facts", "reviews"):
        assert (made / f"{name}.json").read_bytes() == (pool / f"{name}.json").read_bytes()


def test_the_configuration_trains_on_every_step_in_order(compose) -> None:
    cfg = compose()
    start, files = build(cfg.start), []
    while isinstance(start, Pretrained):
        files.insert(0, start.pool.annotations.name)
        start = start.start
    assert files == [f"{step}.json" for step in pretraining.SHARES]
    assert start == build(cfg.untrained)
    assert start.towers.captions.annotations.name == "captions.json"


# --- benchmark files ---


def test_a_folder_for_every_benchmark_and_the_same_bytes_again(bench: Path, tmp_path: Path) -> None:
    assert {path.name for path in bench.iterdir() if path.is_dir()} == set(WRITERS)
    assert digests(Store(str(tmp_path)).get(BENCH)) == digests(bench)


@pytest.mark.parametrize(
    ("file", "images", "count"),
    [
        ("gqa/llava_gqa_testdev_balanced.jsonl", "gqa/images", 80),
        ("pope/llava_pope_test.jsonl", "pope/images", 120),
        ("mme/llava_mme.jsonl", "mme/MME_Benchmark_release_version", 80),
        ("vizwiz_val/llava_val.jsonl", "vizwiz_val/val", 13),
        ("textvqa/llava_textvqa_val_v051_ocr.jsonl", "textvqa/train_images", 12),
        ("llava_wild/questions.jsonl", "llava_wild/images", 6),
        ("mmvet/llava-mm-vet.jsonl", "mmvet/images", 8),
    ],
)
def test_question_files_have_llavas_columns_and_their_images(
    bench: Path, file: str, images: str, count: int
) -> None:
    rows = lines(bench / file)
    assert len(rows) == count
    for row in rows:
        assert set(row) == {"question_id", "image", "text", "category"}
        assert (bench / images / row["image"]).is_file()
        assert row["text"].endswith(SHORT) == ("wild" not in file and "vet" not in file)


def test_gqa_has_a_typed_truth_for_every_question(bench: Path) -> None:
    known = json.loads((bench / "gqa" / "testdev_balanced_questions.json").read_text())
    asked = lines(bench / "gqa" / "llava_gqa_testdev_balanced.jsonl")
    assert {row["question_id"] for row in asked} == set(known)
    for row in asked:
        found = known[row["question_id"]]
        assert row["text"] == found["question"] + SHORT
        assert found["answer"] == found["answer"].lower()
        assert found["imageId"] + ".png" == row["image"]
        assert set(found["types"]) == {"structural", "semantic", "detailed"}


def test_pope_is_balanced_in_every_category_and_labels_join(bench: Path) -> None:
    asked = lines(bench / "pope" / "llava_pope_test.jsonl")
    for category in ("adversarial", "popular", "random"):
        labels = lines(bench / "pope" / "coco" / f"coco_pope_{category}.json")
        assert Counter(row["label"] for row in labels) == {"yes": 20, "no": 20}
        ours = [row for row in asked if row["category"] == category]
        assert [row["question_id"] % 10_000_000 for row in ours] == [
            row["question_id"] for row in labels
        ]
        assert [row["text"] for row in ours] == [row["text"] + SHORT for row in labels]


@pytest.mark.parametrize("count", [1, 6, 13])
def test_pope_of_few_questions_asks_for_other_absent_things(tmp_path: Path, count: int) -> None:
    """With one picture, all popular things are in it."""
    of = material(61, held_out=True)
    pope(tmp_path, of, count, np.random.default_rng([0, 1001]))
    for category in ("adversarial", "popular", "random"):
        labels = lines(tmp_path / "coco" / f"coco_pope_{category}.json")
        assert len(labels) == 4 * max(1, count // 4)
        assert Counter(row["label"] for row in labels) == dict.fromkeys(
            ("yes", "no"), len(labels) // 2
        )
        asked = [(row["image"], row["text"]) for row in labels]
        assert len(set(asked)) == len(asked)


def test_mme_asks_two_questions_of_every_image_one_of_them_true(bench: Path) -> None:
    asked = lines(bench / "mme" / "llava_mme.jsonl")
    assert Counter(row["category"] for row in asked) == dict.fromkeys(MME_TASKS, 16)
    release = bench / "mme" / "MME_Benchmark_release_version"
    for row in asked:
        known = (release / row["image"]).with_suffix(".txt").read_text().splitlines()
        official = row["text"].removesuffix(SHORT) + " Please answer yes or no."
        assert official in [line.split("\t")[0] for line in known]
        assert sorted(line.split("\t")[1] for line in known) == ["No", "Yes"]


@pytest.mark.parametrize("name", ["mmbench", "mmbench_cn"])
def test_mmbench_rotates_the_options_of_every_question(bench: Path, name: str) -> None:
    (file,) = (bench / name).glob("*.tsv")
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened, delimiter="\t"))
    assert list(rows[0]) == MMBENCH_COLUMNS
    groups: dict[int, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(int(row["index"]) % 1_000_000, []).append(row)
    for group in groups.values():
        listed = [row[letter] for row in group[:1] for letter in "ABCD" if row[letter]]
        assert len(group) == len(listed)
        assert len({row[row["answer"]] for row in group}) == 1
        assert len({row["answer"] for row in group}) == len(group)


def test_ten_people_answered_and_most_agree(bench: Path) -> None:
    for file, listed in (
        ("textvqa/TextVQA_0.5.1_val.json", "data"),
        ("vqav2_val/v2_mscoco_val2014_annotations.json", "annotations"),
        ("vizwiz_val/val.json", None),
    ):
        found = json.loads((bench / file).read_text())
        unanimous = 0
        for row in found if listed is None else found[listed]:
            answers = [it if isinstance(it, str) else it["answer"] for it in row["answers"]]
            assert len(answers) == 10
            assert Counter(answers).most_common(1)[0][1] >= 7
            unanimous += len(set(answers)) == 1
        assert 0 < unanimous < len(found if listed is None else found[listed])


def test_vqav2_questions_truth_and_images_agree(bench: Path) -> None:
    root = bench / "vqav2_val"
    asked = lines(root / "llava_vqav2_mscoco_val2014.jsonl")
    official = json.loads((root / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())
    known = json.loads((root / "v2_mscoco_val2014_annotations.json").read_text())
    ids = [row["question_id"] for row in asked]
    assert ids == [row["question_id"] for row in official["questions"]]
    assert ids == [row["question_id"] for row in known["annotations"]]
    for row, question in zip(asked, official["questions"], strict=True):
        assert row["image"] == f"COCO_val2014_{question['image_id']:012d}.jpg"
        assert (root / "val2014" / row["image"]).is_file()


def test_vizwiz_has_pictures_that_cannot_be_answered(bench: Path) -> None:
    known = json.loads((bench / "vizwiz_val" / "val.json").read_text())
    assert Counter(row["answerable"] for row in known) == {1: 11, 0: 2}


def test_sqa_problems_and_llavas_file_agree(bench: Path) -> None:
    root = bench / "sqa"
    problems = json.loads((root / "problems.json").read_text())
    assert json.loads((root / "pid_splits.json").read_text())["demo"] == list(problems)
    asked = json.loads((root / "llava_test_CQM-A.json").read_text())
    assert [row["id"] for row in asked] == list(problems)
    for row in asked:
        problem, (human, gpt) = problems[row["id"]], row["conversations"]
        assert ("image" in row) == ("<image>" in human["value"]) == bool(problem["image"])
        assert "image" not in row or (root / "images" / row["image"]).is_file()
        letter = "ABCDE"[problem["answer"]]
        assert f"\n{letter}. {problem['choices'][problem['answer']]}" in human["value"]
        assert gpt["value"] == f"The answer is {letter}."


def test_references_of_the_open_benchmarks_say_whose_they_are(bench: Path) -> None:
    root = bench / "llava_wild"
    references = lines(root / "answers_gpt4.jsonl")
    assert [row["question_id"] for row in references] == list(range(6))
    assert {row["model_id"] for row in references} == {"xmas.demo"}
    assert {row["image"] for row in lines(root / "context.jsonl")} == {"001.png", "002.png"}
    assert "made from the" in (root / "README.md").read_text()
    assert len(json.loads((bench / "mmvet" / "mm-vet.json").read_text())) == 8
