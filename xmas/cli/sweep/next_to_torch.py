"""Import what jobs with torch need, once before they are forked; without torch, nothing.

The server of the jobs imports this last, after the classes that their goals name.
"""

import sys

if "torch" in sys.modules:  # GPUs are left alone
    import xmas.estimate  # of the time left
    import xmas.evaluation.scores  # noqa: F401
