"""PaliGemma and PaliGemma 2, which are refused, and why.

Their own forward sees a question in both directions and its answer in one. The generic path would
run it, with answers that the tokens before them see.
"""

REFUSED = {
    "paligemma": (
        "a paligemma attends to a question in both directions and to its answer in one, so that "
        "every attention depends on where the only question of a row ends: it has no turns and no "
        "chat template, and rows of several turns, as instruction pools have, cannot be measured "
        "on it or train it"
    )
}
