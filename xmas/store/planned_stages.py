"""The stages that a goal will ask for, in an order in which they can run."""

from xmas.store.stage import Stage


def planned_stages(goal: Stage) -> list[Stage]:
    """Everything that `goal` needs, every stage once and after its inputs, the goal last.

    It follows `Stage.inputs`, so a stage that is only held in a field is not planned.
    """
    planned: dict[str, Stage] = {}  # by all they contain: without its files a stage has no key

    def visit(stage: Stage) -> None:
        if repr(stage) not in planned:
            for needed in stage.inputs():
                visit(needed)
            planned[repr(stage)] = stage

    visit(goal)
    return list(planned.values())
