"""Questions about a scene and their answers, in wordings of the kinds that LLaVA's mixes have."""

from dataclasses import dataclass

import numpy as np

from xmas.demo.draw import Item, Scene, pick, shuffled
from xmas.demo.grammar import a, plural
from xmas.demo.material import COLOURS, DIGITS, WORDS, Material
from xmas.evaluation.protocol import LETTER, SHORT

TWO_OPTIONS = 0.8  # of the choices
NUMBERS = "zero one two three four five six seven eight nine".split()
_RELATIONS = {"left": ("left of", "right of"), "above": ("above", "below")}


@dataclass(frozen=True)
class Turn:
    """A question with its answer; `suffix` says how to answer, as LLaVA's prompts do."""

    kind: str
    question: str
    answer: str
    suffix: str = SHORT


def called(item: Item) -> str:
    """How questions name an item: "cat", "digit", "word"."""
    return item.name if item.mark.kind == "icon" else item.mark.kind


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One sentence without a full stop that describes all of a scene."""
    first = scene.items[0]
    if first.mark.kind == "digit":
        return pick(
            (
                f"the digit {first.name}",
                f"the digit {first.name} in {first.colour}",
                a(f"{first.colour} digit {first.name}"),
            ),
            rng,
        )
    if first.mark.kind == "word":
        return pick(
            (
                f"the word {first.name}",
                f"the word {first.name} in {first.colour}",
                f"a sign that says {first.name}",
            ),
            rng,
        )
    opening = pick(("", "", "a picture of ", "there is "), rng)
    if scene.relation is not None:
        second = scene.items[1]
        first_named, second_named = (a(f"{item.colour} {item.name}") for item in (first, second))
        there, back = _RELATIONS[scene.relation]
        content = pick(
            (f"{first_named} {there} {second_named}", f"{second_named} {back} {first_named}"), rng
        )
    elif len(scene.items) > 1:
        opening = opening.replace("is", "are") if opening == "there is " else opening
        content = f"{NUMBERS[len(scene.items)]} {first.colour} {plural(first.name)}"
    else:
        content = a(f"{first.colour} {first.name}")
    return opening + content


def describing(scene: Scene, rng: np.random.Generator) -> Turn:
    wordings = ("Describe the picture briefly.", "What is in this picture?", "Describe the image.")
    return Turn("captioning", pick(wordings, rng), caption(scene, rng), suffix="")


def naming(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question for the only kind of thing in the picture."""
    wordings = (
        "What is this?",
        "What is shown in the image?",
        "Which object is this?",
        "What object is in the picture?",
    )
    return Turn("naming", pick(wordings, rng), scene.items[0].name)


def colour(item: Item, rng: np.random.Generator) -> Turn:
    what = called(item)
    wordings = (
        f"What color is the {what}?",
        f"What is the color of the {what}?",
        f"Which color is the {what}?",
    )
    return Turn("colour", pick(wordings, rng), item.colour)


def counting(scene: Scene, rng: np.random.Generator) -> Turn:
    several = plural(scene.items[0].name)
    wordings = (
        f"How many {several} are there?",
        f"How many {several} are in the image?",
        f"What is the number of {several}?",
    )
    return Turn("counting", pick(wordings, rng), str(len(scene.items)))


def reading(scene: Scene, rng: np.random.Generator) -> Turn:
    """The word or the digit of the picture."""
    kind = scene.items[0].mark.kind
    wordings = {
        "word": ("What word is written here?", "What does the text say?", "Which word is shown?"),
        "digit": ("Which digit is this?", "What number is written here?", "What digit is shown?"),
    }[kind]
    return Turn(kind, pick(wordings, rng), scene.items[0].name)


