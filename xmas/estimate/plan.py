"""Which stages a goal will ask for, in an order in which they can run."""

from xmas.store import Stage


def stages(goal: Stage) -> list[Stage]:
    """Everything that `goal` needs, itself last, every stage once and after its inputs."""
    planned: dict[str, Stage] = {}  # by all they contain: without its files a stage has no key

    def visit(stage: Stage) -> None:
        if repr(stage) not in planned:
            for needed in stage.inputs():
                visit(needed)
            planned[repr(stage)] = stage

    visit(goal)
    return list(planned.values())
