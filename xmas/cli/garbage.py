"""No garbage is collected while a command imports and composes: a million objects, and no garbage.

Looking for it all the same is two fifths of the seconds of a command whose result is there.
"""

import gc


def pause() -> None:
    """Collect none until `resume`."""
    gc.disable()


def resume() -> None:
    """Collect garbage again, but never look through what has been imported.

    Nothing is done where garbage is collected: what the jobs of a sweep leave is not kept.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
