"""Articles and plurals of the things that are drawn."""

# Not countable, and without an article.
NO_ARTICLE = frozenset("cutlery rain wind fire lightning wine wifi".split())
ODD_PLURALS = {
    "dice": "dice",
    "fish": "fish",
    "mouse": "mice",
    "knife": "knives",
    "leaf": "leaves",
    "person": "people",
}


def plural(thing: str) -> str:
    """The plural of a thing's name."""
    if thing in ODD_PLURALS:
        return ODD_PLURALS[thing]
    if thing.endswith(("s", "x", "ch", "sh")):
        return thing + "es"
    if thing.endswith("y") and thing[-2] not in "aeiou":
        return thing[:-1] + "ies"
    return thing + "s"


def a(described: str) -> str:
    """`described`, a name with or without a colour before it, with its article if it takes one."""
    if described.split()[-1] in NO_ARTICLE:
        return described
    return ("an " if described[0] in "aeiou" else "a ") + described