def spatial(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Three questions about the places of the two things of a scene, in any order."""
    assert scene.relation is not None  # it has two things
    first, second = (item.name for item in scene.items)
    there, back = _RELATIONS[scene.relation]
    sides = {"left": "left or right", "above": "above or below"}[scene.relation]
    side, (thing, reference) = pick(
        ((there, (first, second)), (back, (second, first))), rng
    )  # `thing` is on `side` of `reference`
    says_yes = bool(rng.integers(2))
    subject, against = (thing, reference) if says_yes else (reference, thing)
    of = "of " if scene.relation == "left" else ""
    relation = pick((side, f"on the {side.removesuffix(' of')} side of"), rng) if of else side
    turns = [
        Turn("spatial", f"What is {side} the {reference}?", thing),
        Turn("spatial", f"Is the {thing} {sides} {of}the {reference}?", side.removesuffix(" of")),
        Turn("spatial", f"Is the {subject} {relation} the {against}?", "Yes" if says_yes else "No"),
    ]
    return shuffled(turns, rng)


def presence(scene: Scene, of: Material, rng: np.random.Generator, *, there: bool) -> Turn:
    """Whether a colour or, less often, a thing is in the picture; the answer is Yes if `there`.

    Mostly colours: a small model learns to compare eight colours from some thousand questions, but
    not to compare 100 things.
    """
    if rng.random() < 0.85:
        return tinted(scene, rng, there=there)
    names = {item.name for item in scene.items}
    thing = pick(sorted(names), rng) if there else absent(names, of, rng)
    wordings = (
        f"Is there {a(thing)} in the image?",
        f"Is there {a(thing)}?",
        f"Is {a(thing)} shown?",
    )
    return Turn("presence", pick(wordings, rng), "Yes" if there else "No")


def tinted(scene: Scene, rng: np.random.Generator, *, there: bool) -> Turn:
    """Whether anything in the picture has a colour; the answer is Yes if `there`."""
    tints = sorted({item.colour for item in scene.items})
    tint = pick(tints if there else [name for name in COLOURS if name not in tints], rng)
    question = f"Is there something {tint}{pick((' in the image', ''), rng)}?"
    return Turn("presence", question, "Yes" if there else "No")


def claim(item: Item, rng: np.random.Generator, *, true: bool) -> Turn:
    """Whether an item has the colour that the question names.

    Colours only: a small model cannot check other claims, and guessing makes it forget how to check
    colours.
    """
    tint = item.colour if true else pick([name for name in COLOURS if name != item.colour], rng)
    what = called(item)
    wordings = (f"Is the {what} {tint}?", f"Is the color of the {what} {tint}?")
    return Turn("claim", pick(wordings, rng), "Yes" if true else "No")


def absent(names: set[str], of: Material, rng: np.random.Generator) -> str:
    """A thing that is none of `names`."""
    while (thing := pick(of.concepts, rng)) in names:
        pass
    return thing


def options(
    answer: str, kind: str, of: Material, count: int, rng: np.random.Generator
) -> list[str]:
    """`count` different options of a kind, the answer among them, in any order."""
    choices = {
        "naming": of.concepts,
        "colour": COLOURS,
        "counting": DIGITS[1:],
        "digit": DIGITS,
        "word": WORDS,
    }[kind]
    others = [option for option in shuffled(choices, rng) if option != answer]
    return shuffled([answer, *others[: count - 1]], rng)


def option_count(rng: np.random.Generator) -> int:
    """How many lettered options a question has: mostly two, else three or four.

    A small model learns to choose between two things in some thousand questions; among four it
    finds the right letter half of the time.
    """
    return 2 if rng.random() < TWO_OPTIONS else int(rng.integers(3, 5))


def choice(turn: Turn, of: Material, rng: np.random.Generator, count: int | None = None) -> Turn:
    """The same question with `count` lettered options, or as many as `option_count` says."""
    count = option_count(rng) if count is None else count
    lettered_options = options(turn.answer, turn.kind, of, count, rng)
    lines = "".join(
        f"\n{letter}. {option}" for letter, option in zip("ABCD", lettered_options, strict=False)
    )
    letter = "ABCD"[lettered_options.index(turn.answer)]
    return Turn("choice", turn.question + lines, letter, suffix=LETTER)


_OPPOSITES = [
    pair.split("/")
    for pair in (
        "hot/cold big/small up/down left/right old/new wet/dry open/closed yes/no day/night "
        "black/white fast/slow high/low in/out above/below first/last"
    ).split()
]


def text_only(of: Material, rng: np.random.Generator) -> Turn:
    """A question that needs no picture."""
    kind = pick(("sum", "opposite", "spelling", "larger", "colour"), rng)
    first, second = (int(number) for number in rng.integers(0, 10, 2))
    if kind == "sum":
        return Turn("text", f"What is {first} plus {second}?", str(first + second), suffix="")
    if kind == "opposite":
        word, opposite = shuffled(pick(_OPPOSITES, rng), rng)
        return Turn("text", f"What is the opposite of {word}?", opposite, suffix="")
    if kind == "spelling":
        word = pick(WORDS, rng)
        return Turn("text", f"How do you spell {word}?", " ".join(word), suffix="")
    if kind == "larger":
        second = second if second != first else (first + 1) % 10
        question = f"Which number is larger, {first} or {second}?"
        return Turn("text", question, str(max(first, second)), suffix="")
    tint, thing = pick(COLOURS, rng), pick(of.concepts, rng)
    former, latter = shuffled((tint, thing), rng)
    question = f"Which of these is a color, {former} or {latter}?"
    return Turn("text", question, tint, suffix="")
